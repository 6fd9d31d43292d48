"""The batch lane against a strict Batch API: each row is paid once, whatever fails, and nothing that is paid is lost."""

from __future__ import annotations

import asyncio
import stat
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from parquill.tasks.errors import BadJob, Interrupted, WaitsForBatch
from parquill.tasks.job.load import make_job
from parquill.tasks.llm.next_batch import NextBatch
from parquill.tasks.llm.open_senders import open_sender, open_senders
from parquill.tasks.llm.pace import Pace
from parquill.tasks.llm.pilot import run_pilot
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.prices import find_price
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.storage.folders import Folders, lock_folders
from parquill.tasks.storage.replay import replay_shard
from tests.fakes.batching import START
from tests.fakes.in_process import InProcess
from tests.tools.direct import job_of, results, run_steps, summary_of

MODEL = "gpt-6-luna"
ROWS = 30


class Night:
    """A batch job over some rows, and its service; waiting moves the service's time."""

    def __init__(self, folder: Path, rows: int = ROWS, *, batch: Mapping[str, Any] | None = None, **job: Any) -> None:
        self.folder = folder
        self.service = InProcess(clock_start=START, batch={"rows_per_s": 1, **(batch or {})})
        self.texts = [f"text {number}" for number in range(rows)]
        given = {"model": MODEL, "lane": "batch", "max_output_tokens": 40, "endpoint": self._endpoint(), **job}
        self.settings = job_of(folder, self.texts, self.service.url, **given)
        self.transport: Any = self.service.open

    def _endpoint(self) -> dict[str, Any]:
        return {"base_url": self.service.url, "allow_http": True, "api_key_env": None}

    def run(self, meanwhile: Callable[[], object] = lambda: None, *, stay_s: float | None = None) -> None:
        """Run the job to its end, or to its next stop; `meanwhile` is called during each wait."""

        async def sleep(seconds: float) -> None:
            assert self.service.advance(seconds) < START + 30 * 86_400, "the run waits forever"
            assert len(self.service.calls("create")) < 60, "the run makes batches forever"
            meanwhile()
            await asyncio.sleep(0.0005)

        pace = Pace(sleep, lambda: self.service.advance(0))
        run_steps(self.settings, transport=self.transport, pace=pace, stay_s=stay_s)

    def after(self, batches: int, **options: Any) -> None:
        """Change options of the service once it has made so many batches."""
        if self.batches == batches:
            self.service.configure(batch=options)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the results."""
        return results(self.settings)

    @property
    def summary(self) -> dict[str, Any]:
        """The summary of the run."""
        return summary_of(self.settings)

    @property
    def batches(self) -> int:
        """Batches that the service has created."""
        return len(self._list())

    def latest_batch(self) -> dict[str, Any]:
        """The latest batch, as the service shows it."""
        return self._list()[0]

    def _list(self) -> list[dict[str, Any]]:
        client = httpx.Client(transport=self.service, base_url=self.service.url)
        found: list[dict[str, Any]] = client.get("/batches").json()["data"]
        return found

    @property
    def billed(self) -> Counter[str]:
        """How often each request was billed in a batch."""
        return Counter(row["content"] for row in self.service.bills()["rows"])

    def check_money(self) -> None:
        """Check that results, summary, ledger and the service's bills agree, to the last digit."""
        summary, bills = self.summary, self.service.bills()
        paid = sum((row["cost_usd"] for row in self.rows), Decimal(0))
        assert Decimal(summary["cost_usd"]) == paid == Decimal(bills["lanes"]["batch"]["usd"]), bills["lanes"]
        with Ledger() as ledger:
            booked = ledger.of_run(summary["run_id"], datetime.now(UTC))
        assert booked.settled_nano == int(paid.scaleb(9))
        assert booked.submitted_nano == booked.leased_nano == 0


@pytest.fixture(autouse=True)
def _ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")


def test_a_run_in_batches(tmp_path: Path) -> None:
    """M6, M8: Every row has its answer at the batch price, one batch was made, and nothing is left at the service."""
    night = Night(tmp_path)
    night.run()
    assert [(row["status"], row["lane"], row["attempts"]) for row in night.rows] == [("ok", "batch", 1)] * ROWS
    assert all(row["completion"].endswith(f":{row['text']}") for row in night.rows)
    assert night.batches == 1
    night.check_money()
    assert list((_run_folder(night) / "batches").glob("*.jsonl")) == []
    assert list((_run_folder(night) / "batches").glob("*.results")) == []


