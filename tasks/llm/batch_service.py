"""Files and batches of an OpenAI-style service: upload, create, find, look at, download, cancel.

A call ends in one of three ways: it succeeds; the service refuses it (`BatchRefused`: certainly not carried out); or
nothing is known about it (`BatchUnclear`: it may have been carried out, and its reply was lost). Creating a batch has
no idempotency key. So a batch carries the key of its chunk in its metadata, by which `find` finds it again.

Facts are from the pages "Batch" and "Files" of OpenAI's API reference and Azure's how-to "batch", November 2026.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import httpx

from parquill.tasks.job.endpoint import Endpoint
from parquill.tasks.job.key import Key
from parquill.tasks.job.providers import is_azure
from parquill.tasks.llm.client import was_not_sent
from parquill.tasks.llm.connections import ReplyTooLarge
from parquill.tasks.llm.outcomes import TABLE, Rule, error_of_body, rule_for_status
from parquill.tasks.llm.reasons import reason_of
from parquill.tasks.llm.replies import clean_label, parse_json
from parquill.tasks.llm.usage import read_usage
from parquill.tasks.records import Usage

COMPLETION_WINDOW: Final = "24h"
# The result files stay at the service for 30 days, its maximum: a run may resume after a long weekend.
RESULTS_EXPIRE_S: Final = 2_592_000
PAGE: Final = 100
# The clocks of service and machine may differ: a search goes back further than the chunk.
CLOCK_DIFFERENCE_S: Final = 300.0
CALL_TIMEOUT_S: Final = 60.0
TRANSFER_TIMEOUT_S: Final = 1_800.0  # of a file of 200 MB
MAX_DOCUMENT_BYTES: Final = 16 << 20
# Of a result file: 50,000 rows with answers of 300 KB.
MAX_RESULT_BYTES: Final = 16 << 30
ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
_NAMES: Final = frozenset(
    {"purpose", "file", "expires_after", "input_file_id", "endpoint", "completion_window", "metadata"}
)


class BatchRefused(Exception):
    """The service refused a call, or could not be reached: it was certainly not carried out."""

    def __init__(self, rule: Rule, sentence: str, code: str | None = None) -> None:
        """`code` is the service's own code for the reason, if it gave one."""
        super().__init__(sentence)
        self.rule, self.sentence, self.code = rule, sentence, code


class BatchUnclear(Exception):
    """Nothing is known about a call: it may have been carried out."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


class FileTooLarge(Exception):
    """A result file is larger than its requests allow."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a batch failed: the service's code, its message without control characters, and the number it names."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class RemoteBatch:
    """A batch as the service describes it; times in seconds since 1970. `usage` is None if it is not reported."""

    id: str
    status: str
    input_file_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    created_at: float
    expires_at: float | None
    has_begun: bool  # whether it was past its validation
    metadata: Mapping[str, Any]
    problems: tuple[Problem, ...] = ()
    usage: Usage | None = None
    rows_done: int = 0  # so far, by the service's own count

    @property
    def has_ended(self) -> bool:
        """Whether its state is final."""
        return self.status in ENDED

    @property
    def result_files(self) -> list[str]:
        """Ids of the files with its rows: answers and errors. A service may give no id, or an empty one."""
        return [each for each in (self.output_file_id, self.error_file_id) if each]


def read_batch(document: Any) -> RemoteBatch | None:
    """Read a batch object; None if it is none."""
    if not isinstance(document, dict):
        return None
    identity, status = document.get("id"), document.get("status")
    if not (isinstance(identity, str) and identity and isinstance(status, str)):
        return None
    errors = document.get("errors")
    found = errors.get("data") if isinstance(errors, dict) else None
    metadata = document.get("metadata")
    return RemoteBatch(
        identity,
        status,
        _text(document.get("input_file_id")),
        _text(document.get("output_file_id")),
        _text(document.get("error_file_id")),
        _seconds(document.get("created_at")) or 0.0,
        _seconds(document.get("expires_at")),
        _seconds(document.get("in_progress_at")) is not None,
        metadata if isinstance(metadata, dict) else {},
        tuple(_problem(each) for each in found if isinstance(each, dict)) if isinstance(found, list) else (),
        read_usage(document).usage,
        _rows_done(document.get("request_counts")),
    )


