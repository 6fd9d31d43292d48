"""The calls for files and batches: what is certain after each, and how a lost batch is found again."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import orjson
import pytest

from parquill.tasks.job.endpoint import Endpoint
from parquill.tasks.job.key import Key
from parquill.tasks.llm.batch_service import (
    BatchRefused,
    BatchService,
    BatchUnclear,
    FileTooLarge,
    RemoteBatch,
    read_batch,
)
from parquill.tasks.records import Usage
from tests.fakes.batching import CHAT, START, as_lines, line
from tests.fakes.in_process import InProcess

T = TypeVar("T")
METADATA = {"parquill_intent": "0123456789abcdef", "run": "r"}
KEY = "sk-test-0123456789abcdef"


class Calls:
    """A fake service in this process, and the calls to it."""

    def __init__(self, tmp_path: Path, **options: Any) -> None:
        self.folder = tmp_path
        self.fake = InProcess(clock_start=START, **options)
        endpoint = Endpoint.model_validate({"base_url": self.fake.url, "allow_http": True})
        self.service = BatchService(endpoint, Key(KEY), self.fake)

    def file(self, rows: int = 3) -> Path:
        path = self.folder / "requests.jsonl"
        path.write_bytes(as_lines([line(number) for number in range(rows)]))
        return path

    def upload(self) -> str:
        return asyncio.run(self.service.upload(self.file(), "parquill-x.jsonl"))

    def create(self) -> RemoteBatch:
        return asyncio.run(self.service.create(self.upload(), CHAT, METADATA))


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls(tmp_path)


def _of(work: Callable[[], Awaitable[T]]) -> T:
    async def run() -> T:
        return await work()

    return asyncio.run(run())


def test_a_batch_from_file_to_answers(calls: Calls) -> None:
    """A file is uploaded, its batch is created, looked at until it has ended, and its answers are downloaded."""
    created = calls.create()
    assert (created.status, created.has_ended, created.result_files) == ("validating", False, [])
    assert created.metadata == METADATA
    calls.fake.advance(3_600)
    ended = _of(lambda: calls.service.look(created.id))
    assert (ended.status, ended.has_ended, ended.has_begun) == ("completed", True, True)
    path = calls.folder / "answers"
    _of(lambda: calls.service.download(ended.result_files[0], path, 1 << 20))
    rows = [orjson.loads(each) for each in path.read_bytes().splitlines()]
    assert {row["custom_id"] for row in rows} == {"r0", "r1", "r2"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    usage = [row["response"]["body"]["usage"] for row in rows]
    assert ended.usage is not None
    assert ended.usage.prompt == sum(each["prompt_tokens"] for each in usage)
    assert ended.usage.completion == sum(each["completion_tokens"] for each in usage)
    assert ended.input_file_id is not None
    _of(lambda: calls.service.remove(str(ended.input_file_id)))
    with pytest.raises(BatchRefused):
        _of(lambda: calls.service.remove(str(ended.input_file_id)))


def test_results_are_kept_for_thirty_days(calls: Calls) -> None:
    """Files and results ask for the longest time that the service keeps them, so that a run may resume late."""
    created = calls.create()
    calls.fake.advance(3_600)
    calls.fake.advance(29 * 86_400)
    ended = _of(lambda: calls.service.look(created.id))
    _of(lambda: calls.service.download(ended.result_files[0], calls.folder / "answers", 1 << 20))


def test_a_batch_is_found_by_its_metadata(calls: Calls) -> None:
    """A batch is found among hundreds of others, on later pages of the list, by all of its metadata."""
    mine = calls.create()
    file_id = calls.upload()
    for number in range(230):
        other = METADATA | {"parquill_intent": f"{number:016d}"}
        _of(lambda other=other: calls.service.create(file_id, CHAT, other))  # type: ignore[misc]
    found = _of(lambda: calls.service.find(METADATA, START))
    assert found is not None
    assert found.id == mine.id
    assert _of(lambda: calls.service.find(METADATA | {"run": "another"}, START)) is None
    assert len(calls.fake.calls("batches")) == 6


def test_a_search_ends_before_the_chunk_was_made(calls: Calls) -> None:
    """A search reads no page of batches that are older than the chunk, apart from five minutes for its clock."""
    file_id = calls.upload()
    for _ in range(150):
        _of(lambda: calls.service.create(file_id, CHAT, {}))
    calls.fake.advance(10_000)
    _of(lambda: calls.service.create(file_id, CHAT, {}))
    assert _of(lambda: calls.service.find(METADATA, START + 10_000)) is None
    assert len(calls.fake.calls("batches")) == 1


@pytest.mark.parametrize("kind", ["lost", "done:500", "done:504"])
def test_a_creation_whose_reply_was_lost_is_unclear_and_found(tmp_path: Path, kind: str) -> None:
    """M8: A batch that was created although its reply was lost is not known to be refused, and is found again."""
    calls = Calls(tmp_path, batch={"api_faults": [{"on": "create", "kind": kind, "times": 1}]})
    with pytest.raises(BatchUnclear):
        calls.create()
    found = _of(lambda: calls.service.find(METADATA, START))
    assert found is not None
    assert found.status == "validating"


@pytest.mark.parametrize(("status", "code"), [(400, "bad_request"), (401, "not_authorized"), (429, "rate_limited")])
def test_a_refused_creation_is_certain(tmp_path: Path, status: int, code: str) -> None:
    """A call that the service refuses has its line of the table of outcomes, and nothing was created."""
    calls = Calls(tmp_path, batch={"api_faults": [{"on": "create", "kind": f"status:{status}"}]})
    with pytest.raises(BatchRefused) as refused:
        calls.create()
    assert refused.value.rule.code == code
    assert _of(lambda: calls.service.find(METADATA, START)) is None


def test_a_service_that_is_down_was_not_asked() -> None:
    """If no connection is established, the call was certainly not carried out."""

    class Down(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError(f"refused with {KEY}", request=request)

    endpoint = Endpoint.model_validate({"base_url": "http://127.0.0.1:9/v1"})
    with pytest.raises(BatchRefused) as refused:
        _of(lambda: BatchService(endpoint, Key(KEY), Down()).look("batch_1"))
    assert refused.value.rule.code == "connect_error"
    assert KEY not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_vanished_batch_is_not_found(tmp_path: Path) -> None:
    """A batch that the service no longer knows is a 404."""
    calls = Calls(tmp_path, batch={"vanish_after_s": 10})
    created = calls.create()
    calls.fake.advance(20)
    with pytest.raises(BatchRefused) as refused:
        _of(lambda: calls.service.look(created.id))
    assert refused.value.rule.code == "not_found"


def test_a_result_file_is_bounded(calls: Calls) -> None:
    """A result file that is larger than its requests allow is not read to its end."""
    created = calls.create()
    calls.fake.advance(3_600)
    ended = _of(lambda: calls.service.look(created.id))
    with pytest.raises(FileTooLarge):
        _of(lambda: calls.service.download(ended.result_files[0], calls.folder / "answers", 100))


@pytest.mark.parametrize("kind", ["half", "status:500", "lost"])
def test_a_broken_download_is_unclear(tmp_path: Path, kind: str) -> None:
    """A download that breaks off is tried again later."""
    calls = Calls(tmp_path, batch={"api_faults": [{"on": "content", "kind": kind, "times": 1}]})
    created = calls.create()
    calls.fake.advance(3_600)
    ended = _of(lambda: calls.service.look(created.id))
    path = calls.folder / "answers"
    with pytest.raises(BatchUnclear):
        _of(lambda: calls.service.download(ended.result_files[0], path, 1 << 20))
    _of(lambda: calls.service.download(ended.result_files[0], path, 1 << 20))
    assert len(path.read_bytes().splitlines()) == 3


def test_a_failed_batch_says_why(tmp_path: Path) -> None:
    """A batch that fails in its validation has the codes and messages of the service, and no rows have begun."""
    calls = Calls(tmp_path, batch={"enqueued_tokens": 10})
    created = calls.create()
    calls.fake.advance(3_600)
    ended = _of(lambda: calls.service.look(created.id))
    assert (ended.status, ended.has_begun, ended.result_files) == ("failed", False, [])
    assert [problem.code for problem in ended.problems] == ["token_limit_exceeded"]
    assert "10" in ended.problems[0].message


@pytest.mark.parametrize("text", ["", None])
def test_a_file_without_an_id_is_no_file(text: str | None) -> None:
    """A service may report a file that does not exist as null or as an empty id."""
    document = {"id": "batch_1", "status": "completed", "output_file_id": "file-1", "error_file_id": text}
    found = read_batch(document)
    assert found is not None
    assert found.result_files == ["file-1"]


@pytest.mark.parametrize(
    "document", [None, [], {"id": 5, "status": "completed"}, {"id": "batch_1"}, {"id": "", "status": "completed"}]
)
def test_what_is_no_batch_is_not_read_as_one(document: Any) -> None:
    """A reply without an id and a state is no batch."""
    assert read_batch(document) is None


def test_odd_members_of_a_batch_are_left_out() -> None:
    """A batch with members of other types is read without them."""
    odd: dict[str, Any] = {
        "id": "b",
        "status": "in_progress",
        "errors": [],
        "metadata": None,
        "created_at": "now",
        "usage": 5,
    }
    found = read_batch(odd)
    assert found == RemoteBatch("b", "in_progress", None, None, None, 0.0, None, False, {})
    usage = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
    with_usage = read_batch(odd | {"usage": usage, "errors": {"data": [{"code": 1}, 5]}})
    assert with_usage is not None
    assert with_usage.usage == Usage(5, 0, 0, 7, 0)
    assert [problem.code for problem in with_usage.problems] == ["unknown"]
