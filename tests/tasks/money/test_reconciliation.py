"""The ledger against a service's figures: what matches, what explains a difference, and what does not."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from parquill.tasks.money.ledger_uses import BilledUse
from parquill.tasks.money.reconciliation import NO_KEY, CountedUse, Place, Reconciliation, ServiceCost, reconcile

DAY, LATER = "2026-11-03", "2026-11-30"
MILLION = 1_000_000


def _here(usd: str = "1", doubt: str = "0", **changes: Any) -> BilledUse:
    named: dict[str, Any] = {
        "day": DAY,
        "model": "m",
        "lane": "live",
        "service": "https://s.example/v1",
        "key": "KEY",
        "requests": 10,
        "prompt_tokens": 900,
        "completion_tokens": 100,
    }
    amounts = {"settled_nano": int(Decimal(usd) * 10**9), "in_doubt_nano": int(Decimal(doubt) * 10**9)}
    return BilledUse(**{**named, **amounts, **changes})


def _use(**changes: Any) -> CountedUse:
    use = CountedUse(DAY, "m", "live", "key_1", requests=10, prompt_tokens=900, completion_tokens=100)
    return use._replace(**changes)


def _cost(usd: str = "1.000001", **changes: Any) -> ServiceCost:
    return ServiceCost(DAY, "m", None, "key_1", Decimal(usd))._replace(**changes)


def _compare(
    here: list[BilledUse], uses: list[CountedUse] | None, costs: list[ServiceCost] | None, **changes: Any
) -> Reconciliation:
    asked: dict[str, Any] = {"keys": {"KEY": "key_1"}, "final_before": LATER, "tolerance_percent": Decimal(1)}
    return reconcile(here, uses, costs, **{**asked, **changes})


def _states(found: Reconciliation) -> dict[Place, str]:
    return {line.place: line.state for line in found.lines}


OWN = Place("m", "live", "KEY")


@pytest.mark.parametrize(
    ("here", "uses", "costs", "state"),
    [
        (_here(), _use(), _cost(), "matched"),
        (_here(), _use(), _cost("1.009999"), "matched"),
        (_here(), _use(), _cost("1.010002"), "price"),
        (_here(), _use(prompt_tokens=990), _cost("1.1"), "more_there"),
        (_here(), _use(prompt_tokens=800), _cost("0.9"), "less_there"),
        (_here(doubt="0.1"), _use(prompt_tokens=990), _cost("1.1"), "in_doubt"),
        (_here(doubt="0.1"), _use(prompt_tokens=990), _cost("1.109999"), "in_doubt"),
        (_here(doubt="0.1"), _use(prompt_tokens=990), _cost("1.110002"), "more_there"),
        (_here(doubt="0.1"), _use(), _cost(), "matched"),
        (_here(), None, _cost("1.1"), "more_there"),
        (_here(), _use(), None, "matched"),
        (_here(), _use(completion_tokens=111), None, "more_there"),
    ],
)
def test_the_state_of_a_line(here: BilledUse, uses: CountedUse | None, costs: ServiceCost | None, state: str) -> None:
    """A difference within the tolerance or within what is in doubt is no difference; another price is named as such."""
    found = _compare([here], None if uses is None else [uses], None if costs is None else [costs])
    assert _states(found) == {OWN: state}
    assert found.is_matching == (state in {"matched", "in_doubt"})
    assert [(line.day, line.state) for line in found.days] == ([] if state == "matched" else [(DAY, state)])


def test_only_one_side() -> None:
    """What only the ledger has, or only the service under the same key, is a difference."""
    assert _states(_compare([_here()], [], [])) == {OWN: "only_here"}
    other = Place("other", "live", "KEY")
    found = _compare([_here()], [_use(), _use(model="other")], [_cost(), _cost(model="other")])
    assert _states(found) == {OWN: "matched", other: "only_there"}
    assert not found.is_matching


def test_other_programs() -> None:
    """What other keys used is no difference; without keys, the models that the ledger does not have are none."""
    theirs = Place("m", "live", "key_2")
    found = _compare([_here()], [_use(), _use(key="key_2")], [_cost(), _cost("7", key="key_2")])
    assert _states(found) == {OWN: "matched", theirs: "other"}
    assert (found.is_matching, found.others_nano, found.own.service_nano) == (True, 7 * 10**9, 1_000_001_000)
    named: tuple[dict[str, str], ...] = ({}, {"ANOTHER": "key_1"})
    for keys in named:
        found = _compare([_here()], [_use(), _use(model="x")], [_cost(), _cost("7", model="x")], keys=keys)
        assert _states(found) == {Place("m", "live", None): "matched", Place("x", "live", None): "other"}
        assert not found.has_keys
    found = _compare([_here()], [_use()], [_cost(key=None)])  # no cost names a key
    assert (_states(found), found.has_keys) == ({Place("m", "live", None): "matched"}, False)


def test_lanes_that_costs_do_not_name_are_compared_together() -> None:
    """A line item without a lane may be of any lane: if it is not clear which, the lanes are one line."""
    here = [_here(), _here("3", lane="flex"), _here("2", lane="batch")]
    uses = [_use(), _use(lane="flex"), _use(lane="batch")]
    found = _compare(here, uses, [_cost("4.000001"), _cost("2", lane="batch")])
    assert _states(found) == {Place("m", "batch+flex+live", "KEY"): "matched"}
    found = _compare(here, uses, [_cost(), _cost("3", lane="flex"), _cost("2", lane="batch")])
    assert len(found.lines) == 3
    assert found.is_matching
    found = _compare([_here(lane="flex")], [_use(lane="flex")], [_cost()])  # only one lane is possible
    assert _states(found) == {Place("m", "flex", "KEY"): "matched"}


def test_days_that_differ_by_one_are_no_difference() -> None:
    """A request near midnight may be on another day at the service: the month matches, and the days show it."""
    next_day = "2026-11-04"
    here = [_here(), _here(day=next_day)]
    found = _compare(here, [_use(), _use(day=next_day)], [_cost("1.5"), _cost("0.500001", day=next_day)])
    assert found.is_matching
    assert [(line.day, line.state) for line in found.days] == [(DAY, "price"), (next_day, "price")]


def test_late_figures() -> None:
    """What the service lacks on a day that is not final is late; what it lacks before is a difference."""
    here = [_here(), _here(day=LATER)]
    found = _compare(here, [_use()], [_cost()])
    assert _states(found) == {OWN: "late"}
    assert (found.is_matching, [line.state for line in found.days]) == (True, ["late"])
    assert not _compare(here, [_use()], [_cost()], final_before="2026-12-01").is_matching
    found = _compare([_here("2"), _here(day=LATER)], [_use()], [_cost()])
    assert not found.is_matching


def test_rounded_costs() -> None:
    """If the service rounds to cents, a cent per entry may be missing; exact costs have no such allowance."""
    here = [_here("1.004"), _here("1.004", day="2026-11-04")]
    costs = [_cost("1.00"), _cost("1.00", day="2026-11-04"), _cost("7.25", model="x", key="key_2")]
    found = _compare(here, None, costs, tolerance_percent=Decimal(0))
    assert _states(found)[OWN] == "matched"
    few_digits = _compare([_here("0.455")], None, [_cost("0.5")], tolerance_percent=Decimal(0))
    assert _states(few_digits)[OWN] == "more_there"
    exact = [*costs[:2], _cost("7.2500001", model="x", key="key_2")]
    assert _states(_compare(here, None, exact, tolerance_percent=Decimal(0)))[OWN] == "less_there"


def test_a_dated_model_is_the_model() -> None:
    """The service names the version that answered; a job may name only the model."""
    found = _compare([_here()], [_use(model="m-2026-01-31")], [_cost(model="m-2026-01-31")])
    assert _states(found) == {OWN: "matched"}


@pytest.mark.parametrize(
    ("usd", "requests", "billed"), [("1", 10, False), ("1.05", 11, True), ("1.009", 11, True), ("1.3", 11, None)]
)
def test_whether_what_is_in_doubt_was_billed(usd: str, requests: int, billed: bool | None) -> None:  # noqa: FBT001 - parametrized
    """The number of requests says whether what is in doubt was billed, unless something else differs or is late."""
    here, uses = [_here(doubt="0.1")], [_use(prompt_tokens=990, requests=requests)]
    found = _compare(here, uses, [_cost(usd)])
    assert found.was_doubt_billed is billed
    assert _compare([_here()], [_use()], [_cost()]).was_doubt_billed is None
    assert _compare(here, uses, None).was_doubt_billed is None
    assert _compare(here, None, [_cost(usd)]).was_doubt_billed is None
    assert _compare(here, uses, [_cost(usd)], final_before=DAY).was_doubt_billed is None


def test_usage_that_is_not_split() -> None:
    """Usage without lanes is compared with all lanes together; what names no key is not of a key of ours."""
    here = [_here(), _here("2", lane="batch")]
    found = _compare(here, [_use(lane=None, requests=20)], [_cost(), _cost("2", lane="batch")])
    assert _states(found) == {Place("m", "batch+live", "KEY"): "matched"}
    found = _compare([_here()], [_use(), _use(key=None)], [_cost(), _cost("7", key=None)])
    assert _states(found) == {OWN: "matched", Place("m", "live", NO_KEY): "other"}


def test_two_names_of_one_key() -> None:
    """Two variables with the same key are one key at the service."""
    found = _compare(
        [_here(), _here("2", key="A_KEY")], [_use()], [_cost("3.000001")], keys={"KEY": "key_1", "A_KEY": "key_1"}
    )
    assert _states(found) == {Place("m", "live", "A_KEY"): "matched"}


def test_a_key_that_the_ledger_does_not_have() -> None:
    """What the service has of a key of the job is a difference, even if the ledger has nothing of it."""
    found = _compare([], [_use()], [_cost()])
    assert _states(found) == {OWN: "only_there"}


def test_late_figures_hide_no_other_program() -> None:
    """What is missing on the last day does not make up for what is too much before."""
    here = [_here(), _here("5", day=LATER)]
    found = _compare(here, [_use(prompt_tokens=2_000)], [_cost("6")])
    assert _states(found) == {OWN: "more_there"}