def _run_folder(night: Night) -> Path:
    return Path(night.settings["output"]) / ".parquill" / "runs" / str(night.summary["run_id"])


class Killed(Exception):
    """Stands for the end of the process: no later call reaches the service."""


class Cut(httpx.AsyncBaseTransport):
    """A service that a process calls until it is killed, at one call, before or after that is carried out."""

    def __init__(self, service: InProcess, at: int, *, is_carried_out: bool) -> None:
        self._service, self._at, self._is_carried_out = service, at, is_carried_out
        self.calls = 0

    def __call__(self) -> Cut:
        return self

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.calls += 1
        if self.calls < self._at:
            return await self._service.handle_async_request(request)
        if self.calls == self._at and self._is_carried_out:
            await self._service.handle_async_request(request)
        raise Killed


@pytest.mark.parametrize("is_carried_out", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 10))
def test_a_run_that_is_killed_at_any_call(tmp_path: Path, at: int, is_carried_out: bool) -> None:  # noqa: FBT001 - parametrized
    """M8, C1: Whatever call a run is killed at, before it or after it, the next start completes it.
    Every row is billed once, so no second batch was made for it.
    """
    night = Night(tmp_path, batch={"poll_advance_s": 40})
    cut = Cut(night.service, at, is_carried_out=is_carried_out)
    night.transport = cut
    try:
        night.run()
        assert cut.calls < at, "the run ended although it was killed"
        assert at > 8, "too few calls are tried"
    except Killed:
        night.transport = night.service.open
        night.run()
    assert [row["status"] for row in night.rows] == ["ok"] * ROWS
    assert set(night.billed.values()) == {1}
    assert night.batches == 1
    night.check_money()


def _statuses(night: Night) -> Counter[str]:
    return Counter(row["status"] for row in night.rows)


@pytest.mark.parametrize(
    "batch",
    [
        {"request_counts": "zero"},
        {"request_counts": "all_completed"},
        {"request_counts": "null"},
        {"usage": "null"},
        {"usage": "wrong"},
        {"no_errors": "empty_text"},
        {"no_errors": "empty_file"},
        {"errors_in_output": True},
        {"late_files_s": 100},
        {"list_lag_s": 100, "api_faults": [{"on": "create", "kind": "lost", "times": 1}]},
        {"api_faults": [{"on": "create", "kind": "done:500", "times": 1}]},
        {"api_faults": [{"on": "create", "kind": "status:500", "times": 2}]},
        {"api_faults": [{"on": "create", "kind": "half", "times": 1}]},
        {"api_faults": [{"on": "create", "kind": "garbage", "times": 1}]},
        {"api_faults": [{"on": "create", "kind": "cut", "times": 3}]},
        {"api_faults": [{"on": "create", "kind": "status:429", "times": 3}]},
        {"api_faults": [{"on": "upload", "kind": "lost", "times": 2}]},
        {"api_faults": [{"on": "upload", "kind": "status:503", "times": 2}]},
        {"api_faults": [{"on": "batch", "kind": "status:500", "times": 20}]},
        {"api_faults": [{"on": "batch", "kind": "cut", "times": 20}]},
        {"api_faults": [{"on": "batch", "kind": "status:404", "times": 2, "after": 2}]},
        {"api_faults": [{"on": "content", "kind": "half", "times": 2}]},
        {"api_faults": [{"on": "content", "kind": "status:500", "times": 2}]},
        {"api_faults": [{"on": "delete", "kind": "status:500"}]},
        {"row_faults": [{"kind": "foreign", "probability": 0.3}]},
        {"dialect": "azure"},
    ],
    ids=str,
)
def test_what_a_service_may_do(tmp_path: Path, batch: dict[str, Any]) -> None:
    """M8: Whatever a batch says of its counts, whichever call fails for a while: each row is billed once and answered."""
    night = Night(tmp_path, batch=batch)
    night.run()
    assert _statuses(night) == {"ok": ROWS}
    assert set(night.billed.values()) == {1}
    assert night.batches == 1
    night.check_money()


