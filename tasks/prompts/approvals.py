"""Who was asked for a run's money and who approved it: `approval.json` beside the plan.

An approval counts for the plan that it was given for, at no more than the expected cost that was shown: a plan made
anew has a folder of its own, and a pilot that finds the run dearer has it asked for again. The estimate is compared
and not what is booked, so a run that is approved and half done goes on whatever its first half cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from parquill.tasks.prompts.run import Run
from parquill.tasks.storage.disk import DISK, read_json

MAX_QUESTIONS = 20  # the latest; each is looked up when the run starts again


@dataclass(frozen=True, slots=True)
class Question:
    """What a flow run asked: the key of its pause, in which state it waits, and the expected cost in nano-dollars."""

    flow_run_id: str
    waits: str
    key: str
    expected: int
    asked_at: str


def now() -> str:
    """This moment, as it is noted."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def approve_run(run: Run, by: str, expected: int | None = None) -> None:
    """Note that a person has approved the run at an expected cost, by default its estimate's. Raises DiskFailed."""
    expected = run.estimate.expected_nano if expected is None else expected
    _write(run, _read(run) | {"approved": {"expected": expected, "at": now(), "by": by}})


def is_approved(run: Run) -> bool:
    """Whether a person has approved the run at what it is expected to cost now."""
    approved = _read(run).get("approved")
    return approved is not None and run.estimate.expected_nano <= approved["expected"]


def questions_about(run: Run) -> list[Question]:
    """The questions whose answer counts for the run as it is now, the latest first."""
    asked = [Question(**each) for each in reversed(_read(run).get("questions", []))]
    return [each for each in asked if run.estimate.expected_nano <= each.expected]


def note_question(run: Run, question: Question) -> None:
    """Note a question before it is asked. Raises DiskFailed."""
    _write_questions(run, [*_read(run).get("questions", []), asdict(question)])


def forget_question(run: Run, question: Question) -> None:
    """Forget a question that was answered with no: who starts the run again is asked again. Raises DiskFailed."""
    _write_questions(run, [each for each in _read(run).get("questions", []) if each["key"] != question.key])


def _write_questions(run: Run, questions: Sequence[dict[str, Any]]) -> None:
    _write(run, _read(run) | {"questions": questions[-MAX_QUESTIONS:]})


def _path(run: Run) -> Path:
    return run.folder.path / "approval.json"


def _read(run: Run) -> dict[str, Any]:
    return read_json(_path(run)) or {}


def _write(run: Run, noted: dict[str, Any]) -> None:
    DISK.write_own(_path(run), noted)
