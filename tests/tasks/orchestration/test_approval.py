"""A run that asks for approval uses the answer that counts; these tests need no server."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.exceptions import Pause
from prefect.input.run_input import Keyset, keyset_from_base_key

from parquill.tasks.errors import NotApproved
from parquill.tasks.orchestration import approval
from parquill.tasks.orchestration.approval import Approval, wait_for_approval
from parquill.tasks.prompts.approvals import Question, is_approved, note_question, questions_about
from parquill.tasks.prompts.run import Run
from parquill.tasks.prompts.run_money import read_standing
from tests.tasks.prompts.planned_run import more_expensive, plan_run

MINE, ANOTHERS = "0000000a-0000-4000-8000-000000000000", "0000000b-0000-4000-8000-000000000000"


class Server:
    """Answers of people by the key of their question; `asked` holds the keys with which a flow run suspended."""

    def __init__(self) -> None:
        self.answers: dict[str, bool] = {}
        self.asked: list[str] = []
        self.next: bool | None = None

    def suspend(self, *, key: str, **_: Any) -> None:
        assert key not in self.asked, "Prefect would refuse it"
        self.asked.append(key)
        if self.next is not None:
            self.answers[key] = self.next

    def answer_to(self, question: Question) -> Approval | None:
        answer = self.answers.get(question.key)
        return None if answer is None else Approval(approve=answer)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """Replace Prefect's part: a deployed flow run, and the answers."""
    made = Server()
    context = SimpleNamespace(flow_run=SimpleNamespace(id=MINE, deployment_id="d"))
    monkeypatch.setattr(approval, "FlowRunContext", SimpleNamespace(get=lambda: context))
    monkeypatch.setattr(approval, "suspend_flow_run", made.suspend)
    monkeypatch.setattr(approval, "_answer_to", made.answer_to)
    monkeypatch.setattr(approval, "emit", lambda *_, **__: None)
    return made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that asks for approval."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user-state"))
    return plan_run(tmp_path, approval_usd=1e-7)


def _asked_by(run: Run, flow_run: str, server: Server, *, answer: bool) -> None:
    key = f"approval-{flow_run}"
    note_question(run, Question(flow_run, "suspended", key, run.estimate.expected_nano, "2026-11-27T12:00:00+00:00"))
    server.answers[key] = answer


def _wait(run: Run) -> None:
    wait_for_approval(run, read_standing(run))


def test_a_yes_is_noted_with_what_was_shown(run: Run, server: Server) -> None:
    """A yes approves the run, also when it is tried again, but only up to the cost that was shown."""
    server.next = True
    for _ in range(2):
        _wait(run)
    assert len(server.asked) == 1
    assert not is_approved(more_expensive(run))
    _wait(more_expensive(run))
    assert len(set(server.asked)) == 2


def test_a_no_ends_it_and_the_next_asks(run: Run, server: Server) -> None:
    """A no ends the run and is forgotten, so that a retry of the same flow run asks with another key."""
    server.next = False
    for asked in (1, 2):
        with pytest.raises(NotApproved, match="declined"):
            _wait(run)
        assert len(set(server.asked)) == asked
        assert questions_about(run) == []


def test_nothing_said_is_no_yes(run: Run, server: Server) -> None:
    """A flow run that resumes without an answer, as when its state is set by hand, is not approved."""
    with pytest.raises(NotApproved, match="has no answer"):
        _wait(run)
    assert len(server.asked) == 1
    assert not is_approved(run)


@pytest.mark.parametrize(
    ("mine", "anothers", "passes"),
    [(None, True, True), (None, False, False), (True, False, True), (False, True, False)],
)
def test_whose_answer_counts(run: Run, server: Server, mine: bool | None, anothers: bool, passes: bool) -> None:  # noqa: FBT001
    """A flow run's own answer comes first.

    Of another flow run that asked for the same plan, a yes counts, and a no ends only that flow run.
    """
    if mine is not None:
        _asked_by(run, MINE, server, answer=mine)
    _asked_by(run, ANOTHERS, server, answer=anothers)
    if passes:
        _wait(run)
    else:
        with pytest.raises(NotApproved, match="declined" if mine is False else "has no answer"):
            _wait(run)
    assert is_approved(run) is passes
    assert bool(server.asked) is (mine is None and not anothers)


def test_an_answer_for_less_is_none(run: Run, server: Server) -> None:
    """A yes to a question that showed a lower cost does not count: the run asks again."""
    _asked_by(run, MINE, server, answer=True)
    with pytest.raises(NotApproved, match="has no answer"):
        _wait(more_expensive(run))
    assert len(server.asked) == 1


def test_a_suspension_whose_answer_is_lost(run: Run, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """If Prefect raises Pause at a second suspension, it stores no form: the run stores it before the process ends."""
    stored: list[tuple[str, Keyset]] = []

    def suspend(**given: Any) -> None:
        server.suspend(**given)
        raise Pause

    monkeypatch.setattr(approval, "suspend_flow_run", suspend)
    monkeypatch.setattr(Approval, "save", classmethod(lambda cls, keyset: stored.append((cls._description, keyset))))
    with pytest.raises(Pause):
        _wait(run)
    ((text, keyset),) = stored
    assert "waits for your approval" in text
    assert keyset == keyset_from_base_key(f"suspended-{server.asked[0]}")