@pytest.mark.parametrize("list_remainder", [True, False])
def test_rows_of_an_expired_batch(tmp_path: Path, list_remainder: bool) -> None:  # noqa: FBT001 - parametrized
    """M8: What an expired batch has completed is kept. Its other rows go into the next batch, and cost nothing there,
    unless neither file has them: then they may be billed, and stay in doubt.
    """
    night = Night(tmp_path, batch={"stall_after_rows": 11, "list_remainder": list_remainder})
    night.run(lambda: night.after(2, stall_after_rows=None))
    assert _statuses(night) == {"ok": ROWS}
    assert night.batches == 2
    assert set(night.billed.values()) == {1}
    doubtful = [row for row in night.rows if row["in_doubt_usd"]]
    assert len(doubtful) == (0 if list_remainder else ROWS - 11)
    assert Counter(row["attempts"] for row in night.rows) == {1: 11, 2: ROWS - 11}


def test_a_batch_that_fails_on_its_way(tmp_path: Path) -> None:
    """M8: Rows that a failed batch has completed are paid and kept; the others go into another batch."""
    night = Night(tmp_path, batch={"fail_after_rows": 12})
    night.run(lambda: night.after(2, fail_after_rows=None))
    assert _statuses(night) == {"ok": ROWS}
    assert set(night.billed.values()) == {1}


@pytest.mark.parametrize(
    ("batch", "code"),
    [
        ({"withhold_output": True}, "batch_missing"),
        ({"vanish_after_s": 50, "rows_per_s": 0.01}, "batch_lost"),
        ({"row_faults": [{"kind": "missing"}]}, "batch_missing"),
        ({"row_faults": [{"kind": "null_body"}]}, "bad_reply"),
    ],
    ids=["output withheld", "vanished", "rows missing", "empty bodies"],
)
def test_paid_rows_that_cannot_be_read(tmp_path: Path, batch: dict[str, Any], code: str) -> None:
    """M5, M8: A row whose reply never comes may be billed: it stays in doubt with its reservation, within the budget.
    With `retry.in_doubt: hold` it is not sent again.
    """
    night = Night(tmp_path, batch=batch, retry={"in_doubt": "hold"}, budget={"run_usd": "0.001"})
    night.run()
    assert Counter((row["status"], row["error_code"]) for row in night.rows) == {("failed", code): ROWS}
    assert all(row["in_doubt_usd"] > 0 == row["cost_usd"] for row in night.rows)
    assert max(night.billed.values()) == 1
    assert Decimal(night.summary["in_doubt_usd"]) <= Decimal("0.001")


@pytest.mark.parametrize("kind", ["status_code_zero", "error:batch_failed_row", "status:500", "status:429"])
def test_rows_that_a_batch_did_not_run(tmp_path: Path, kind: str) -> None:
    """M5: Rows that fail in a batch go into another one, within `retry.attempts`."""
    rule = {"kind": kind, "probability": 0.4, "billed": False, "times": 1}
    night = Night(tmp_path, batch={"row_faults": [rule]})
    night.run()
    assert _statuses(night) == {"ok": ROWS}
    assert night.batches == 2
    assert set(night.billed.values()) == {1}
    if not kind.startswith("error"):
        night.check_money()


def test_rows_that_fail_each_time(tmp_path: Path) -> None:
    """M7: A row that fails in each batch is sent as often as `retry.attempts` says, and fails with its code."""
    rules = [{"kind": "status:500", "probability": 0.4, "billed": False}]
    night = Night(tmp_path, batch={"row_faults": rules}, retry={"attempts": 3})
    night.run()
    failed = {(row["error_code"], row["attempts"]) for row in night.rows if row["status"] != "ok"}
    assert failed == {("server_error", 3)}
    assert night.batches == 3
    night.check_money()


