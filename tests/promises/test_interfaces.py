"""The promises on each way to buy completions: the same tests for every API, lane, dialect and number of endpoints.

The table in tests/README.md has what else proves them, where one way has tests of its own.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from parquill.flows.cli.local_model import running_model
from parquill.tasks.errors import BadJob, Interrupted
from parquill.tasks.llm.open_senders import open_senders
from parquill.tasks.money.ledger import Ledger
from tests.tools.interfaces import KINDS, Interface, Killed, Kind, SimulatedKind
from tests.tools.simulated_day import Day

LONG = bool(os.environ.get("LONG_CRASH"))  # `make crash` sets it: the process ends at each call
# the call at which the process ends, and whether the service still carries it out
ENDINGS = list(product(range(1, 13), [False, True])) if LONG else [(1, False), (2, True), (4, False), (7, True)]
LIVE = [name for name in KINDS if "batch" not in name]
LOCAL = pytest.param("llama.cpp", marks=pytest.mark.integration)
AT_ONCE = 3
Make = Callable[..., Interface]


@pytest.fixture(scope="session")
def local_model() -> Iterator[str]:
    """Serve the real local model, a compatible server."""
    with running_model(slots=2) as url:
        yield url


@pytest.fixture(params=[*KINDS, LOCAL])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return what makes a job that buys in one way."""
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    if request.param == "llama.cpp":
        url = request.getfixturevalue("local_model")
        price = KINDS["chat"].job["price"]
        kind = Kind(
            "llama.cpp", {"price": price, "model": "smollm2", "max_output_tokens": 8}, url=url, hosts=("127.0.0.1",)
        )
    else:
        kind = KINDS[request.param]

    def made(rows: int = 12, **job: Any) -> Interface:
        interface = Interface(kind, tmp_path, rows, **job)
        for name, key in interface.environment.items():
            monkeypatch.setenv(name, key)
        return interface

    return made


def _check_money(interface: Interface) -> None:
    """Check that results, summary, ledger and the services' bills agree, to the last digit."""
    rows, summary = interface.rows, interface.summary
    paid = sum((row["cost_usd"] for row in rows), Decimal(0))
    assert paid == Decimal(summary["cost_usd"])
    with Ledger() as ledger:
        booked = ledger.of_run(summary["run_id"], datetime.now(UTC))
    assert booked.settled_nano == int(Decimal(summary["paid_usd"]).scaleb(9))
    assert booked.in_doubt_nano == int(Decimal(summary["in_doubt_usd"]).scaleb(9))
    assert booked.submitted_nano == booked.leased_nano == 0
    assert paid <= interface.usd
    # the tokens of a model that is not known are counted approximately, and so is what a lost reply cost
    if interface.services:
        assert interface.usd <= paid + Decimal(summary["in_doubt_usd"])


def _check_whole(interface: Interface) -> None:
    assert Counter(row["status"] for row in interface.rows) in ({"ok": len(interface.texts)}, *_cut(interface))
    assert [row["text"] for row in interface.rows] == interface.texts
    _check_money(interface)


def _cut(interface: Interface) -> list[Counter[str]]:
    """The statuses of a real model, whose answers may be cut at their limit."""
    if interface.services:
        return []
    statuses = Counter(row["status"] for row in interface.rows)
    return [statuses] if set(statuses) <= {"ok", "truncated"} else []


def test_each_row_is_paid_once(make: Make) -> None:
    """C9, C4, M4: Each row has its own answer and is paid once; all books agree; the next start sends nothing."""
    interface = make()
    interface.run()
    _check_whole(interface)
    if interface.services:
        assert all(row["completion"].endswith(row["text"]) for row in interface.rows)
    assert interface.paid == [1] * 12
    assert interface.usd == Decimal(interface.summary["cost_usd"]) > 0
    calls = interface.calls
    interface.run()
    assert interface.calls == calls


@pytest.mark.parametrize(("at", "is_carried_out"), ENDINGS)
def test_a_process_that_ends_at_any_call(make: Make, at: int, is_carried_out: bool) -> None:  # noqa: FBT001 - parametrized
    """C1, M5, M7, M8: If the process ends at any call, before or after it is carried out, the next start completes the run.

    Only rows that were under way are paid twice, and these are in doubt; in batches no row is.
    """
    interface = make()
    interface.end_at, interface.is_carried_out = at, is_carried_out
    with pytest.raises(Killed):
        interface.run()
    interface.end_at = None
    interface.run()
    _check_whole(interface)
    twice = [count for count in interface.paid if count > 1]
    assert len(interface.paid) == 12
    assert max(interface.paid) <= 2
    assert len(twice) <= (0 if interface.is_batch else AT_ONCE)
    assert len(twice) <= sum(row["in_doubt_usd"] > 0 for row in interface.rows) <= AT_ONCE
    assert max(row["attempts"] for row in interface.rows) <= 2


