"""The result files of a batch: which line is the reply to which row, whatever the files hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from parquill.tasks.llm.batch_results import MAX_ENVELOPE_BYTES, BatchResults
from parquill.tasks.llm.protocol import APIS
from parquill.tasks.llm.reply_reader import ReplyReader
from tests.tools.small_jobs import make_test_job

KEY = "run-0-abcd"
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def _line(number: int, text: str = "Hi", status: Any = 200, **more: Any) -> dict[str, Any]:
    body = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": USAGE}
    response = {"status_code": status, "request_id": "r", "body": body if status == 200 else {}}
    return {"id": "x", "custom_id": f"{KEY}-{number}", "response": response, "error": None} | more


def _results(folder: Path, *files: list[Any]) -> BatchResults:
    job = make_test_job()
    paths = []
    for number, lines in enumerate(files):
        paths.append(folder / f"{number}.results")
        content = [line if isinstance(line, bytes) else orjson.dumps(line) for line in lines]
        paths[-1].write_bytes(b"\n".join(content))
    return BatchResults(KEY, paths, ReplyReader(job, APIS[job.endpoint.api](job), None))


def _code(results: BatchResults, number: int) -> str | None:
    return results.result_of(number, "sent", "max_tokens", 10).rule.code


def test_rows_are_joined_over_both_files(tmp_path: Path) -> None:
    """M8, C9: Each row has its own reply, in whichever file and order; a row in neither file is in doubt."""
    results = _results(tmp_path, [_line(2, "two"), _line(0, "zero")], [_line(1, status=500)])
    replies = [results.result_of(number, "sent", "max_tokens", 10).reply for number in (0, 2)]
    assert [reply.text for reply in replies if reply is not None] == ["zero", "two"]
    assert [_code(results, number) for number in range(4)] == [None, "bad_gateway", None, "batch_missing"]
    assert (results.answered, results.foreign) == (2, 0)
    assert [number in results for number in (0, 3)] == [True, False]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"response": None, "error": {"code": "batch_expired", "message": "m"}}, "batch_expired"),
        ({"response": None, "error": {"code": "batch_cancelled"}}, "batch_cancelled"),
        ({"response": None, "error": {"code": "rate_limit_exceeded"}}, "rate_limited"),
        ({"response": None, "error": {"code": "server_error"}}, "server_error"),
        ({"response": None, "error": {"code": "something_new"}}, "failed_reply"),
        ({"response": None, "error": None}, "batch_skipped"),
        ({"response": {"status_code": 0, "request_id": "", "body": {}}}, "batch_skipped"),
        ({"response": {"status_code": "200", "body": {}}}, "batch_skipped"),
        ({"response": {"status_code": 429, "body": {"error": {"message": "m"}}}}, "rate_limited"),
        ({"response": {"status_code": 401, "body": None}}, "not_authorized"),
        ({"response": {"status_code": 200, "body": {}}}, "bad_reply"),
        ({"response": {"status_code": 200, "body": None}}, "bad_reply"),
        ({"response": {"status_code": 200}}, "bad_reply"),
    ],
    ids=str,
)
def test_what_a_line_may_say(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    """M5: A row that was certainly not run is unpaid. A reply that cannot be read, or of which nothing is known, is in
    doubt. The other statuses mean what they mean for a single request.
    """
    assert _code(_results(tmp_path, [_line(0, **changes)]), 0) == code


def test_two_replies_of_one_row(tmp_path: Path) -> None:
    """M8: A row that has the same reply twice has that reply; one with two different replies is in doubt."""
    same = [_line(0), _line(0, id="y"), _line(1, "a")]
    results = _results(tmp_path, same, [_line(1, "b")])
    assert [_code(results, number) for number in (0, 1)] == [None, "batch_missing"]
    assert "two different replies" in results.result_of(1, "sent", "max_tokens", 10).sentence


@pytest.mark.parametrize(
    "line",
    [
        b"no JSON",
        b"[]",
        b"{}",
        _line(0, custom_id="other-0-ffff-0"),
        _line(0, custom_id=f"{KEY}-x"),
        _line(0, custom_id=f"{KEY}-"),
        _line(0, custom_id=f"{KEY}-\u0661"),
        _line(0, custom_id=7),
    ],
    ids=str,
)
def test_lines_of_no_row(tmp_path: Path, line: Any) -> None:
    """C9: A line that names no row of this batch is counted, and goes to no row."""
    results = _results(tmp_path, [line, b"", _line(1)])
    assert (_code(results, 0), _code(results, 1), results.foreign) == ("batch_missing", None, 1)


def test_a_line_without_end(tmp_path: Path) -> None:
    """A line that is longer than any reply is not read into memory; the lines around it are."""
    job = make_test_job()
    reader = ReplyReader(job, APIS[job.endpoint.api](job), None)
    most = 2 * reader.max_bytes + MAX_ENVELOPE_BYTES
    long = orjson.dumps(_line(1, "x" * (3 * most)))
    results = _results(tmp_path, [_line(0), long, _line(2)])
    assert [_code(results, number) for number in range(3)] == [None, "batch_missing", None]
    assert results.foreign == 1


def test_numbers_and_texts_that_json_libraries_dislike(tmp_path: Path) -> None:
    """A reply with a number of more than 64 bits, NaN or half a character is read as one that came by itself."""
    line = orjson.dumps(_line(0, "TEXT")).replace(b"TEXT", b"\\ud83d").replace(b'"index":0', b'"index":1e999')
    line = line.replace(b'"total_tokens":7', b'"total_tokens":7,"more":123456789012345678901234567890,"odd":NaN')
    results = _results(tmp_path, [line])
    found = results.result_of(0, "sent", "max_tokens", 10)
    assert found.reply is not None
    assert found.reply.text == "\ufffd"
