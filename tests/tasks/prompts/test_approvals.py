"""A run's approval counts for the plan and the cost that were shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from parquill.tasks.prompts.approvals import (
    MAX_QUESTIONS,
    Question,
    approve_run,
    forget_question,
    is_approved,
    note_question,
    questions_about,
)
from parquill.tasks.prompts.run import Run
from tests.tasks.prompts.planned_run import more_expensive, plan_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A planned run without an approval or a question."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user-state"))
    return plan_run(tmp_path)


def _question(run: Run, key: str) -> Question:
    return Question("a flow run", "paused", key, run.estimate.expected_nano, "2026-11-27T12:00:00+00:00")


def test_an_approval_is_for_what_was_shown(run: Run) -> None:
    """An approved run stays approved if it turns out cheaper, and loses the approval if it costs a nano-dollar more."""
    assert not is_approved(run)
    approve_run(run, "a test")
    assert is_approved(run)
    assert is_approved(more_expensive(run, -1))
    assert not is_approved(more_expensive(run))


def test_a_question_is_about_what_was_shown(run: Run) -> None:
    """Questions about a plan are listed latest first. Those that showed less than the expected cost are left out."""
    for key in ("first", "second"):
        note_question(run, _question(run, key))
    note_question(run, _question(more_expensive(run, 5), "third"))
    assert [each.key for each in questions_about(run)] == ["third", "second", "first"]
    assert [each.key for each in questions_about(more_expensive(run))] == ["third"]
    assert questions_about(more_expensive(run, 6)) == []


def test_what_is_noted_stays(run: Run) -> None:
    """Forgetting a question keeps the other questions and the approval, and an approval keeps the questions."""
    for number in range(MAX_QUESTIONS + 2):
        note_question(run, _question(run, str(number)))
    approve_run(run, "a test")
    forget_question(run, _question(run, "7"))
    kept = [str(number) for number in range(MAX_QUESTIONS + 1, 1, -1) if number != 7]
    assert [each.key for each in questions_about(run)] == kept
    assert is_approved(run)
