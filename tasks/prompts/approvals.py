"""Records who was asked to approve a run's cost and who approved it: `approval.json` next to the plan.

An approval counts only for its own plan, up to the expected cost that was shown: a new plan has its own folder, and if
a pilot finds the run more expensive, approval is asked for again. The estimate is compared, not what is booked, so an
approved run that is half done continues, whatever its first half cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from parquill.tasks.prompts.run import Run
from parquill.tasks.storage.disk import DISK, read_json

MAX_QUESTIONS = 20  # only the latest are kept; each is looked up when the run starts again


@dataclass(frozen=True, slots=True)
class Question:
    """A flow run's question: the key of its pause, the state in which it waits, the expected cost in nano-dollars."""

    flow_run_id: str
    waits: str
    key: str
    expected: int
    asked_at: str


def now() -> str:
    """Return the current time in UTC, as it is recorded."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def approve_run(run: Run, by: str, expected: int | None = None) -> None:
    """Record that a person approved the run at an expected cost, by default the estimate's. Raises DiskFailed."""
    expected = run.estimate.expected_nano if expected is None else expected
    _write(run, _read(run) | {"approved": {"expected": expected, "at": now(), "by": by}})


def is_approved(run: Run) -> bool:
    """Whether a person has approved the run at its current expected cost."""
    approved = _read(run).get("approved")
    # promise: P4 an approval holds only up to the cost that was shown
    return approved is not None and run.estimate.expected_nano <= approved["expected"]


def questions_about(run: Run) -> list[Question]:
    """Return the questions whose answer counts for the run at its current expected cost, the latest first."""
    asked = [Question(**each) for each in reversed(_read(run).get("questions", []))]
    # promise: P4 an answer counts only if its question showed at least the current cost
    return [each for each in asked if run.estimate.expected_nano <= each.expected]


def note_question(run: Run, question: Question) -> None:
    """Record a question before it is asked. Raises DiskFailed."""
    _write_questions(run, [*_read(run).get("questions", []), asdict(question)])


def forget_question(run: Run, question: Question) -> None:
    """Remove a question that was answered with no, so that another start asks again. Raises DiskFailed."""
    _write_questions(run, [each for each in _read(run).get("questions", []) if each["key"] != question.key])


def _write_questions(run: Run, questions: Sequence[dict[str, Any]]) -> None:
    _write(run, _read(run) | {"questions": questions[-MAX_QUESTIONS:]})


def _path(run: Run) -> Path:
    return run.folder.path / "approval.json"


def _read(run: Run) -> dict[str, Any]:
    return read_json(_path(run)) or {}


def _write(run: Run, noted: dict[str, Any]) -> None:
    DISK.write_own(_path(run), noted)
