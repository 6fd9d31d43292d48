"""Batches of the fake service: their states, files, limits and bills, in simulated time."""

from __future__ import annotations

import asyncio
import socket
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.tools.clock import Clock

from .batching import CHAT, START, Batching, as_lines, line
from .clock import ServiceClock
from .running import FakeService, ServiceError


def test_a_batch_passes_its_states_in_time() -> None:
    """Each state begins when the options say, and request_counts follow the rows."""
    batching = Batching(batch={"validating_s": 10, "rows_per_s": 2, "finalizing_s": 5})
    batch_id = batching.rows(
        8, metadata={"intent": "k"}, output_expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert batching.get(batch_id)["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    seen = []
    for _ in range(10):
        batch = batching.get(batch_id)
        seen.append((batch["status"], batch["request_counts"]["completed"]))
        batching.service.advance(2)
    assert seen == [
        *[("validating", 0)] * 5, ("in_progress", 0), ("in_progress", 4), ("finalizing", 8), ("finalizing", 8),
        ("finalizing", 8),
    ]  # fmt: skip
    batch = batching.get(batch_id)
    assert (batch["status"], batch["model"], batch["metadata"]) == ("completed", "gpt-4o-mini", {"intent": "k"})
    begins = [batch[f"{name}_at"] for name in ("created", "in_progress", "finalizing", "completed", "expires")]
    assert [begin - START for begin in begins] == [0, 10, 14, 19, 86_400]
    assert batch["error_file_id"] is None
    assert batch["usage"] == {
        "input_tokens": 8 * 4, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 8 * 16, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 8 * 20,
    }  # fmt: skip
    output = batching.client.get(f"/files/{batch['output_file_id']}").json()
    assert (output["purpose"], output["expires_at"] - output["created_at"]) == ("batch_output", 7200)
    lines = batching.lines(output["id"])
    order = [each["custom_id"] for each in lines]
    assert order != sorted(order) == [f"r{number}" for number in range(8)]
    assert all(each["response"]["status_code"] == 200 and each["error"] is None for each in lines)
    assert lines[0]["response"]["body"]["usage"]["prompt_tokens"] == 4


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "x"}]},
            ["choices", 0, "message", "content"],
        ),
        ("/v1/responses", {"input": "x"}, ["output", 0, "content", 0, "text"]),
        ("/v1/completions", {"prompt": "x"}, ["choices", 0, "text"]),
    ],
)
def test_a_row_is_answered_and_billed_as_a_live_request(path: str, body: dict[str, Any], text: list[Any]) -> None:
    """For each API, a row gets the answer of a live request, under the same content, at half the price."""
    batching = Batching(cached_ratio=0.5, prompt_tokens="fixed:100")
    asked = {"model": "gpt-6-luna", **body}
    live = batching.client.post(path.removeprefix("/v1"), json=asked).json()
    batch_id = batching.batch(as_lines([line(1, body=asked, url=path)]), endpoint=path)
    (found,) = batching.lines(batching.ended(batch_id)["output_file_id"])
    answers = [live, found["response"]["body"]]
    for step in text:
        answers = [each[step] for each in answers]
    assert answers[0] == answers[1]
    figures = batching.service.bills()
    (row,) = figures["rows"]
    assert (row["batch_id"], row["custom_id"]) == (batch_id, "r1")
    assert batching.service.stats()["billed_twice"] == [row["content"]]
    # 50 uncached, 50 cached and 16 output tokens of gpt-6-luna
    assert Decimal(figures["lanes"]["live"]["usd"]) == Decimal("0.0000135")
    assert Decimal(row["usd"]) == Decimal(figures["lanes"]["batch"]["usd"]) == Decimal("0.0000135") / 2


@pytest.mark.parametrize("how", ["expired", "cancelled"])
def test_a_batch_that_ends_early_has_its_paid_rows_and_names_the_others(how: str) -> None:
    """Rows that are done are in the output file and billed; the others are in the error file and free."""
    batching = Batching(batch={"rows_per_s": 1, "validating_s": 0, "stall_after_rows": 3, "cancelling_rows": 0})
    batch_id = batching.rows(10)
    batching.service.advance(100)
    if how == "cancelled":
        assert batching.client.post(f"/batches/{batch_id}/cancel").json()["status"] == "cancelling"
        assert batching.client.post(f"/batches/{batch_id}/cancel").status_code == 409
        batching.service.advance(599)
        assert batching.get(batch_id)["status"] == "cancelling"
    batch = batching.ended(batch_id)
    assert batch["status"] == how
    assert batch[f"{how}_at"] - START == (86_400 if how == "expired" else 700)
    assert batch["request_counts"] == {"total": 10, "completed": 3, "failed": 7}
    done = {each["custom_id"] for each in batching.lines(batch["output_file_id"])}
    left = batching.lines(batch["error_file_id"])
    assert {each["error"]["code"] for each in left} == {f"batch_{how}"}
    assert all(each["response"] is None for each in left)
    assert len(done) == 3
    assert done | {each["custom_id"] for each in left} == {f"r{number}" for number in range(10)}
    assert {row["custom_id"] for row in batching.service.bills()["rows"]} == done
    assert batching.client.post(f"/batches/{batch_id}/cancel").status_code == 409


