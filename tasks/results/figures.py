"""What a summary tells a person: figures by their labels, and sentences.

They are worded here once. The terminal, Prefect's artifact and the report choose among them and lay them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from parquill.tasks.money.amounts import format_column, format_usd_text, usd_to_nano
from parquill.tasks.records import WORST_CASE
from parquill.tasks.results.count_figures import counted_line, worst_line
from parquill.tasks.results.excess import has_excess, money_sentences
from parquill.tasks.results.reply_warnings import reply_sentences

Summary = Mapping[str, Any]


def cost_of(summary: Summary) -> str:
    """Return what a run paid and what was expected, `$6.12 (expected $6.40)`; without history, the most it could be."""
    estimate = summary["estimate"]
    is_worst_case = estimate.get("basis") == WORST_CASE
    word = "at most" if is_worst_case else "expected"
    before = estimate["cost_usd_worst" if is_worst_case else "cost_usd_expected"]
    paid, other = format_column([usd_to_nano(Decimal(usd)) for usd in (summary["paid_usd"], before)])
    return f"{paid} ({word} {other})"


def headline(summary: Summary) -> str:
    """Return the run in one line: rows, cost, exit code."""
    rows = summary["rows"]
    # what this run paid: cost_usd includes what redone rows cost before, which was not estimated
    return f"{rows['ok']:,} of {rows['total']:,} rows ok, {cost_of(summary)}, exit {summary['exit_code']}"


def row_figures(summary: Summary) -> dict[str, str]:
    """Return the rows by status, without statuses that no row has."""
    return {name: f"{count:,}" for name, count in summary["rows"].items() if count or name in {"total", "ok"}}


def estimate_figures(summary: Summary) -> dict[str, str]:
    """Return what the run paid beside what was expected; without history, nothing was."""
    estimate, budget = summary["estimate"], summary["budget"]["run_usd"]
    known = {"paid by this run": summary["paid_usd"]}
    if estimate.get("basis") != WORST_CASE:
        known |= {"expected": estimate["cost_usd_expected"], "nine in ten below": estimate["cost_usd_p90"]}
    known["worst case"] = estimate["cost_usd_worst"]
    if budget is not None:
        known["budget"] = budget
    figures = _amounts(known)
    return figures if budget is not None else {**figures, "budget": "none"}


def notable_figures(summary: Summary) -> dict[str, str]:
    """Return amounts that most runs do not have."""
    known = {
        "cost with earlier runs": (summary["cost_usd"] if summary["cost_usd"] != summary["paid_usd"] else None),
        "in doubt": summary["in_doubt_usd"],
        "beyond the reservations": summary["over_reserved_usd"] if has_excess(summary) else None,
        "saved by reuse": summary["saved_usd"],
    }
    figures = {name: format_usd_text(usd) for name, usd in known.items() if usd is not None and Decimal(usd)}
    if other := summary.get("price_as"):
        figures[f"the same usage on {other['model']}"] = format_usd_text(other["cost_usd"])
    return figures


def token_figures(summary: Summary) -> dict[str, str]:
    """Return the tokens by kind."""
    return {name: f"{count:,}" for name, count in summary["tokens"].items()}


def count_figures(summary: Summary) -> dict[str, str]:
    """Return how far the count of prompt tokens was off; nothing if no row was answered."""
    counted = summary.get("counted")
    if not counted or not counted["answers"]:
        return {}
    worst = worst_line(counted)
    return {"prompt tokens of the answers": counted_line(counted), **({"largest miscount": worst} if worst else {})}


def request_figures(summary: Summary) -> dict[str, str]:
    """Return the requests: sent, retried, throttled, in doubt."""
    return {name: f"{count:,}" for name, count in summary["requests"].items()}


def source_figures(summary: Summary) -> dict[str, str]:
    """Return where the prices come from, and how long the run took."""
    figures = {}
    if prices := summary.get("prices"):
        figures["prices"] = f"{prices['source']}, {prices['version']}"
    if summary["duration_s"] is not None:
        figures["time"] = f"{summary['duration_s']:,.1f} s"
    return figures


def summary_figures(summary: Summary) -> dict[str, str]:
    """Return all figures but the rows, each with a label that stands by itself."""
    return {
        **estimate_figures(summary),
        **notable_figures(summary),
        **{f"{name} tokens": count for name, count in token_figures(summary).items()},
        **count_figures(summary),
        **{f"requests {name}": count for name, count in request_figures(summary).items()},
        **source_figures(summary),
    }


def summary_sentences(summary: Summary) -> list[str]:
    """Return what to know about the figures, and what to do: about counts, odd replies and money."""
    meaning = (summary.get("counted") or {}).get("meaning")
    return [*([meaning] if meaning else []), *reply_sentences(summary), *money_sentences(summary)]


def _amounts(known: Mapping[str, str]) -> dict[str, str]:
    """Format amounts that are read together, with the same number of decimals."""
    amounts = [usd_to_nano(Decimal(usd)) for usd in known.values()]
    return dict(zip(known, format_column(amounts), strict=True))
