"""Several endpoints: rows go by weight to those that are up, each keeps its limits and its key, and each is booked."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from parquill.tasks.errors import ServiceStopped
from tests.tools.direct import job_of, results, run_steps, summary_of
from tests.tools.endpoints import (
    Fault,
    Outage,
    Services,
    bad_key,
    endpoints,
    no_quota,
    no_such_model,
    refused_connection,
    server_error,
)
from tests.tools.simulated_day import Day

A, B = "a.example", "b.example"


@pytest.fixture(autouse=True)
def _ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")


def _day(folder: Path, services: Services, rows: int, **job: Any) -> Day[Services]:
    given: dict[str, Any] = {"lane": "live", "endpoints": endpoints(A, B), "limits": {"max_at_once": 8}, **job}
    return Day(folder, services, rows, **given)


def _statuses(day: Day[Services]) -> Counter[str]:
    return Counter(outcome.status for outcome in day.outcomes)


def test_rows_go_by_weight(tmp_path: Path) -> None:
    """Without limits, each endpoint gets its share of the rows, and the rows say where they were answered."""
    services = Services()
    day = _day(tmp_path, services, 400, endpoints=endpoints(A, B, weight=[3, 1])).pass_by()
    assert _statuses(day) == {"ok": 400}
    assert services.answered[A] == pytest.approx(300, abs=3)
    assert Counter(outcome.endpoint for outcome in day.outcomes) == services.answered


def test_each_endpoint_keeps_its_own_limits(tmp_path: Path) -> None:
    """No endpoint gets more than its own limit in any minute, and both limits are used, whatever the weights are."""
    services = Services()
    limits = [{"requests_per_minute": 60}, {"requests_per_minute": 30, "max_at_once": 2}]
    day = _day(tmp_path, services, 270, endpoints=endpoints(A, B, limits=limits, weight=[1, 5])).pass_by()
    assert _statuses(day) == {"ok": 270}
    assert services.most_in_a_minute(A) <= 60
    assert services.most_in_a_minute(B) <= 30
    assert services.most_at_once[B] <= 2
    assert day.seconds < 1.03 * 180 + 2  # 270 rows at 90 a minute


def test_the_endpoints_keep_the_most_at_once_together(tmp_path: Path) -> None:
    """All endpoints together have at most `limits.max_at_once` requests under way, so that a kill risks no more."""
    services = Services()
    _day(tmp_path, services, 60, limits={"max_at_once": 3}).pass_by()
    assert services.most_at_once["all"] == 3


@pytest.mark.parametrize("fault", [refused_connection, server_error])
def test_an_endpoint_that_fails_is_left_and_used_again(tmp_path: Path, fault: Fault) -> None:
    """Rows go to the other endpoint while one fails, at the cost of few requests; afterwards both are used again."""
    services = Services(Outage(A, fault, 30, 330))
    day = _day(tmp_path, services, 2_000, retry={"attempts": 2}, limits={"max_at_once": 4}).pass_by()
    assert _statuses(day) == {"ok": 2_000}
    assert sum(30 <= time < 330 for time in services.sent[A]) < 60  # a few of all, then single ones
    assert services.answered[B] > services.answered[A] > 350
    assert day.warnings[0].startswith(f"every request to the endpoint {A} fails: ")
    assert any(warning.startswith(f"the endpoint {A} answers again after") for warning in day.warnings)


@pytest.mark.parametrize("fault", [bad_key, no_quota, no_such_model])
def test_an_endpoint_that_refuses_is_left_and_used_again(tmp_path: Path, fault: Fault) -> None:
    """An endpoint without quota, or that refuses the key or the model, rests; once it takes requests, it is used."""
    services = Services(Outage(A, fault, 30, 330))
    day = _day(tmp_path, services, 3_000, retry={"attempts": 1}, limits={"max_at_once": 4}).pass_by()
    assert _statuses(day) == {"ok": 3_000}
    assert [time for time in services.sent[A] if 60 <= time < 449] == pytest.approx([90, 210], abs=10)  # then at 450
    assert services.answered[B] > services.answered[A] > 500
    assert f"the endpoint {A} gets no requests for now, the other endpoints take over: " in " ".join(day.warnings)
    assert day.warnings[-1] == f"the endpoint {A} answers again"


@pytest.mark.parametrize("fault", [refused_connection, server_error, bad_key, no_quota, no_such_model])
def test_an_endpoint_that_never_answers_costs_no_row(tmp_path: Path, fault: Fault) -> None:
    """Also a small job is completed if one of its endpoints never answers."""
    services = Services(Outage(A, fault))
    day = _day(tmp_path, services, 5).pass_by()
    assert _statuses(day) == {"ok": 5}
    assert services.answered == {B: 5}


@pytest.mark.parametrize("rows", [3, 15, 200])
def test_rows_that_one_endpoint_refuses_are_answered_by_another(tmp_path: Path, rows: int) -> None:
    """An endpoint that does not know a parameter costs no row, however few rows there are; each is sent twice at most."""
    services = Services(latency_s=0.2)
    services.refuses[A] = "temperature"
    day = _day(tmp_path, services, rows, parameters={"temperature": 0}, retry={"attempts": 1}).pass_by()
    assert _statuses(day) == {"ok": rows}
    assert services.answered == {B: rows}
    assert len(services.sent[A]) <= min(rows, 40)


@pytest.mark.parametrize("of", [(A, B), (A, B, "c.example")], ids=["two", "three"])
def test_a_row_that_every_endpoint_refuses_fails(tmp_path: Path, of: tuple[str, ...]) -> None:
    """A bad row is sent to each endpoint once, and fails with their reason. No other row and no endpoint suffers."""
    services = Services(latency_s=0.2)
    services.bad_texts = {"text 3", "text 50", "text 51", "text 199"}
    day = _day(tmp_path, services, 200, endpoints=endpoints(*of)).pass_by()
    assert _statuses(day) == {"ok": 196, "failed": 4}
    assert {outcome.attempts for outcome in day.outcomes if outcome.status == "failed"} == {len(of)}
    assert sum(map(len, services.sent.values())) == 196 + 4 * len(of)
    assert day.warnings == []


def test_a_run_stops_if_every_endpoint_refuses_every_row(tmp_path: Path) -> None:
    """If all endpoints refuse all rows for a parameter, the run stops with the reason, and no row gets an outcome."""
    services = Services(latency_s=0.2)
    services.refuses |= dict.fromkeys((A, B), "temperature")
    day = _day(tmp_path, services, 3_000, parameters={"temperature": 0}).pass_by()
    assert day.outcomes == []
    assert sum(map(len, services.sent.values())) < 150
    assert day.stop is not None
    assert "in a row were refused for the same reason: the service refused the request" in str(day.stop.message)


@pytest.mark.parametrize("fault", [bad_key, no_quota])
def test_the_run_stops_if_no_endpoint_is_left(tmp_path: Path, fault: Fault) -> None:
    """If every endpoint refuses, the run stops, no row fails, and the next start completes the rows."""
    services = Services(Outage(A, fault, 0, 600), Outage(B, fault, 0, 600))
    day = _day(tmp_path, services, 50).pass_by()
    assert day.outcomes == []
    assert day.seconds < 60
    assert sum(map(len, services.sent.values())) < 30
    services.passed_s = 700
    assert _statuses(day.pass_by()) == {"ok": 50}


def test_all_endpoints_down_is_an_outage(tmp_path: Path) -> None:
    """If all endpoints fail for a while, the run waits, costs no row its attempts, and continues by itself."""
    services = Services(Outage(A, server_error, 20, 200), Outage(B, refused_connection, 30, 260))
    day = _day(tmp_path, services, 2_000, retry={"attempts": 3}).pass_by()
    assert _statuses(day) == {"ok": 2_000}
    assert sum(60 <= time < 190 for times in services.sent.values() for time in times) < 60


def test_an_endpoint_that_hangs_is_left(tmp_path: Path) -> None:
    """An endpoint that takes requests and never answers costs a few time-outs, and no row.

    Meanwhile it takes no more than its share of the places: the other endpoint is never idle.
    """
    services = Services(Outage(A, None))
    day = _day(tmp_path, services, 1_500, retry={"attempts": 3}).pass_by()
    assert _statuses(day) == {"ok": 1_500}
    assert len(services.sent[A]) < 20  # three times its share of the places, then single ones
    times = services.sent[B]
    assert max(later - earlier for earlier, later in pairwise(times[:1_480])) < 2.1  # each answer takes one second


def test_a_late_answer_does_not_end_a_rest(tmp_path: Path) -> None:
    """Answers to requests from before an endpoint was left do not bring it back: it may have run out of quota since."""
    services = Services(Outage(A, no_quota, 30.5), latency_s=10)
    day = _day(tmp_path, services, 80).pass_by()
    assert _statuses(day) == {"ok": 80}
    assert not [warning for warning in day.warnings if "answers again" in warning]
    assert len([warning for warning in day.warnings if "gets no requests" in warning]) == 1


def test_each_endpoint_has_its_own_name_of_the_output_limit(tmp_path: Path) -> None:
    """An endpoint that refuses the usual name of max_output_tokens is asked again by the other one, and used."""
    services = Services(latency_s=0.2)
    services.refuses[A] = "max_completion_tokens"
    day = _day(tmp_path, services, 200, model="gpt-6-luna").pass_by()
    assert _statuses(day) == {"ok": 200}
    assert services.answered[A] == pytest.approx(100, abs=25)
    assert {body.get("max_tokens") for body in services.bodies[B]} == {None}


# ---- money, keys and results


def _settings(folder: Path, rows: int = 20, **changes: Any) -> dict[str, Any]:
    given = {"endpoints": endpoints(A, B), "limits": {"max_at_once": 4}, **changes}
    return job_of(folder, [f"text {number}" for number in range(rows)], "", **given)


def _price(usd: float) -> dict[str, float]:
    return {"usd_per_mtok_input": usd, "usd_per_mtok_output": usd}


def test_each_endpoint_has_its_own_price(tmp_path: Path) -> None:
    """M4: Each row costs what its endpoint charges, and the summary says what was bought where, to the last digit."""
    settings = _settings(tmp_path, endpoints=endpoints(A, B, price=[_price(1), _price(3)], weight=[3, 1]))
    run_steps(settings, transport=Services(latency_s=0).open)
    rows, found = results(settings), summary_of(settings)
    costs = {A: Decimal("0.00003"), B: Decimal("0.00009")}  # 30 tokens
    assert {row["endpoint"]: row["cost_usd"] for row in rows} == costs
    assert all(row["cost_usd"] == costs[row["endpoint"]] for row in rows)
    counts = Counter(row["endpoint"] for row in rows)
    assert found["endpoints"] == {
        host: {
            "requests": counts[host],
            "rows": counts[host],
            "cost_usd": f"{counts[host] * costs[host]:.9f}",
            "in_doubt_usd": "0.000000000",
            "prompt_tokens": 20 * counts[host],
            "completion_tokens": 10 * counts[host],
        }
        for host in (A, B)
    }
    assert Decimal(found["paid_usd"]) == sum(row["cost_usd"] for row in rows)
    # the plan has the most expensive endpoint as the worst case
    assert Decimal(found["estimate"]["cost_usd_worst"]) > 20 * 50 * Decimal("0.000003")


def test_the_budget_holds_whatever_endpoint_answers(tmp_path: Path) -> None:
    """M1: Rows that the budget cannot pay for at one endpoint go to a cheaper one, and the rest is not sent."""
    # 70 tokens at worst: $0.000007 and $0.0007; the expensive endpoint has room for one row at a time
    budget = {"run_usd": "0.00075", "when_short": "partial"}
    settings = _settings(tmp_path, endpoints=endpoints(A, B, price=[_price(0.1), _price(10)]), budget=budget)
    services = Services(latency_s=0)
    run_steps(settings, transport=services.open)
    rows = results(settings)
    assert {row["status"] for row in rows} == {"ok"}
    assert services.answered[B] in {1, 2}
    assert sum(row["cost_usd"] for row in rows) <= Decimal("0.00075")


def test_a_key_goes_to_its_own_endpoint_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S1: Each endpoint gets its own key and no other one, also while the other endpoint fails."""
    monkeypatch.setenv("KEY_A", "sk-canary-of-a-0000")
    monkeypatch.setenv("KEY_B", "sk-canary-of-b-1111")
    settings = _settings(tmp_path, rows=60, endpoints=endpoints(A, B, api_key_env=["KEY_A", "KEY_B"]))
    services = Services(Outage(A, bad_key), latency_s=0)
    run_steps(settings, transport=services.open)
    assert services.headers == {A: {"Bearer sk-canary-of-a-0000"}, B: {"Bearer sk-canary-of-b-1111"}}
    assert {row["endpoint"] for row in results(settings)} == {B}


