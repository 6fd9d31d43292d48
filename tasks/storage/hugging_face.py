"""Datasets of Hugging Face as inputs: hf://datasets/OWNER/NAME[@REVISION]/PATH, read at one commit.

A listing first asks which commit the revision is now, and all files are read at that commit. So the rows of a run stay
what they were when the run was planned, whatever is pushed meanwhile, and the next start notices the new commit.

The package huggingface_hub is optional. HF_TOKEN is the only token that is used: one that was saved on the machine is
not: no one named it for this job.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from parquill.tasks.errors import BadInput, BadJob
from parquill.tasks.storage.uri import HUB

REQUEST_TIMEOUT_S = 30
# The branch into which Hugging Face converts CSV, JSON and other files, by the name that DuckDB and others give it.
CONVERTED, CONVERTED_BRANCH = "~parquet", "refs/convert/parquet"
_ADDRESS = re.compile(
    rf"{re.escape(HUB)}(?P<name>[^/@]+/[^/@]+)(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?P<path>/.*)?"
)
_COMMIT = re.compile(r"@([0-9a-f]{40})(?:/|$)")
# By the names of the error's class and of its bases: the package may be missing, so its classes cannot be imported.
_REASONS = {
    "GatedRepoError": "its owner grants access: ask for it on the page of the dataset, and set HF_TOKEN to a token of "
    "that account",
    "DisabledRepoError": "Hugging Face has disabled it",
    "RevisionNotFoundError": "it has no such revision",
    "RepositoryNotFoundError": "there is no such dataset, or HF_TOKEN is not a token that may read it",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set: unset it, or name local files",
    "HFValidationError": "this is not the name of a dataset",
}
_STATUSES = {401: "HF_TOKEN is not valid", 403: "access denied", 429: "too many requests; set HF_TOKEN, or try later"}
_UNREACHABLE = frozenset({"TransportError", "ConnectionError", "TimeoutError"})


class HubFailed(OSError):
    """Hugging Face refused a request or did not answer; the text says why and shows neither a token nor a reply."""


def at_commit(uri: str) -> str:
    """Return an address of a dataset with the commit that its revision is now. Raises BadInput, BadJob."""
    found = _ADDRESS.fullmatch(uri)
    if found is None:
        raise BadJob(f"{uri} names no dataset: hf://datasets/OWNER/NAME/PATH")
    revision = unquote(found["revision"] or "main")
    revision = CONVERTED_BRANCH if revision == CONVERTED else revision
    endpoint, token = _ambient()
    try:
        with _plain_errors():
            api = _package().HfApi(endpoint=endpoint, token=token or False)
            commit = api.dataset_info(found["name"], revision=revision, timeout=REQUEST_TIMEOUT_S).sha
    except HubFailed as error:
        raise BadInput(f"{uri} cannot be read: {error}") from None
    return f"{HUB}{found['name']}@{commit}{found['path'] or ''}"


def commit_of(uri: str) -> str:
    """Return the commit in an address that `at_commit` returned, or in one below it."""
    found = _COMMIT.search(uri)
    return found[1] if found else ""


def hub_files() -> pafs.FileSystem:
    """Return the datasets of Hugging Face as a filesystem, for the token and the endpoint of the environment.

    Raises BadJob if the package is missing. Its calls raise HubFailed.
    """
    return pafs.PyFileSystem(_hub(*_ambient()))


def _ambient() -> tuple[str | None, str | None]:
    return os.environ.get("HF_ENDPOINT") or None, os.environ.get("HF_TOKEN") or None


@functools.cache
def _hub(endpoint: str | None, token: str | None) -> _Datasets:
    """One for all addresses: it keeps connections, and listings of commits, which never change."""
    # promise: hf: a token that was saved on the machine is not used
    return _Datasets(_package().HfFileSystem(endpoint=endpoint, token=token or False, skip_instance_cache=True))


def _package() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise BadJob("hf:// needs a package that is not installed: pip install huggingface_hub") from None
    return huggingface_hub


class _Datasets(pafs.FSSpecHandler):  # type: ignore[misc]
    """fsspec's handler, with errors of its own and exact reads.

    The handler takes any error of the service for a missing folder, and its files raise errors of the HTTP client.
    """

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        with _plain_errors():
            return [self._info(path) for path in paths]

    def _info(self, path: str) -> pafs.FileInfo:
        try:
            return self._create_file_info(path, self.fs.info(path))
        except FileNotFoundError:
            return pafs.FileInfo(path, pafs.FileType.NotFound)

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        depth = None if selector.recursive else 1
        with _plain_errors():
            found = self.fs.find(selector.base_dir, maxdepth=depth, withdirs=True, detail=True)
        return [self._create_file_info(path, info) for path, info in found.items() if path != selector.base_dir]

    def open_input_file(self, path: str) -> pa.NativeFile:
        with _plain_errors():
            # no read-ahead: the columns of a Parquet file are read in turns, and each turn would fetch megabytes again
            return pa.PythonFile(_ExactFile(self.fs.open(path, "rb", cache_type="none")), mode="r")


class _ExactFile:
    """An open file whose reads return what was asked for, or raise HubFailed."""

    def __init__(self, file: Any) -> None:
        self._file = file

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def size(self) -> int:
        return int(self._file.size)

    def read(self, size: int) -> bytes:
        wanted = max(0, min(size, self._file.size - self._file.tell()))
        if not wanted:
            return b""
        with _plain_errors():
            data: bytes = self._file.read(wanted)
        # promise: hf: a reply with more or fewer bytes than were asked for is refused
        if len(data) != wanted:
            raise HubFailed(f"Hugging Face sent {len(data):,} bytes instead of {wanted:,}")
        return data

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise HubFailed for any error of the package; its own text may repeat addresses with signatures."""
    try:
        yield
    except (HubFailed, BadJob):
        raise
    except Exception as error:  # noqa: BLE001 - of the HTTP client too, whose classes are the package's choice
        # promise: hf: the text of an error of the package is never shown
        raise HubFailed(_reason(error)) from None


def _reason(error: BaseException) -> str:
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and len(chain) < 10:
        chain.append(cause)
    names = {kind.__name__ for each in chain for kind in type(each).__mro__}
    known = next((text for name, text in _REASONS.items() if name in names), None)
    if known is not None:
        return known
    status = next((found for each in chain if (found := _status(each)) is not None), None)
    if status is not None:
        return _STATUSES.get(status, f"Hugging Face answers HTTP {status}")
    if names & _UNREACHABLE:
        return "Hugging Face does not answer"
    if "FileNotFoundError" in names:
        return "it is not there"
    return f"Hugging Face cannot be read ({type(error).__name__})"


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
