"""What to do about a run, in one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from parquill.tasks.llm.advice import ADVICE, advice_of
from parquill.tasks.llm.outcomes import NOT_SENT_CODES, ROW_CODES, TABLE, meaning_of
from parquill.tasks.results.next_step import ending, next_step, severity

GOOD = {"exit_code": 0, "rows": {"total": 10, "ok": 10, "not_sent": 0}, "in_doubt_usd": "0", "errors": {}}


def test_every_error_code_has_its_advice() -> None:
    """Each error code has a meaning and an advice, and no advice is left over."""
    codes = {rule.code for rule in TABLE.values() if rule.code} | set(ROW_CODES) | set(NOT_SENT_CODES)
    assert ADVICE.keys() == codes
    assert all(meaning_of(code) for code in codes)
    assert all(text.count("`") % 2 == 0 and not text.endswith(".") for text in ADVICE.values())
    assert meaning_of("of_a_later_version") == ""
    assert "error_message" in advice_of("of_a_later_version")


@pytest.mark.parametrize(
    ("changes", "expected", "how"),
    [
        ({}, "nothing: every row has its answer", ("good", "Completed")),
        ({"rows": {"total": 0, "ok": 0}}, "check `input`", ("warn", "Completed")),
        (
            {"rows": {"total": 10, "ok": 8}, "errors": {"timeout": 2}},
            "nothing, if you accept the 2 rows that are not ok. If not: the 2 rows that are not ok have the reason `timeout`",
            ("warn", "Completed with failed rows"),
        ),
        (
            {"exit_code": 5, "rows": {"total": 10, "ok": 7}, "errors": {"timeout": 1, "bad_id": 2}},
            "2 of the 3 rows that are not ok have the reason `bad_id`: give each row an id of its own",
            ("bad", "Too many failed rows"),
        ),
        (
            {"exit_code": 4, "rows": {"total": 10, "ok": 7, "not_sent": 3}},
            "raise the budget that the message names, then start the job again: it resumes with the 3 rows",
            ("bad", "Stopped by budget"),
        ),
        ({"exit_code": 130}, "start the job again: it resumes", ("bad", "Stopped")),
        ({"exit_code": 1}, "remove the cause that the message names", ("bad", "Stopped")),
        ({"in_doubt_usd": "0.5"}, "nothing: every row has its answer. $0.50 is in doubt", ("good", "Completed")),
    ],
)
def test_each_end_says_what_to_do(changes: dict[str, Any], expected: str, how: tuple[str, str]) -> None:
    """Each way in which a run can end has its next step, its urgency and the name of its state."""
    summary = {**GOOD, **changes}
    assert next_step(summary).startswith(expected)
    assert (severity(summary), ending(summary)) == how


def test_a_run_under_way_is_waited_for() -> None:
    """The summary of a run that is under way says to wait."""
    assert next_step({**GOOD, "exit_code": None}).startswith("wait while the run is under way")