def test_a_batch_of_refused_rows_stops_the_run(tmp_path: Path) -> None:
    """If every row of a batch is refused for the same reason, nothing more is submitted, and no row loses an attempt."""
    night = Night(tmp_path, batch={"row_faults": [{"kind": "status:400"}]})
    night.run()
    assert night.summary["state"] == "stopped"
    assert night.summary["exit_code"] == 1
    assert "HTTP 400" in night.summary["message"]
    assert _statuses(night) == {"failed": ROWS}
    assert night.batches == 1
    night.service.configure(batch={"row_faults": []})
    night.run()
    assert _statuses(night) == {"ok": ROWS}
    night.check_money()


@pytest.mark.parametrize("code", ["invalid_json_line", "model_not_found"])
def test_a_batch_that_is_refused(tmp_path: Path, code: str) -> None:
    """A batch that fails its validation costs nothing, and the run stops with the service's reason."""
    night = Night(tmp_path, batch={"fail_with": code})
    night.run()
    assert (night.summary["state"], night.summary["exit_code"]) == ("stopped", 1)
    assert code in night.summary["message"]
    assert _statuses(night) == {"not_sent": ROWS}
    night.service.configure(batch={"fail_with": None})
    night.run()
    assert _statuses(night) == {"ok": ROWS}
    assert set(night.billed.values()) == {1}
    night.check_money()


@pytest.mark.parametrize("own", [False, True], ids=["learned", "set"])
@pytest.mark.parametrize("limit", [150, 40])
def test_a_quota_of_tokens(tmp_path: Path, limit: int, own: bool) -> None:  # noqa: FBT001 - parametrized
    """If all rows exceed the service's limit of enqueued tokens, they go out in several batches, one after another.
    The limit is set in the job, or learned from refusals, which cost nothing.
    """
    limits = {"batch_tokens": limit} if own else {}
    night = Night(tmp_path, batch={"enqueued_tokens": limit}, limits=limits)
    night.run()
    assert _statuses(night) == {"ok": ROWS}
    assert set(night.billed.values()) == {1}
    night.check_money()
    refused = sum("token_limit" in str(call) for call in night.service.calls("batch"))
    assert not refused


def test_a_budget_that_holds_a_part(tmp_path: Path) -> None:
    """M1: If the worst case of all rows does not fit the budget, what fits is submitted, and the rest after its end."""
    night = Night(tmp_path, budget={"run_usd": "0.0002", "when_short": "partial"})
    night.run()
    assert Decimal(night.summary["estimate"]["cost_usd_worst"]) > Decimal("0.0002")
    assert _statuses(night) == {"ok": ROWS}
    assert night.batches > 1
    night.check_money()


def test_a_batch_that_a_person_cancels(tmp_path: Path) -> None:
    """A batch that is cancelled at the service stops the run. What it completed is kept, and the next start sends
    the rest.
    """
    night = Night(tmp_path, batch={"cancelling_s": 10})

    def cancel() -> None:
        if night.batches == 1 and (batch := night.latest_batch())["status"] == "in_progress":
            httpx.Client(transport=night.service).post(f"{night.service.url}/batches/{batch['id']}/cancel")

    night.run(cancel)
    assert night.summary["exit_code"] == 1
    assert "cancelled at the service" in night.summary["message"]
    done = _statuses(night)["ok"]
    night.run()
    assert _statuses(night) == {"ok": ROWS}
    assert set(night.billed.values()) == {1}
    assert night.batches == 2
    assert done < ROWS
    night.check_money()


@pytest.mark.parametrize("api", ["chat", "responses", "completions"])
def test_each_api(tmp_path: Path, api: str) -> None:
    """Each API that has batches is completed in batches."""
    endpoint = {"base_url": "http://fake.test/v1", "allow_http": True, "api_key_env": None, "api": api}
    night = Night(tmp_path, endpoint=endpoint)
    night.run()
    assert _statuses(night) == {"ok": ROWS}
    night.check_money()


def test_an_answer_that_does_not_match_its_schema(tmp_path: Path) -> None:
    """`response_format` is validated as in the live lane: a wrong answer is invalid, paid, and not sent again."""
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    night = Night(tmp_path, response_format=schema)
    night.run()
    assert set(_statuses(night)) <= {"ok", "invalid"}
    assert set(night.billed.values()) == {1}
    night.check_money()


