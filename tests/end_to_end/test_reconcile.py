"""`parquill reconcile`: the ledger against a service's usage and costs, with other programs, rounded, and late."""

from __future__ import annotations

import csv
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from parquill.flows.cli.reconcile import find_difference
from parquill.tasks.job.load import load_job
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.ledger_uses import keep_uses
from tests.deployed.live_stack import LiveStack
from tests.fakes.running import FakeService
from tests.tools.expected import check_books
from tests.tools.jobs import Done, Jobs

KEYS = {"FIRST_KEY": "sk-first-key-00001", "SECOND_KEY": "sk-second-key-00002"}
DAY_S = 86_400


@pytest.fixture
def service(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> FakeService:
    monkeypatch.setenv("ADMIN", "sk-admin-fake")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return service


def _settings(jobs: Jobs, key: str = "FIRST_KEY", rows: int = 20, **changes: Any) -> dict[str, Any]:
    texts = [f"{key} {n} {changes.get('lane')}" for n in range(rows)]
    endpoint = {"api_key_env": key, "admin_key_env": "ADMIN"}
    output = str(jobs.folder / f"out-{key}-{changes.get('lane')}-{changes.get('model')}")
    given = str(jobs.write(texts, f"{key}-{changes.get('lane')}.parquet"))
    return jobs.job(None, endpoint=endpoint, output=output, **changes) | {"input": given}


def _reconcile(jobs: Jobs, settings: dict[str, Any], *arguments: str) -> tuple[int, dict[str, Any]]:
    done = jobs.run(settings, "--json", *arguments, command="reconcile")
    found: dict[str, Any] = orjson.loads(done.stdout)
    return done.exit_code, found


def _line(found: dict[str, Any], **place: Any) -> dict[str, Any]:
    lines: list[dict[str, Any]] = [each for each in found["lines"] if place.items() <= each.items()]
    assert len(lines) == 1
    return lines[0]


def _ask(service: FakeService, path: str) -> list[dict[str, Any]]:
    headers = {"Authorization": "Bearer sk-admin-fake"}
    found: list[dict[str, Any]] = httpx.get(f"{service.url}/organization/{path}", headers=headers).json()["data"]
    return found


def _first_key(service: FakeService) -> str:
    identity: str = _ask(service, "projects/proj_fake/api_keys")[0]["id"]
    return identity


def _complete(jobs: Jobs, settings: dict[str, Any]) -> Done:
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    check_books(done)
    return done


def test_a_month_matches_by_model_lane_and_key(jobs: Jobs) -> None:
    """Runs of two keys, two models and three lanes match line by line. The key of another program has a line of its own.

    With `--json` each line has both sides: requests, tokens and dollars.
    """
    quick = {"poll_advance_s": 3_600.0}
    jobs.service.configure(
        output_tokens="lognormal:12:0.3",
        cached_ratio=0.3,
        service_tier="asked",
        batch=quick,
        admin={"foreign": [{"at": time.time(), "model": "gpt-4o-mini", "input_tokens": 9_000_000, "output_tokens": 5}]},
    )
    luna: dict[str, Any] = {"model": "gpt-6-luna", "parameters": {"reasoning_effort": "none"}}
    runs = [
        _complete(jobs, _settings(jobs)),
        _complete(jobs, _settings(jobs, "SECOND_KEY")),
        *(_complete(jobs, _settings(jobs, lane=lane, **luna)) for lane in ("live", "flex", "batch")),
    ]
    code, found = _reconcile(jobs, _settings(jobs))
    assert (code, found["matches"], found["keys_compared"]) == (0, True, True), found
    assert Decimal(found["cost_usd"]) == sum(Decimal(done.summary["paid_usd"]) for done in runs) > 0
    places = [(line["model"], line["lane"], line["key"], line["state"]) for line in found["lines"]]
    assert places == [
        ("gpt-4o-mini", "live", "FIRST_KEY", "matched"),
        ("gpt-4o-mini", "live", "SECOND_KEY", "matched"),
        ("gpt-4o-mini", "live", "key_foreign", "other"),
        # the costs of flex are not told apart from those of the live lane
        ("gpt-6-luna", "batch+flex+live", "FIRST_KEY", "matched"),
    ]
    own = _line(found, key="SECOND_KEY")
    assert (own["requests"], own["service_requests"]) == (20, 20)
    assert own["prompt_tokens"] == own["service_prompt_tokens"] > 0
    assert own["completion_tokens"] == own["service_completion_tokens"] > 0
    assert Decimal(own["cost_usd"]) == Decimal(own["service_usd"]) == Decimal(runs[1].summary["paid_usd"])
    assert (own["difference_usd"], own["difference_percent"]) == ("0.000000000", 0)
    assert Decimal(found["others_usd"]) > 1
    assert (found["days"], found["notes"]) == ([], [])
    shown = jobs.run(_settings(jobs), command="reconcile").stdout.splitlines()
    assert shown[0].endswith(f"the ledger against {jobs.service.url}")
    assert shown[1].split()[:5] == ["model", "lane", "key", "ledger", "in"]
    assert shown[4].endswith("other programs")
    assert " matches within 1 %: ledger $" in shown[-1]
    kept = b"".join(file.read_bytes() for file in (jobs.folder / "user-state").rglob("*") if file.is_file())
    for secret in (*KEYS.values(), "sk-admin-fake"):
        assert secret.encode() not in kept
        assert secret not in "\n".join(shown)


def test_a_rounded_bill_matches_and_a_larger_one_does_not(jobs: Jobs) -> None:
    """Costs that the service rounds match within its rounding; usage by another program of the same key does not."""
    jobs.service.configure(output_tokens="fixed:40", admin={"cost_decimals": 4})
    settings = _settings(jobs, rows=100)
    _complete(jobs, settings)
    code, found = _reconcile(jobs, settings, "--tolerance", "0")
    (line,) = found["lines"]
    assert (code, line["state"]) == (0, "matched")
    assert line["service_usd"] != line["cost_usd"]
    ours = _first_key(jobs.service)
    theirs = {"at": time.time(), "model": "gpt-4o-mini", "input_tokens": 900_000, "api_key_id": ours}
    jobs.service.configure(admin={"cost_decimals": 4, "foreign": [theirs]})
    code, found = _reconcile(jobs, settings)
    (line,) = found["lines"]
    assert (code, line["state"], found["matches"]) == (1, "more_there", False)
    assert Decimal(line["difference_usd"]) == Decimal(line["service_usd"]) - Decimal(line["cost_usd"]) > Decimal("0.13")
    assert [(day["day"][:7], day["state"]) for day in found["days"]] == [(found["month"], "more_there")]
    assert found["notes"][0].startswith("the service has more: another program uses the same key")
    assert jobs.run(settings, "--tolerance", "101", command="reconcile").exit_code == 2


def test_a_service_that_is_late(jobs: Jobs) -> None:
    """Figures of today that the service does not have yet are late and no difference; a day later they would be one."""
    settings = _settings(jobs)
    _complete(jobs, settings)
    jobs.service.configure(admin={"late_s": 3_600.0})
    code, found = _reconcile(jobs, settings)
    (line,) = found["lines"]
    assert (code, line["state"], line["service_requests"]) == (0, "late", 0)
    assert found["notes"][-1].startswith("the service does not have all figures of the last day yet")


def test_what_is_in_doubt_is_explained(jobs: Jobs) -> None:
    """A request that was cut off and billed is in doubt here; the comparison finds it, and says what to do.

    Once it is resolved as paid, the same comparison has it as matched up to what it really cost.
    """
    jobs.service.configure(
        output_tokens="fixed:50", faults=[{"kind": "disconnect_after", "match": "FIRST_KEY 3 ", "times": 1}]
    )
    settings = _settings(jobs)
    _complete(jobs, settings)
    code, found = _reconcile(jobs, settings)
    (line,) = found["lines"]
    assert (code, line["state"]) == (0, "in_doubt"), found
    assert 0 < Decimal(line["difference_usd"]) <= Decimal(line["in_doubt_usd"])
    assert line["service_requests"] == line["requests"] + 1
    assert _days_later(jobs, settings, 3)["notes"][0].startswith("the service billed what is in doubt")
    month = found["month"]
    assert jobs.run(settings, "--month", month, "--resolve", "paid", command="spend").exit_code == 0
    code, found = _reconcile(jobs, settings, "--tolerance", "10")
    assert (code, found["lines"][0]["state"], found["in_doubt_usd"]) == (0, "matched", "0.000000000")


def test_nothing_of_what_is_in_doubt_was_billed(jobs: Jobs) -> None:
    """If the service did not bill a request that is in doubt, the comparison says so, and how to free the money."""
    cut = {"kind": "disconnect_before", "match": "FIRST_KEY 3 ", "times": 1}
    jobs.service.configure(faults=[cut])
    settings = _settings(jobs)
    done = _complete(jobs, settings)
    assert Decimal(done.summary["in_doubt_usd"]) > 0
    code, found = _reconcile(jobs, settings)
    assert (code, found["lines"][0]["state"]) == (0, "matched")
    assert found["notes"] == []  # today's figures may still be late
    reconcile = _days_later(jobs, settings, 3)
    advice = f"`parquill spend --month {found['month']} --resolve unpaid`, for all jobs"
    assert reconcile["notes"] == [f"the service billed nothing of what is in doubt: {advice}"]


def _days_later(jobs: Jobs, settings: dict[str, Any], days: int) -> dict[str, Any]:
    """Compare as if it were some days later."""
    job = load_job(jobs.job_file(settings))
    now = datetime.now(UTC)
    return find_difference(job, f"{now:%Y-%m}", [], {}, Decimal(1), now + timedelta(days=days))


def test_a_small_doubt_among_much_money(jobs: Jobs) -> None:
    """A request in doubt that was billed is noticed, even if it costs less than the tolerance."""
    jobs.service.configure(
        output_tokens="fixed:50", faults=[{"kind": "disconnect_after", "match": "FIRST_KEY 3 ", "times": 1}]
    )
    settings = _settings(jobs, rows=200)
    _complete(jobs, settings)
    found = _days_later(jobs, settings, 3)
    (line,) = found["lines"]
    assert (line["state"], line["service_requests"], line["requests"]) == ("matched", 201, 200)
    assert found["notes"][0].startswith("the service billed what is in doubt, or a part of it: `parquill spend ")


def test_another_ledger_is_noticed(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the runs used another ledger, what the job's own key used is a difference and not another program."""
    settings = _settings(jobs)
    _complete(jobs, settings)
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{jobs.folder / 'other.sqlite'}")
    code, found = _reconcile(jobs, settings)
    assert (code, [line["state"] for line in found["lines"]]) == (1, ["only_there"])
    assert "runs were sent with another ledger" in found["notes"][-1]


def test_a_finished_run_whose_uses_are_not_kept(jobs: Jobs) -> None:
    """A run that ended before the ledger kept what it bought is read from its journals."""
    settings = _settings(jobs)
    done = _complete(jobs, settings)
    with Ledger() as ledger:
        keep_uses(ledger, done.summary["run_id"], [])
    assert _reconcile(jobs, settings)[0] == 0


def test_a_killed_run_is_read_from_its_journals(jobs: Jobs) -> None:
    """M5: Before a killed run is resumed, its answers match and the requests under way at the kill are in doubt.

    Without its journals the comparison says what it cannot compare.
    """
    jobs.service.configure(latency_ms=30, output_tokens="fixed:50")
    settings = _settings(jobs, rows=200, limits={"max_at_once": 4}, budget={"run_usd": 1})
    killed = jobs.spawn(settings)
    LiveStack.wait("answers", lambda: jobs.service.stats()["billed"] >= 60, 120)
    killed.process.kill()
    killed.wait()
    code, found = _reconcile(jobs, settings)
    (line,) = found["lines"]
    assert (code, line["state"] in {"in_doubt", "matched"}) == (0, True), found
    assert Decimal(line["in_doubt_usd"]) > 0
    assert 60 - 4 <= line["requests"] <= line["service_requests"] <= line["requests"] + 4
    output = Path(settings["output"])
    output.rename(output.with_name("elsewhere"))
    code, found = _reconcile(jobs, settings)
    assert (code, found["matches"]) == (1, False)
    assert "its journals in" in found["notes"][0]
    assert Decimal(found["not_compared_usd"]) > 0
    output.with_name("elsewhere").rename(output)
    _complete(jobs, settings)
    assert _reconcile(jobs, settings)[0] == 0


def test_a_finished_run_needs_no_journals(jobs: Jobs) -> None:
    """What a finished run bought is in the ledger: its output and its journals may be gone."""
    settings = _settings(jobs)
    _complete(jobs, settings)
    output = Path(settings["output"])
    output.rename(output.with_name("elsewhere"))
    code, found = _reconcile(jobs, settings)
    assert (code, found["lines"][0]["state"], found["notes"]) == (0, "matched", [])


def _buckets(service: FakeService, path: str, groups: str) -> list[dict[str, Any]]:
    start = int(time.time()) // DAY_S * DAY_S - 2 * DAY_S
    return _ask(service, f"{path}?start_time={start}&bucket_width=1d&limit=31&{groups}")


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_exported_files(jobs: Jobs, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Usage and costs that were exported are compared without an admin key; keys by their ids, if they are named."""
    settings = _settings(jobs)
    _complete(jobs, settings)
    usage = _buckets(jobs.service, "usage/completions", "group_by=model&group_by=batch&group_by=api_key_id")
    costs = _buckets(jobs.service, "costs", "group_by=line_item&group_by=api_key_id")
    monkeypatch.delenv("ADMIN")
    files = []
    for name, buckets in (("usage", usage), ("costs", costs)):
        file = jobs.folder / f"{name}.{kind}"
        files.append(file)
        if kind == "json":
            file.write_bytes(orjson.dumps({"object": "page", "data": buckets}))
            continue
        with file.open("w", newline="", encoding="utf-8") as out:
            rows = [
                {"start_time": bucket["start_time"], **result} for bucket in buckets for result in bucket["results"]
            ]
            for row in rows:
                if (amount := row.pop("amount", None)) is not None:
                    row |= {"amount_value": amount["value"], "amount_currency": "usd"}
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    code, found = _reconcile(jobs, settings, *(f"--file={file}" for file in files))
    assert (code, found["keys_compared"], found["lines"][0]["state"]) == (0, False, "matched"), found
    assert "--key FIRST_KEY=ID" in found["notes"][0]
    ours = _first_key(jobs.service)
    named = [f"--file={file}" for file in files] + [f"--key=FIRST_KEY={ours}"]
    code, found = _reconcile(jobs, settings, *named)
    assert (code, found["keys_compared"], found["notes"]) == (0, True, [])
    code, found = _reconcile(jobs, settings, f"--file={files[0]}")  # usage alone: tokens are compared
    assert (code, found["lines"][0]["state"], found["service_usd"]) == (0, "matched", None)
    code, found = _reconcile(jobs, settings, f"--file={files[1]}")  # costs alone
    assert (code, found["lines"][0]["state"], found["lines"][0]["service_requests"]) == (0, "matched", None)
    done = jobs.run(settings, command="reconcile")
    assert done.exit_code == 2
    assert "ADMIN is not set" in done.stderr
    assert "--file" in done.stderr