def test_rows_may_be_completed_while_a_batch_is_cancelling() -> None:
    """Rows that were under way when the client cancelled are billed and in the output file."""
    batching = Batching(batch={"rows_per_s": 1, "validating_s": 0, "cancelling_rows": 2})
    batch_id = batching.rows(10)
    batching.service.advance(4)
    batching.client.post(f"/batches/{batch_id}/cancel")
    batch = batching.ended(batch_id)
    assert len(batching.lines(batch["output_file_id"])) == len(batching.service.bills()["rows"]) == 6
    early = batching.rows(10)
    batching.service.configure(batch={"validating_s": 60})
    batching.client.post(f"/batches/{early}/cancel")
    batch = batching.ended(early)
    assert (batch["status"], batch["output_file_id"], batch["error_file_id"]) == ("cancelled", None, None)


@pytest.mark.parametrize(("dialect", "wanted"), [
    ("openai", "Enqueued token limit reached for gpt-4o-mini in organization org-fake. Limit: 2,000 enqueued tokens."),
    ("azure", "surpassed the configured limit of 2K for the deployment 'gpt-4o-mini'."),
])  # fmt: skip
def test_the_token_limit_counts_all_open_batches(dialect: str, wanted: str) -> None:
    """A batch that does not fit beside the open ones is accepted, then failed; once one has ended, it fits."""
    batching = Batching(prompt_tokens="fixed:300", batch={"enqueued_tokens": 2_000, "dialect": dialect})
    first, second = batching.rows(5), batching.rows(2)
    assert batching.get(second)["status"] == "validating"
    batching.service.advance(60)
    assert batching.get(first)["status"] == "in_progress"
    batch = batching.get(second)
    assert (batch["status"], batch["output_file_id"], batch["failed_at"] - START) == ("failed", None, 60)
    (problem,) = batch["errors"]["data"]
    assert problem["code"] == "token_limit_exceeded"
    assert wanted in problem["message"]
    batching.service.advance(86_400)
    third = batching.rows(6)
    assert batching.ended(third)["status"] == "completed"
    batching.service.configure(batch={"failed_hold_tokens": True})
    assert batching.ended(batching.rows(6))["status"] == "failed"
    assert len(batching.service.bills()["rows"]) == 11


def test_lists_are_paged_newest_first_and_have_no_filter() -> None:
    """A list has the newest first, continues after an id, and refuses a filter that the service does not have."""
    batching = Batching()
    made = [batching.rows(1) for _ in range(25)]
    page = batching.client.get("/batches").json()
    assert [each["id"] for each in page["data"]] == made[:4:-1]
    assert (page["has_more"], page["last_id"]) == (True, made[5])
    rest = batching.client.get("/batches", params={"after": made[5], "limit": 5}).json()
    assert [each["id"] for each in rest["data"]] == made[4::-1]
    assert rest["has_more"] is False
    for wrong in ({"limit": 101}, {"limit": 0}, {"after": "batch_x"}, {"metadata[intent]": "k"}):
        assert batching.client.get("/batches", params=wrong).status_code == 400
    files = batching.client.get("/files", params={"purpose": "batch", "limit": 2, "order": "asc"}).json()
    assert (len(files["data"]), files["has_more"]) == (2, True)
    assert [each["call"] for each in batching.service.calls("upload", "create")] == ["upload", "create"] * 25


def test_files_expire_and_are_deleted() -> None:
    """A file is gone when it is deleted or its time is over; without one, an input file lives for 30 days."""
    batching = Batching()
    kept = batching.upload(b"x\n").json()
    assert kept["expires_at"] - kept["created_at"] == 30 * 86_400
    assert batching.content(kept["id"]) == b"x\n"
    short = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    brief = batching.upload(b"y\n", **short).json()["id"]
    batching.service.advance(3600)
    assert batching.client.get(f"/files/{brief}/content").status_code == 404
    assert batching.create(brief).status_code == 404
    assert batching.client.delete(f"/files/{kept['id']}").json() == {
        "id": kept["id"], "object": "file", "deleted": True,
    }  # fmt: skip
    assert batching.client.delete(f"/files/{kept['id']}").status_code == 404
    assert batching.client.get("/files").json()["data"] == []