@pytest.mark.parametrize("cancelling_s", [0, 10_000], ids=["ends in time", "ends later"])
def test_a_stop_cancels_the_batches(tmp_path: Path, cancelling_s: float) -> None:
    """C7: A stop cancels the batches. What they have completed is collected, at once or by the next start, which sends
    the rest; no row is paid twice, and the batch is not taken for one that a person has cancelled.
    """
    night = Night(tmp_path, batch={"cancelling_s": cancelling_s, "rows_per_s": 0.05})

    def stop() -> None:
        if len(night.billed) > 5:
            for run_sender in open_senders():
                run_sender.request_stop(2.0)

    with pytest.raises(Interrupted, match="rows left; run again to resume"):
        night.run(stop)
    paid = len(night.billed)
    assert 5 < paid < ROWS
    journal = replay_shard(_run_folder(night) / "journals" / "000000.journal")
    assert len(journal.outcomes) == (0 if cancelling_s else paid)
    night.run()
    assert _statuses(night) == {"ok": ROWS}
    assert set(night.billed.values()) == {1}
    assert night.batches == 2
    night.check_money()


def test_a_stop_before_the_first_look_cancels_the_batches(tmp_path: Path) -> None:
    """C7: A start that is stopped before it has looked at the batches of an earlier start cancels them too, and
    collects what they have completed.
    """
    night = Night(tmp_path, batch={"rows_per_s": 0.001, "cancelling_s": 0})
    with pytest.raises(WaitsForBatch):
        night.run(stay_s=1)
    night.service.configure(batch={"rows_per_s": 0.5})
    night.service.advance(80)
    paid = len(night.billed)
    assert 5 < paid < ROWS
    job, options = resolve_job(make_job(night.settings), None, None, ())
    with lock_folders(Folders.of(job.output, job.state), "a test"):
        run = prepare_run(job, options)
        assert run is not None
        with open_sender(run, night.transport) as run_sender:
            run_sender.request_stop(20.0).result(30)
    assert night.latest_batch()["status"] == "cancelled"
    assert run.open_batches == 0
    assert run.totals().statuses == {"ok": paid}
    night.run()
    assert _statuses(night) == {"ok": ROWS}
    assert set(night.billed.values()) == {1}
    night.check_money()


def test_a_batch_that_the_service_never_ends(tmp_path: Path) -> None:
    """M8: Azure does not end a batch after a day. Parquill cancels it then, keeps what it completed, and sends the rest."""
    night = Night(tmp_path, batch={"dialect": "azure", "stall_after_rows": 9, "cancelling_s": 60})

    night.run(lambda: night.after(2, stall_after_rows=None))
    assert _statuses(night) == {"ok": ROWS}
    assert night.batches == 2
    assert set(night.billed.values()) == {1}
    night.check_money()


def test_a_pilot_is_sent_at_once(tmp_path: Path) -> None:
    """M1, M6: The pilot of a batch job sends its rows by themselves, reserves and pays the standard price, and says so;
    the rest goes into batches.
    """
    night = Night(tmp_path, rows=60)
    job, options = resolve_job(make_job(night.settings), None, None, ())
    folders = Folders.of(job.output, job.state)
    folders.create()
    with lock_folders(folders, "a test"):
        run = prepare_run(job, options)
        assert run is not None
        assert run_pilot(run, 10, transport=night.service.open).rows == 10
        state = replay_shard(run.folder.journal(0))
    standard = find_price(MODEL, None, run.day)
    assert all(row.reserved_nano >= standard.worst_nano(5, 40) for row in state.rows.values())
    night.run()
    assert Counter((row["status"], row["lane"]) for row in night.rows) == {("ok", "live"): 10, ("ok", "batch"): 50}
    bills = night.service.bills()["lanes"]
    assert Decimal(night.summary["cost_usd"]) == sum(Decimal(lane["usd"]) for lane in bills.values())
    assert {name: lane["rows"] for name, lane in night.summary["lanes"].items()} == {"live": 10, "batch": 50}


