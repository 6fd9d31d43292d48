"""How batches of the fake service misbehave: each option does what it says, and the bills show what was paid."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
import orjson
import pytest

from .batching import CHAT, Batching
from .running import ServiceError

OK = {"status_code": 200}


def rows_with(kind: str, **options: Any) -> tuple[Batching, dict[str, Any]]:
    """Complete a batch of three rows whose second row has a fault."""
    rules = [{"kind": kind, "match": '"custom_id":"r1"'}]
    batching = Batching(batch={"row_faults": rules, **options})
    return batching, batching.ended(batching.rows(3))


def billed(batching: Batching) -> list[str]:
    return sorted(row["custom_id"] for row in batching.service.bills()["rows"])


@pytest.mark.parametrize(
    ("kind", "in_output", "in_errors", "is_billed", "counts"),
    [
        ("status:400", [0, 2], [1], False, (2, 1)),
        ("status:429", [0, 2], [1], False, (2, 1)),
        ("status:500", [0, 2], [1], False, (2, 1)),
        ("error:server_error", [0, 2], [1], False, (2, 1)),
        ("status_code_zero", [0, 2], [1], False, (3, 0)),
        ("missing", [0, 2], [], True, (3, 0)),
        ("duplicate", [0, 1, 1, 2], [], True, (3, 0)),
        ("empty_object", [0, 1, 2], [], True, (3, 0)),
        ("null_body", [0, 1, 2], [], True, (3, 0)),
        ("length", [0, 1, 2], [], True, (3, 0)),
        ("content_filter", [0, 1, 2], [], True, (3, 0)),
        ("empty_body", [0, 1, 2], [], True, (3, 0)),
    ],
)
def test_a_row_fault(
    kind: str, in_output: list[int], in_errors: list[int], is_billed: object, counts: tuple[int, int]
) -> None:
    """A row with a fault is in the file, in the counts and in the bills as its kind says; the other rows are whole."""
    batching, batch = rows_with(kind)
    output, errors = (batching.lines(batch[name]) for name in ("output_file_id", "error_file_id"))
    assert sorted(each["custom_id"] for each in output) == [f"r{number}" for number in in_output]
    assert [each["custom_id"] for each in errors] == [f"r{number}" for number in in_errors]
    assert billed(batching) == (["r0", "r1", "r2"] if is_billed else ["r0", "r2"])
    assert (batch["request_counts"]["completed"], batch["request_counts"]["failed"]) == counts


def test_what_lines_with_a_fault_say() -> None:
    """The lines of status 0, of an error without a response, of an empty and a null body are as they were reported."""
    batching, batch = rows_with("status_code_zero")
    (row,) = batching.lines(batch["error_file_id"])
    assert (row["response"], row["error"]) == ({"status_code": 0, "request_id": "", "body": {}}, None)
    batching, batch = rows_with("error:server_error")
    (row,) = batching.lines(batch["error_file_id"])
    assert (row["response"], row["error"]["code"]) == (None, "server_error")
    for kind, wanted in (("empty_object", {}), ("empty_body", {}), ("null_body", None)):
        batching, batch = rows_with(kind)
        bodies = [each["response"]["body"] for each in batching.lines(batch["output_file_id"])]
        assert bodies.count(wanted) == 1


def test_foreign_long_and_broken_lines() -> None:
    """A file can hold an id that is not of the input, a line of any length, and a line that is no JSON."""
    batching, batch = rows_with("foreign")
    assert Counter(each["custom_id"] for each in batching.lines(batch["output_file_id"]))["foreign-r1"] == 1
    assert billed(batching) == ["r0", "r1", "r2"]
    batching, batch = rows_with("long_line", long_line_bytes=1_000_000)
    assert max(len(each) for each in batching.content(batch["output_file_id"]).splitlines()) > 1_000_000
    batching, batch = rows_with("truncated_json")
    broken = 0
    for each in batching.content(batch["output_file_id"]).splitlines():
        try:
            orjson.loads(each)
        except orjson.JSONDecodeError:
            broken += 1
    assert broken == 1
    with pytest.raises(ServiceError, match="unknown kind 'hang'"):
        batching.service.configure(batch={"row_faults": [{"kind": "hang"}]})


@pytest.mark.parametrize(("option", "wanted"), [("null", None), ("empty_text", ""), ("empty_file", "a file")])
def test_the_error_file_of_a_batch_without_errors(option: str, wanted: str | None) -> None:
    """error_file_id is null, empty, or the id of a file of 0 bytes."""
    batching = Batching(batch={"no_errors": option})
    found = batching.ended(batching.rows(2))["error_file_id"]
    if wanted == "a file":
        assert batching.content(found) == b""
    else:
        assert found == wanted


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"request_counts": "null"}, None),
        ({"request_counts": "zero"}, {"total": 0, "completed": 0, "failed": 0}),
        ({"request_counts": "all_completed"}, {"total": 4, "completed": 4, "failed": 0}),
        ({"request_counts": "lagging", "counts_lag_s": 86_337}, {"total": 4, "completed": 1, "failed": 2}),
        ({"request_counts": "lagging", "counts_lag_s": 86_338}, {"total": 4, "completed": 1, "failed": 1}),
    ],
)
def test_request_counts_may_be_wrong(options: dict[str, Any], counts: dict[str, int] | None) -> None:
    """Counts are null, wrong or of an earlier time, also when the batch has ended."""
    rules = [{"kind": "status:500", "match": f'"r{number}"'} for number in (1, 2)]
    batching = Batching(batch={"row_faults": rules, "rows_per_s": 1, "shuffle": False, **options})
    found = batching.ended(batching.rows(4))["request_counts"]
    assert found == counts


def test_usage_may_be_missing_or_wrong() -> None:
    """The usage of a batch is absent, null, or another sum than that of its rows."""
    batching = Batching(batch={"usage": "missing"})
    batch_id = batching.rows(3)
    assert "usage" not in batching.ended(batch_id)
    batching.service.configure(batch={"usage": "null"})
    assert batching.get(batch_id)["usage"] is None
    batching.service.configure(batch={"usage": "sums"})
    true = batching.get(batch_id)["usage"]["total_tokens"]
    batching.service.configure(batch={"usage": "wrong"})
    assert batching.get(batch_id)["usage"]["total_tokens"] != true == 60


def test_a_batch_fails_late_or_by_order() -> None:
    """A batch that fails in the middle has its paid rows in the output file; one that fails at its check has none."""
    batching = Batching(batch={"fail_after_rows": 2})
    batch = batching.ended(batching.rows(5))
    assert (batch["status"], len(batching.lines(batch["output_file_id"]))) == ("failed", 2)
    assert len(billed(batching)) == 2
    batching.service.configure(batch={"fail_with": "billing_hard_limit_reached"})
    batch = batching.ended(batching.rows(5))
    assert batch["errors"]["data"][0]["code"] == "billing_hard_limit_reached"
    assert (batch["output_file_id"], len(billed(batching))) == (None, 2)


def test_results_may_be_withheld_late_or_incomplete() -> None:
    """Paid rows can lack a file, files can come later than their ids, and the remainder can be named nowhere."""
    batching = Batching(batch={"withhold_output": True})
    batch = batching.ended(batching.rows(2))
    assert (batch["status"], batch["output_file_id"], len(billed(batching))) == ("completed", None, 2)
    batching = Batching(batch={"late_files_s": 86_400})
    output = batching.ended(batching.rows(2))["output_file_id"]
    assert batching.client.get(f"/files/{output}/content").status_code == 404
    batching.service.advance(86_400)
    assert len(batching.lines(output)) == 2
    batching = Batching(batch={"stall_after_rows": 1, "list_remainder": False})
    batch = batching.ended(batching.rows(3))
    assert (batch["status"], batch["error_file_id"], len(billed(batching))) == ("expired", None, 1)
    batching, batch = rows_with("status:500", errors_in_output=True)
    assert (len(batching.lines(batch["output_file_id"])), batch["error_file_id"]) == (3, None)


@pytest.mark.parametrize("state", ["validating", "finalizing", "cancelling"])
def test_a_batch_stays_in_a_state(state: str) -> None:
    """A stuck batch does not leave its state in any time; without the option it continues."""
    batching = Batching(batch={"stuck": state})
    batch_id = batching.rows(2)
    if state == "cancelling":
        batching.client.post(f"/batches/{batch_id}/cancel")
    assert batching.ended(batch_id)["status"] == state
    batching.service.configure(batch={"stuck": None})
    assert batching.get(batch_id)["status"] == ("cancelled" if state == "cancelling" else "completed")


def test_batches_vanish_and_are_listed_late() -> None:
    """An old batch is a 404 and not listed; a new one can be read before it is listed."""
    batching = Batching(batch={"list_lag_s": 100, "vanish_after_s": 1_000})
    batch_id = batching.rows(1)
    for seconds, status, listed in ((0, 200, 0), (100, 200, 1), (900, 404, 0)):
        batching.service.advance(seconds)
        assert batching.client.get(f"/batches/{batch_id}").status_code == status
        assert len(batching.client.get("/batches").json()["data"]) == listed


@pytest.mark.parametrize(
    ("kind", "exists", "seen"),
    [
        ("lost", True, "closed"),
        ("cut", False, "closed"),
        ("done:500", True, 500),
        ("status:500", False, 500),
        ("status:429", False, 429),
        ("garbage", True, 200),
        ("slow", True, "timeout"),
        ("half", True, "closed"),
    ],
)
@pytest.mark.parametrize("call", ["upload", "create"])
def test_a_call_with_a_fault(call: str, kind: str, exists: object, seen: int | str) -> None:
    """What the client sees says nothing of whether the file or the batch exists; the next call is answered."""
    rule = {"on": call, "kind": kind, "times": 1, "delay_ms": 60_000 if kind == "slow" else 0, "retry_after": "7"}
    batching = Batching(batch={"api_faults": [rule]})
    content = b'{"custom_id":"a"}\n'
    try:
        reply = batching.upload(content) if call == "upload" else batching.create(batching.upload(content).json()["id"])
        found: int | str = reply.status_code
        assert reply.headers.get("retry-after") == ("7" if seen in {429, 500} else None)
    except httpx.ReadTimeout:
        found = "timeout"
    except httpx.RemoteProtocolError:
        found = "closed"
    assert found == seen
    path = "/files" if call == "upload" else "/batches"
    assert len(batching.client.get(path).json()["data"]) == exists
    assert batching.upload(content).status_code == 200
    (logged,) = [each for each in batching.service.calls(call) if each["fault"]]
    assert (logged["fault"], logged["method"], logged["path"]) == (kind, "POST", "/v1" + path)


def test_polls_fail_for_a_while() -> None:
    """After the first polls, some fail in different ways, for one batch only; then they succeed again."""
    batching = Batching()
    first, second = batching.rows(1), batching.rows(1)
    faults = [
        {"on": "batch", "kind": "status:500", "match": first, "after": 1, "times": 2},
        {"on": "batch", "kind": "cut", "match": first, "after": 3, "times": 1},
        {"on": "batch", "kind": "status:404", "match": first, "after": 4, "times": 1},
    ]
    batching.service.configure(batch={"api_faults": faults})
    seen = []
    for _ in range(6):
        try:
            seen.append(batching.client.get(f"/batches/{first}").status_code)
        except httpx.RemoteProtocolError:
            seen.append(0)
        assert batching.client.get(f"/batches/{second}").status_code == 200
    assert seen == [200, 500, 500, 0, 404, 200]
    assert [each["status"] for each in batching.service.calls("batch") if first in each["path"]] == seen
    assert batching.get(first)["status"] == "validating"


def test_a_broken_download_has_the_start_of_the_file() -> None:
    """A download breaks in the middle; the next one is whole."""
    batching = Batching(batch={"api_faults": [{"on": "content", "kind": "half", "times": 1}]})
    output = batching.ended(batching.rows(50))["output_file_id"]
    got = b""
    with pytest.raises(httpx.RemoteProtocolError), batching.client.stream("GET", f"/files/{output}/content") as reply:
        for piece in reply.iter_bytes():
            got += piece
    whole = batching.content(output)
    assert 0 < len(got) < len(whole)
    assert whole.startswith(got)


@pytest.mark.parametrize("rule", [{"on": "polls", "kind": "cut"}, {"on": "batch", "kind": "explode"}, {"kind": "cut"}])
def test_rules_that_are_wrong_are_refused(rule: dict[str, Any]) -> None:
    """A rule with an unknown call or kind, or without one, is refused and not ignored."""
    with pytest.raises(ServiceError, match="api_faults"):
        Batching().service.configure(batch={"api_faults": [rule]})


def test_live_faults_do_not_hit_rows() -> None:
    """The faults of requests and those of rows are apart."""
    batching = Batching(faults=[{"kind": "status:500"}])
    assert batching.client.post(CHAT.removeprefix("/v1"), json={"model": "m", "messages": []}).status_code == 400
    assert batching.ended(batching.rows(2))["request_counts"]["completed"] == 2