def test_a_budget_holds(make: Make) -> None:
    """M1, M3: A budget for a part of the rows is never exceeded; with more money the rest is completed, each row once."""
    interface = make()
    for service in interface.services.values():
        service.configure(output_tokens="fixed:40")  # as many as are reserved
    most = Decimal("0.00016") * interface.kind.share if interface.services else Decimal("0.00003")
    interface.settings["budget"] = {"run_usd": str(most), "when_short": "partial"}
    interface.run()
    statuses = Counter(row["status"] for row in interface.rows)
    assert interface.summary["exit_code"] == 4
    assert 0 < statuses["not_sent"] < 12
    assert 0 < interface.usd <= most
    _check_money(interface)
    interface.settings["budget"] = {"run_usd": "1"}
    interface.run()
    _check_whole(interface)
    assert interface.paid == [1] * 12


@pytest.mark.parametrize("make", [*LIVE, LOCAL], indirect=True)  # a batch has no reply of its own for a row
def test_a_reply_that_is_lost(make: Make) -> None:
    """M5: A request whose reply is lost stays booked as in doubt, and its row is sent once more."""
    interface = make()
    interface.loses = {"text 3"}
    interface.run()
    _check_whole(interface)
    (row,) = [row for row in interface.rows if row["in_doubt_usd"]]
    assert (row["text"], row["attempts"]) == ("text 3", 2)
    assert interface.usd > Decimal(interface.summary["cost_usd"])
    assert sorted(interface.paid) == [1] * 11 + [2]


def test_a_stop_loses_nothing(make: Make) -> None:
    """C7: A stop sends nothing more, keeps what is answered, and the next start sends the rest: no row is paid twice."""
    interface = make()

    def stop() -> None:
        if interface.calls == 4:
            for sender in open_senders():
                sender.request_stop(10.0)

    interface.on_call = stop
    with pytest.raises(Interrupted, match="rows left; run again to resume"):
        interface.run()
    assert interface.is_batch or len(interface.paid) < 12
    interface.on_call = lambda: None
    interface.run()
    _check_whole(interface)
    assert interface.paid == [1] * 12


def test_a_key_is_only_in_its_header(make: Make, tmp_path: Path) -> None:
    """S1: The key of each service goes to this service alone, in one header; no file that is left holds it."""
    interface = make()
    interface.run()
    for host, key in interface.keys.items():
        assert sum(key in value for value in interface.headers[host]) == 1
        others = {other for name, values in interface.headers.items() if name != host for other in values}
        assert not any(key in value for value in others)
        held = [path for path in tmp_path.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
        assert held == []


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def test_a_response_format_is_checked(make: Make) -> None:
    """Answers to a JSON schema are parsed and checked; an API that has no schemas is refused before anything is sent."""
    interface = make(response_format=SCHEMA)
    if interface.kind.name == "completions":
        with pytest.raises(BadJob, match="response_format"):
            interface.run()
        assert interface.calls == 0
        return
    interface.run()
    statuses = {row["status"] for row in interface.rows}
    assert statuses <= {"ok", "truncated", "invalid"}
    for row in interface.rows:
        assert (row["parsed"] is not None) == (row["status"] == "ok")
        if row["status"] == "ok":
            assert isinstance(row["parsed"]["n"], int)
    _check_money(interface)


@pytest.fixture
def day(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Day[SimulatedKind]]:
    """Return what makes a job that buys in one way, in simulated time."""
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")

    def made(rows: int, **job: Any) -> Day[SimulatedKind]:
        market = SimulatedKind(KINDS[request.param])
        return Day(tmp_path, market, rows, **{**market.job, **job})

    return made


@pytest.mark.parametrize("day", LIVE, indirect=True)
def test_a_limit_of_requests(day: Callable[..., Day[SimulatedKind]]) -> None:
    """In no minute more requests are sent than the limit allows, and it is used: 150 rows at 60 a minute."""
    done = day(150, limits={"requests_per_minute": 60, "max_at_once": 8}).pass_by()
    hosts = done.market.kind.hosts
    assert {outcome.status for outcome in done.outcomes} == {"ok"}
    assert all(done.market.most_in_a_minute(host) <= 60 for host in hosts)
    assert done.seconds < 1.03 * 150 / len(hosts) + 3


@pytest.mark.parametrize("day", LIVE, indirect=True)
def test_an_outage_costs_time_and_no_row(day: Callable[..., Day[SimulatedKind]]) -> None:
    """While a service fails at everything, few requests are sent; then all rows are answered, and none was given up."""
    made = day(100, retry={"attempts": 2}, limits={"max_at_once": 8})
    made.market.outage = (5.0, 300.0)
    made.pass_by()
    assert Counter(outcome.status for outcome in made.outcomes) == {"ok": 100}
    assert made.seconds > 300
    assert sum(map(len, made.market.sent.values())) < 100 + 100