def test_files_are_private(tmp_path: Path) -> None:
    """S3: The files of requests and replies can be read by their owner only."""
    night = Night(tmp_path)
    modes: set[str] = set()

    class Watch(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            folder = next((Path(night.settings["output"]) / ".parquill" / "runs").glob("*/batches"))
            modes.update(stat.filemode(path.stat().st_mode) for path in [folder, *folder.iterdir()])
            return await night.service.handle_async_request(request)

    night.transport = Watch
    night.run()
    assert modes == {"drwx------", "-rw-------"}


def test_nothing_is_uploaded_before_its_intent_is_synced(tmp_path: Path) -> None:
    """M8: When the first byte of a batch leaves, the journal on disk already has its rows and their reservations."""
    night = Night(tmp_path)
    found = []

    class Watch(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "POST" and request.url.path.endswith("/files"):
                (journal,) = (Path(night.settings["output"]) / ".parquill" / "runs").glob("*/journals/*.journal")
                found.append(replay_shard(journal).totals())
            return await night.service.handle_async_request(request)

    night.transport = Watch
    night.run()
    assert [totals.submitted for totals in found] == [ROWS]
    assert found[0].submitted_nano > 0


@pytest.mark.parametrize("change", ["prompt", "input"])
def test_a_changed_job_collects_the_batches_of_its_last_run(tmp_path: Path, change: str) -> None:
    """M8: If the job has changed since its run was killed, the batches of that run are cancelled. What they completed is
    collected before anything is sent, and reused where the request is the same. Without that, nothing is planned.
    """
    night = Night(tmp_path, batch={"poll_advance_s": 40, "rows_per_s": 0.1, "cancelling_s": 30})
    night.transport = Cut(night.service, 7, is_carried_out=False)
    with pytest.raises(Killed):
        night.run()
    night.transport = night.service.open
    if change == "prompt":
        night.settings["prompt"] = {"user": "Say: {{ text }}"}
    else:
        night.settings["input"] = job_of(tmp_path / "more", [*night.texts, "one more"], night.service.url)["input"]
    job, options = resolve_job(make_job(night.settings), None, None, ())
    with pytest.raises(BadJob, match="has made batches that are not collected yet"):
        prepare_run(job, options)
    night.run()
    assert _statuses(night) == {"ok": ROWS + (change == "input")}
    assert set(night.billed.values()) == {1}
    paid = len(night.billed)
    assert paid == ROWS + 1 if change == "input" else paid > ROWS
    with Ledger() as ledger:
        month = ledger.of_month(f"{datetime.now(UTC):%Y-%m}", datetime.now(UTC))
    assert (month.submitted_nano, month.in_doubt_nano) == (0, 0)
    assert Decimal(month.settled_nano).scaleb(-9) == Decimal(night.service.bills()["lanes"]["batch"]["usd"])


def test_a_run_that_will_be_started_again(tmp_path: Path) -> None:
    """M8: A run that does not stay for its batches cancels none of them; its summary says that it is running, with what
    is reserved. The next start collects them.
    """
    night = Night(tmp_path, batch={"rows_per_s": 0.01})
    with pytest.raises(WaitsForBatch, match=r"waiting for 1 batch with 30 rows \(1 [a-z ]+\), since 20.*, until 20"):
        night.run(stay_s=60)
    assert (night.summary["state"], night.summary["requests"]["submitted"]) == ("running", ROWS)
    assert Decimal(night.summary["submitted_usd"]) > 0
    assert night.service.calls("cancel") == []
    night.run()
    assert _statuses(night) == {"ok": ROWS}
    assert night.batches == 1
    night.check_money()


def test_the_name_of_the_output_limit(tmp_path: Path) -> None:
    """M7: If the service wants max_output_tokens under the other name, a first batch finds it out at no cost; the next
    one uses that name, and so does a later start. No row loses an attempt.
    """
    price = {"usd_per_mtok_input": 1, "usd_per_mtok_output": 2}
    more = {"model": "o1x", "tokenizer": "o200k_base", "price": price, "retry": {"attempts": 1}}
    night = Night(tmp_path, 300, batch={"rows_per_s": 10}, **more)
    night.run()
    assert _statuses(night) == {"ok": 300}
    assert night.batches == 2
    assert set(night.billed.values()) == {1}
    assert (_run_folder(night) / "batches" / "limit_name.json").exists()


def test_rows_that_meet_429_in_each_batch(tmp_path: Path) -> None:
    """M7: A row that meets 429 in each batch fails after `retry.attempts` batches; the others have their answers."""
    rule = {"kind": "status:429", "match": "text 7", "billed": False}
    night = Night(tmp_path, batch={"row_faults": [rule]}, retry={"attempts": 3})
    night.run()
    assert _statuses(night) == {"ok": ROWS - 1, "failed": 1}
    assert {row["error_code"] for row in night.rows if row["status"] == "failed"} == {"rate_limited"}
    assert night.batches == 3


def test_nothing_follows_a_refused_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the service refuses a batch of a shard, the shard's other rows are not sent in another one."""
    monkeypatch.setattr("parquill.tasks.llm.batch_input.MAX_ROWS", 10)
    night = Night(tmp_path, batch={"api_faults": [{"on": "create", "kind": "status:400"}]})
    night.run()
    assert len(night.service.calls("create")) == len(night.service.calls("upload")) == 1
    assert (night.summary["exit_code"], _statuses(night)) == (1, {"not_sent": ROWS})
    night.service.configure(batch={"api_faults": []})
    night.run()
    assert _statuses(night) == {"ok": ROWS}
    assert night.batches == 3
    night.check_money()


def test_rows_that_are_not_submitted_reserve_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """M1: Money of rows that were put into a batch that is not submitted is free again at once."""
    monkeypatch.setattr("parquill.tasks.llm.batch_input.MAX_ROWS", 10)
    discard = NextBatch.discard
    added: list[int] = []
    reserved: list[int] = []

    async def noted(batch: NextBatch) -> None:
        added.append(batch._draft.reserved_nano if batch._draft is not None else 0)
        await discard(batch)
        reserved.append(batch._tools.budget.reserved_nano)

    monkeypatch.setattr(NextBatch, "discard", noted)
    Night(tmp_path, batch={"api_faults": [{"on": "create", "kind": "status:400"}]}).run()
    assert any(added)
    assert set(reserved) == {0}


def test_looks_that_fail_after_a_kill(tmp_path: Path) -> None:
    """M8: A start that cannot look at its batch at first waits, and goes on as soon as it can."""
    night = Night(tmp_path)
    night.transport = Cut(night.service, 4, is_carried_out=False)
    with pytest.raises(Killed):
        night.run()
    night.transport = night.service.open
    night.service.configure(batch={"api_faults": [{"on": "batch", "kind": "status:500", "times": 30}]})
    night.run()
    assert _statuses(night) == {"ok": ROWS}
    assert night.batches == 1
    night.check_money()


def test_a_list_that_fails_after_a_kill(tmp_path: Path) -> None:
    """M8: If a batch may have been created and the service lists none of its batches, nothing is sent: the run stops,
    its money stays reserved, and a later start finds the batch.
    """
    night = Night(tmp_path, retry={"patience_s": 60})
    night.transport = Cut(night.service, 2, is_carried_out=True)
    with pytest.raises(Killed):
        night.run()
    night.transport = night.service.open
    night.service.configure(batch={"api_faults": [{"on": "batches", "kind": "status:500"}]})
    night.run()
    assert night.summary["exit_code"] == 1
    assert "it is unknown whether a batch was created" in night.summary["message"]
    assert Decimal(night.summary["submitted_usd"]) > 0
    night.service.configure(batch={"api_faults": []})
    night.run()
    assert _statuses(night) == {"ok": ROWS}
    assert night.batches == 1
    night.check_money()


def test_files_that_a_killed_process_left(tmp_path: Path) -> None:
    """S3: Files of requests and replies that a killed process left are removed by the next start."""
    night = Night(tmp_path)
    night.transport = Cut(night.service, 4, is_carried_out=False)
    with pytest.raises(Killed):
        night.run()
    (folder,) = (Path(night.settings["output"]) / ".parquill" / "runs").glob("*/batches")
    left = [folder / "a-0-b.jsonl", folder / "a-0-b.0.results"]
    for path in left:
        path.write_text("prompt")
    night.transport = night.service.open
    night.run()
    assert _statuses(night) == {"ok": ROWS}
    assert not any(path.exists() for path in left)
