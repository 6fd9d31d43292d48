"""The runbook has every state that a run can have."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import states
from prefect.client.schemas.objects import State

from parquill.tasks import errors
from parquill.tasks.money.gate import Verdict
from parquill.tasks.orchestration.batch_cancellation import CANCELLING
from parquill.tasks.orchestration.reschedule import WAITING
from parquill.tasks.orchestration.states import state_of, state_of_estimate, state_of_summary
from parquill.tasks.orchestration.takeover import DIED

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "runbook.md").read_text(encoding="utf-8")


def _rows(heading: str) -> dict[str, list[str]]:
    """Return the cells of each row of the table below a heading, by the row's state."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| **")]
    named = {re.findall(r"\*\*(.+?)\*\*", row[0])[0]: [cell.strip() for cell in row] for row in rows}
    assert len(named) == len(rows), "a state has two rows"
    return named


ENDED = _rows("How a run ended")


def _final_states() -> Iterator[State[object]]:
    """Yield a state for each way in which Parquill ends a run."""
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.ParquillError):
            yield state_of(kind("why"))
    for message in ("", "warning: a row is not ok"):
        yield state_of_summary({"message": message})
    for fits in (True, False):
        yield state_of_estimate(Verdict(fits, "why", None, 0, 1))
    yield states.Crashed(message=DIED)


def test_every_final_state_has_a_row() -> None:
    """The first table has a row for each final state, and for no other."""
    assert set(ENDED) == {state.name for state in _final_states()}


@pytest.mark.parametrize(
    "kind",
    [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.ParquillError)],
)
def test_the_exit_code_is_right(kind: type[errors.ParquillError]) -> None:
    """The row of a state shows the exit code of `parquill run` for it."""
    name = state_of(kind("why")).name
    assert ENDED[str(name)][0] == f"**{name}** (exit {kind.exit_code})"


def test_the_states_on_the_way_are_prefect_s() -> None:
    """The second table has only Prefect states that are not final, and all that the runbook must explain."""
    shown = _rows("States on the way")
    others = {"Paused", "Suspended", WAITING, CANCELLING}
    found = {name: getattr(states, name)() for name in shown if name not in others}
    assert {name: state.name for name, state in found.items()} == {name: name for name in found}
    assert not any(state.is_final() for state in found.values())
    waits = {states.Paused(timeout_seconds=1).name, states.Suspended(timeout_seconds=1).name}
    assert {"Running", "Pending", "Late", "AwaitingConcurrencySlot", "Cancelling", WAITING, CANCELLING, *waits} <= set(
        shown
    )


@pytest.mark.parametrize("section", sorted(set(re.findall(r"\]\(((?:production\.md)?#[\w-]+)\)", PAGE))))
def test_every_section_that_is_named_exists(section: str) -> None:
    """A section that a row links to exists, on this page or on the page about production."""
    name, anchor = section.split("#")
    text = (DOCS / name).read_text(encoding="utf-8") if name else PAGE
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