def test_azure_differs_where_it_is_documented_to() -> None:
    """Azure has no expiry of a batch, a longer least expiry of files, its own endpoint names, and early errors."""
    batching = Batching(models=["my-batch"], batch={"dialect": "azure", "stall_after_rows": 1})
    batching.client.base_url = httpx.URL(f"{batching.service.origin}/openai/v1/")
    rows = [line(number, url="/chat/completions") for number in range(2)]
    for each in rows:
        each["body"]["model"] = "my-batch"
    short = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "1209599"}
    assert batching.upload(b"x", **short).status_code == 400
    batch_id = batching.batch(as_lines(rows), endpoint="/v1/chat/completions")
    assert batching.get(batch_id)["request_counts"] is None
    batching.service.advance(10 * 86_400)
    batch = batching.get(batch_id)
    assert (batch["status"], batch["endpoint"], batch["request_counts"]["completed"]) == (
        "in_progress", "/chat/completions", 1,
    )  # fmt: skip
    rows[1]["body"]["model"] = "other"
    created = batching.create(batching.upload(as_lines(rows)).json()["id"]).json()
    assert (created["status"], created["errors"]["data"][0]["code"]) == ("failed", "model_not_found")
    bom = batching.batch(b"\xef\xbb\xbf" + as_lines(rows))
    assert "deployment name couldn't be extracted" in batching.ended(bom)["errors"]["data"][0]["message"]
    batching.service.configure(batch={"max_files": 3})
    assert batching.upload(b"x").json()["error"]["code"] == "quota_exceeded"


def test_a_running_service_has_batches_too(service: FakeService, client: httpx.Client) -> None:
    """Over a socket, an upload and a download of megabytes arrive whole, and the clock is moved by a control call."""
    service.configure(clock_start=START, batch={"rows_per_s": 1000, "poll_advance_s": 30}, require_key="sk-x")
    content = as_lines([line(number, "x" * 2_000) for number in range(2_000)])
    key = {"Authorization": "Bearer sk-x"}
    assert client.get(f"{service.url}/files").status_code == 401
    form: dict[str, Any] = {"files": {"file": ("a.jsonl", content)}, "data": {"purpose": "batch"}, "headers": key}
    stored = client.post(f"{service.url}/files", **form).json()
    assert client.get(f"{service.url}/files/{stored['id']}/content", headers=key).content == content
    asked = {"input_file_id": stored["id"], "endpoint": CHAT, "completion_window": "24h"}
    batch = client.post(f"{service.url}/batches", json=asked, headers=key).json()
    polls = 0
    while batch["status"] != "completed":
        batch = client.get(f"{service.url}/batches/{batch['id']}", headers=key).json()
        polls += 1
    assert polls == 5  # 60 s, then 2 s for the rows, then 60 s
    with client.stream("GET", f"{service.url}/files/{batch['output_file_id']}/content", headers=key) as reply:
        assert reply.headers["transfer-encoding"] == "chunked"
        lines = sum(1 for _ in reply.iter_lines())
    assert lines == service.bills()["lanes"]["batch"]["requests"] == 2_000
    assert service.advance(10) == START + 160
    service.configure(batch={"api_faults": [{"on": "content", "kind": "half"}, {"on": "file", "kind": "lost"}]})
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(f"{service.url}/files/{stored['id']}/content", headers=key)
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(f"{service.url}/files/{stored['id']}", headers=key)
    assert service.stats()["in_flight"] == 0
    service.reset()
    assert service.calls() == []
    with pytest.raises(ServiceError, match="rows_per_s"):
        service.configure(batch={"rows_per_s": 0})


def test_a_slow_reader_gets_a_whole_file(service: FakeService) -> None:
    """A client that does not read for a while gets every byte of a download, and its next request is answered."""
    content = b"z" * 8_000_000
    form: dict[str, Any] = {"files": {"file": ("a.jsonl", content)}, "data": {"purpose": "batch"}}
    stored = httpx.post(f"{service.url}/files", trust_env=False, **form).json()
    ask = f"GET /v1/files/{stored['id']}/content HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\nconnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(ask.encode())
        got = connection.recv(1_000)
        assert service.stats()["in_flight"] == 1  # the rest waits for this client
        parts = [got]
        while part := connection.recv(1_000_000):
            parts.append(part)
    got = b"".join(parts)
    assert got.count(b"z") == len(content)
    assert got.endswith(b'{"status":"ok"}')


def test_the_time_stands_still_or_goes_on_by_itself() -> None:
    """A still clock moves only when it is moved; a running one goes on from where it is, and stops there again."""
    wall = Clock()
    clock = ServiceClock(START, running=False, wall=wall)
    wall.sleep(10)
    assert clock.now == START
    clock.advance(5)
    clock.run(running=True)
    wall.sleep(10)
    assert clock.now == START + 15
    clock.run(running=False)
    wall.sleep(10)
    assert clock.now == START + 15
    clock.restart(None, running=False)
    assert clock.now == wall()


def test_an_asynchronous_client_needs_no_socket() -> None:
    """The service is a transport for an AsyncClient too, with bodies in pieces and faults as exceptions."""
    batching = Batching(batch={"api_faults": [{"on": "content", "kind": "half", "after": 1}]})
    output = batching.ended(batching.rows(1_000))["output_file_id"]

    async def pieces() -> list[int]:
        async with httpx.AsyncClient(transport=batching.service, base_url=batching.service.url) as client:
            async with client.stream("GET", f"/files/{output}/content") as reply:
                sizes = [len(piece) async for piece in reply.aiter_raw()]
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(f"/files/{output}/content")
            return sizes

    sizes = asyncio.run(pieces())
    assert len(sizes) > 2
    assert max(sizes) == 65_536