def test_a_model_has_its_own_name_at_each_endpoint(tmp_path: Path) -> None:
    """Each endpoint is asked for the model under the name that it knows."""
    settings = _settings(tmp_path, endpoints=endpoints(A, B, model=["gpt-4o-mini", "gpt-4o"]))
    services = Services(latency_s=0)
    run_steps(settings, transport=services.open)
    assert {host: {body["model"] for body in bodies} for host, bodies in services.bodies.items()} == {
        A: {"gpt-4o-mini"},
        B: {"gpt-4o"},
    }


def test_an_answer_is_reused_whatever_endpoint_gave_it(tmp_path: Path) -> None:
    """The request key has the common name only: other keys, weights, addresses and endpoints pay for no answer again."""
    first = _settings(tmp_path, endpoints=endpoints(A, B, name="pool"))
    run_steps(first, transport=Services(latency_s=0).open)
    keys = [row["request_key"] for row in results(first)]
    given = {"state": f"{first['output']}/.parquill", "output": str(tmp_path / "again")}
    others: list[dict[str, Any]] = [
        {"endpoints": endpoints(B, "c.example", name="pool", weight=[9, 1])},
        {"endpoints": endpoints(B, name="pool")},
    ]
    alone = {"base_url": "https://d.example/v1", "name": "pool"}
    for number, more in enumerate([*others, {"endpoint": alone}]):
        settings = job_of(tmp_path, [f"text {row}" for row in range(20)], "", **{**given, **more})
        settings["output"] += str(number)
        again = Services(latency_s=0)
        run_steps(settings, transport=again.open)
        assert again.answered == {}
        assert [row["request_key"] for row in results(settings)] == keys
        assert {row["endpoint"] for row in results(settings)} == {A, B}  # where they were bought


