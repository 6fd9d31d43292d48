"""What to do about a run: the sentence that comes first in the report, in Prefect's artifact and in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

from parquill.tasks.llm.advice import advice_of
from parquill.tasks.money.amounts import format_usd_text

NOTHING = "nothing: every row has its answer"
Severity = Literal["good", "warn", "bad"]


def severity(summary: Mapping[str, Any]) -> Severity:
    """Return how urgent a run is: all is well, some rows are not ok, or the run did not end well."""
    if summary["exit_code"]:
        return "bad"
    rows = summary["rows"]
    return "good" if 0 < rows["total"] == rows["ok"] else "warn"


def ending(summary: Mapping[str, Any]) -> str:
    """Return how a run ended, in a few words, like its state in Prefect."""
    code, rows = summary["exit_code"], summary["rows"]
    if not code:
        return "Completed" if rows["ok"] == rows["total"] else "Completed with failed rows"
    return {4: "Stopped by budget", 5: "Too many failed rows"}.get(code, "Stopped")


def next_step(summary: Mapping[str, Any]) -> str:
    """Return what to do about a run, without a capital and a full stop."""
    step = _next_step(summary)
    if Decimal(summary["in_doubt_usd"]):
        doubt = format_usd_text(summary["in_doubt_usd"])
        step += (
            f". {doubt} is in doubt: compare it with the service's bill, then settle it with `parquill spend --resolve`"
        )
    return step


def _next_step(summary: Mapping[str, Any]) -> str:  # noqa: PLR0911 - one return for each ending
    code, rows = summary["exit_code"], summary["rows"]
    not_ok = rows["total"] - rows["ok"]
    if code is None:
        return "wait while the run is under way; if its process was killed, start the job again: it resumes"
    if code == 130:
        return "start the job again: it resumes"
    if code == 4:
        return (
            "raise the budget that the message names, then start the job again: it resumes with the "
            f"{rows['not_sent']:,} rows that were not sent"
        )
    if code not in {0, 5}:
        return "remove the cause that the message names, then start the job again: it resumes"
    if not rows["total"]:
        return "check `input`: it has no rows"
    if not not_ok:
        return NOTHING
    errors = sorted((summary.get("errors") or {}).items(), key=lambda each: (-each[1], each[0]))
    name, count = errors[0] if errors else ("unknown", not_ok)
    rows_text = "row that is not ok" if not_ok == 1 else f"{not_ok:,} rows that are not ok"
    which = f"{count:,} of the {rows_text}" if len(errors) > 1 else f"the {rows_text}"
    reason = f"{which} {'has' if count == 1 else 'have'} the reason `{name}`: {advice_of(name)}"
    return reason if code else f"nothing, if you accept the {rows_text}. If not: {reason}"