def _rows_done(counts: Any) -> int:
    if not isinstance(counts, dict):
        return 0
    done = [counts.get(name) for name in ("completed", "failed")]
    return sum(count for count in done if isinstance(count, int) and not isinstance(count, bool) and count > 0)


def _problem(error: Mapping[str, Any]) -> Problem:
    return Problem(
        clean_label(error.get("code")) or "unknown", clean_label(error.get("message")) or "no reason is given"
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class BatchService:
    """The batch calls of one endpoint. Lives on one event loop. No error holds a key or a prompt."""

    def __init__(self, endpoint: Endpoint, key: Key | None, transport: httpx.AsyncBaseTransport) -> None:
        self._endpoint, self._key, self._transport = endpoint, key, transport
        host = httpx.URL(endpoint.base_url).netloc.decode()
        own = {"Host": host, "Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "parquill"}
        self._own_headers = own

    @property
    def _headers(self) -> dict[str, str]:
        # a token of Azure's is renewed while a batch takes its day
        return self._own_headers | (self._key.headers() if self._key is not None else {})

    def request_path(self, path: str) -> str:
        """Return the path by which the lines of a batch name an API, whose path after the base_url is `path`."""
        return path if is_azure(self._endpoint.base_url) else f"/v1{path}"

    async def upload(self, path: Path, name: str) -> str:
        """Upload a file of requests and return its id. Raises BatchRefused, BatchUnclear."""
        form = {"purpose": "batch", **self._expiry()}
        with path.open("rb") as file:
            files = {"file": (name, file, "application/jsonl")}
            document = await self._call("POST", "/files", TRANSFER_TIMEOUT_S, data=form, files=files)
        identity = _text(document.get("id")) if isinstance(document, dict) else None
        if identity is None:
            raise BatchUnclear("the service accepted a file without an id")
        return identity

    def _expiry(self) -> dict[str, str]:
        return {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(RESULTS_EXPIRE_S)}

    async def create(self, file_id: str, path: str, metadata: Mapping[str, str]) -> RemoteBatch:
        """Create a batch of an uploaded file; `path` is that of its requests. Raises BatchRefused, BatchUnclear."""
        asked = {
            "input_file_id": file_id,
            "endpoint": path,
            "completion_window": COMPLETION_WINDOW,
            "metadata": dict(metadata),
            "output_expires_after": {"anchor": "created_at", "seconds": RESULTS_EXPIRE_S},
        }
        return self._batch(await self._call("POST", "/batches", CALL_TIMEOUT_S, json=asked))

    async def look(self, batch_id: str) -> RemoteBatch:
        """Return the batch as it is now. Raises BatchRefused (404 if it has vanished), BatchUnclear."""
        return self._batch(await self._call("GET", f"/batches/{batch_id}", CALL_TIMEOUT_S))

    async def cancel(self, batch_id: str) -> RemoteBatch:
        """Cancel a batch; it keeps what is completed. Raises BatchRefused if it has ended, BatchUnclear."""
        return self._batch(await self._call("POST", f"/batches/{batch_id}/cancel", CALL_TIMEOUT_S))

    async def find(self, metadata: Mapping[str, str], since: float) -> RemoteBatch | None:
        """Return the batch with this metadata that was created since then, None if the service lists none.

        `since` is a time in seconds since 1970. Raises BatchRefused, BatchUnclear.
        """
        after: str | None = None
        while True:
            query = {"limit": str(PAGE), **({"after": after} if after is not None else {})}
            document = await self._call("GET", "/batches", CALL_TIMEOUT_S, params=query)
            listed = document.get("data") if isinstance(document, dict) else None
            found = [batch for each in listed if (batch := read_batch(each))] if isinstance(listed, list) else []
            for batch in found:
                # promise: M8 a batch whose reply was lost is found by the metadata of its chunk
                if all(batch.metadata.get(name) == value for name, value in metadata.items()):
                    return batch
            is_over = not found or not document.get("has_more") or found[-1].id == after
            # newest first
            if is_over or found[-1].created_at < since - CLOCK_DIFFERENCE_S:
                return None
            after = found[-1].id

    async def download(self, file_id: str, path: Path, max_bytes: int) -> None:
        """Write the content of a file to `path`. Raises BatchRefused, BatchUnclear, FileTooLarge, OSError."""
        request = self._request("GET", f"/files/{file_id}/content", TRANSFER_TIMEOUT_S)
        try:
            async with asyncio.timeout(TRANSFER_TIMEOUT_S):
                response = await self._transport.handle_async_request(request)
                try:
                    if not response.is_success:
                        self._refuse(response.status_code, await _read(response))
                    await _write(response, path, max_bytes)
                finally:
                    await response.aclose()
        except ReplyTooLarge:
            raise FileTooLarge from None
        except (TimeoutError, httpx.TransportError):
            raise BatchUnclear("the connection broke while a result file was read") from None

    async def remove(self, file_id: str) -> None:
        """Remove a file from the service. Raises BatchRefused, BatchUnclear."""
        await self._call("DELETE", f"/files/{file_id}", CALL_TIMEOUT_S)

    def _batch(self, document: Any) -> RemoteBatch:
        batch = read_batch(document)
        if batch is None:
            raise BatchUnclear("the service answered without a batch")
        return batch

    def _request(self, method: str, path: str, timeout_s: float, **content: Any) -> httpx.Request:
        url = httpx.URL(self._endpoint.url(path)).copy_merge_params(content.pop("params", {}))
        extensions = {"timeout": {"connect": 15.0, "read": timeout_s, "write": timeout_s, "pool": timeout_s}}
        return httpx.Request(method, url, headers=self._headers, extensions=extensions, **content)

    async def _call(self, method: str, path: str, timeout_s: float, **content: Any) -> Any:
        request = self._request(method, path, timeout_s, **content)
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._transport.handle_async_request(request)
                try:
                    data = await _read(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise BatchUnclear("the service did not answer in time") from None
        except ReplyTooLarge:
            raise BatchUnclear("the service's answer is larger than any document of this API") from None
        except httpx.TransportError as error:
            # promise: M8 a batch call whose connection broke counts as carried out until it is looked up
            if was_not_sent(error):
                raise BatchRefused(TABLE["connect_error"], TABLE["connect_error"].sentence) from None
            raise BatchUnclear("the connection broke before the service answered") from None
        if not response.is_success:
            self._refuse(response.status_code, data)
        return parse_json(data) if data is not None else None

    def _refuse(self, status: int, data: bytes | None) -> None:
        """Raise the error for a status that is not 2xx."""
        document = parse_json(data) if data else None
        rule, sentence = rule_for_status(status, retry_after=False, document=document)
        error = error_of_body(document)
        reason = reason_of(error, "", _NAMES, self._key)
        message = f"{sentence}: {reason}" if reason else sentence
        # promise: M8 a batch call that failed with a server error counts as carried out until it is looked up
        if status >= 500 or status == 408:
            raise BatchUnclear(message)
        raise BatchRefused(rule, message, clean_label(error.get("code")) if error is not None else None)


async def _read(response: httpx.Response) -> bytes | None:
    """Return the body of a reply; None if it is larger than any document of this API."""
    data = bytearray()
    async for chunk in response.stream:  # type: ignore[union-attr]
        data += chunk
        if len(data) > MAX_DOCUMENT_BYTES:
            return None
    return bytes(data)


async def _write(response: httpx.Response, path: Path, max_bytes: int) -> None:
    loop, size = asyncio.get_running_loop(), 0
    with await loop.run_in_executor(None, _create, path) as file:
        async for chunk in response.stream:  # type: ignore[union-attr]
            size += len(chunk)
            # promise: service: the size of a result file is bounded
            if size > max_bytes:
                raise FileTooLarge
            await loop.run_in_executor(None, file.write, chunk)


def _create(path: Path) -> BinaryIO:
    # promise: S3 only the owner can read a result file
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