def test_the_next_start_continues_with_other_keys_and_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that its endpoints stopped is resumed under its id after keys, weights and limits were changed."""
    monkeypatch.setenv("KEY_B", "sk-of-b-1111")
    settings = _settings(tmp_path)
    broken = Services(Outage(A, bad_key), Outage(B, bad_key), latency_s=0)
    run_steps(settings, transport=broken.open)
    stopped = summary_of(settings)
    assert (stopped["state"], stopped["exit_code"]) == ("stopped", ServiceStopped.exit_code)
    limits = {"requests_per_minute": 100_000}
    settings["endpoints"] = endpoints(A, B, api_key_env=[None, "KEY_B"], weight=[1, 4], limits=limits)
    run_steps(settings, transport=Services(latency_s=0).open)
    found = summary_of(settings)
    assert found["run_id"] == stopped["run_id"]
    assert {row["status"] for row in results(settings)} == {"ok"}
    sent = sum(each["requests"] for each in found["endpoints"].values())
    assert sent == found["requests"]["sent"] == 20 + stopped["requests"]["sent"]


def test_other_prices_are_another_run(tmp_path: Path) -> None:
    """An endpoint with another price, or one more endpoint, makes a new run with prices of its own."""
    settings = _settings(tmp_path, endpoints=endpoints(A, B, price=[_price(1), _price(3)], name="pool"))
    broken = Services(Outage(A, bad_key), Outage(B, bad_key), latency_s=0)
    run_steps(settings, transport=broken.open)
    stopped = summary_of(settings)["run_id"]
    settings["endpoints"] = endpoints(A, B, price=[_price(1), _price(5)], name="pool")
    done = run_steps(settings, transport=Services(latency_s=0).open)
    assert done is not None
    assert done[0].run_id != stopped
    assert {row["cost_usd"] for row in results(settings) if row["endpoint"] == B} == {Decimal("0.00015")}
