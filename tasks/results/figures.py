"""What a summary tells a person: figures by their labels, and sentences.

They are worded here once. The terminal, Prefect's artifact and the report choose among them and lay them out. What to
do about them is in `next_step`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from parquill.tasks.llm.advice import advice_of
from parquill.tasks.llm.outcomes import meaning_of
from parquill.tasks.money.amounts import format_column, format_usd_text, usd_to_nano
from parquill.tasks.money.figures import SHORT_S, format_duration
from parquill.tasks.records import STATUSES, WORST_CASE
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
    """Return the run in one line: rows and cost."""
    rows = summary["rows"]
    # what this run paid: cost_usd includes what redone rows cost before, which was not estimated
    return f"{rows['ok']:,} of {rows['total']:,} rows ok, {cost_of(summary)}"


def row_figures(summary: Summary) -> dict[str, str]:
    """Return the rows by status, without statuses that no row has."""
    return {name: f"{count:,}" for name, count in summary["rows"].items() if count or name in {"total", "ok"}}


def share_of(count: int, total: int) -> str:
    """Return a share of rows in percent; one that is not zero is not shown as zero, and only all rows are 100 %."""
    if not count or count == total:
        return "100 %" if count else "0 %"
    share = 100 * count / total
    return "<0.1 %" if share < 0.05 else ">99.9 %" if share > 99.95 else f"{share:.1f} %"


def status_figures(summary: Summary) -> list[tuple[str, str, str]]:
    """Return status, rows and share of the rows, for each status that a row has."""
    rows = summary["rows"]
    total = rows["total"]
    return [(name, f"{rows[name]:,}", share_of(rows[name], total)) for name in STATUSES if rows.get(name)]


class ErrorFigure(NamedTuple):
    """Rows that are not ok for one reason."""

    code: str
    rows: str
    meaning: str
    advice: str


def error_figures(summary: Summary) -> list[ErrorFigure]:
    """Return the reasons why rows are not ok, with what to do; the most frequent first."""
    errors = sorted((summary.get("errors") or {}).items(), key=lambda each: (-each[1], each[0]))
    return [ErrorFigure(code, f"{rows:,}", meaning_of(code), advice_of(code)) for code, rows in errors]


def group_figures(summary: Summary, most: int) -> dict[str, list[tuple[str, ...]]]:
    """Return by `for_each` name: its values, each with rows, rows not ok, cost, and mean answer length in tokens.

    Of more than `most` values, those with the most rows that are not ok.
    """
    found: dict[str, list[tuple[str, ...]]] = {}
    for name, groups in (summary.get("groups") or {}).items():
        shown = groups
        if len(groups) > most:
            shown = sorted(groups, key=lambda each: -each["not_ok"])[:most]
        costs = format_column([usd_to_nano(Decimal(each["cost_usd"])) for each in shown])
        found[name] = [
            (
                str(each["value"]),
                f"{each['rows']:,}",
                f"{each['not_ok']:,}",
                cost,
                "" if each.get("mean_answer_tokens") is None else f"{each['mean_answer_tokens']:,.1f}",
            )
            for each, cost in zip(shown, costs, strict=True)
        ]
    return found


GROUP_HEAD = ("rows", "not ok", "cost", "tokens an answer")  # after the name itself


def time_figures(summary: Summary, zone: ZoneInfo) -> dict[str, str]:
    """Return when the run started and ended, in a time zone."""
    figures = {}
    for name in ("started", "finished"):
        if (text := summary.get(f"{name}_at")) is not None:
            figures[name] = f"{datetime.fromisoformat(text).astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"
    return figures


def _lateness(summary: Summary) -> str | None:
    """Return whether a run was done by its `finish_by`; None if it had none, or is not done."""
    due, end = summary.get("finish_by"), summary.get("finished_at")  # summaries of earlier versions have none
    if due is None or end is None:
        return None
    late_s = (datetime.fromisoformat(end) - datetime.fromisoformat(due)).total_seconds()
    if late_s > 0:
        return f"missed by {format_duration(late_s)}"
    return "met" if summary["state"] == "finished" else "not over"


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
    """Return amounts that most runs do not have, and whether `finish_by` was met."""
    known = {
        "cost with earlier runs": (summary["cost_usd"] if summary["cost_usd"] != summary["paid_usd"] else None),
        "in doubt": summary["in_doubt_usd"],
        "reserved in batches": summary.get("submitted_usd"),  # summaries of earlier versions have none
        "beyond the reservations": summary["over_reserved_usd"] if has_excess(summary) else None,
        "saved by reuse": summary["saved_usd"],
    }
    figures = {name: format_usd_text(usd) for name, usd in known.items() if usd is not None and Decimal(usd)}
    figures |= _cache_figure(summary)
    if (late := _lateness(summary)) is not None:
        # promise: lanes: a run that missed finish_by says so
        figures["finish_by"] = late
    lanes = summary.get("lanes", {})
    if lanes.keys() - {"live"}:
        for lane, bought in sorted(lanes.items()):
            figures[f"in the {lane} lane"] = f"{format_usd_text(bought['cost_usd'])} for {bought['rows']:,} answers"
    endpoints = summary.get("endpoints", {})  # summaries of earlier versions have none
    # promise: endpoints: people see what was bought at each endpoint
    for label, bought in endpoints.items() if len(endpoints) > 1 else ():
        figures[f"at {label}"] = (
            f"{format_usd_text(bought['cost_usd'])} for {bought['rows']:,} answers, {bought['requests']:,} requests"
        )
    if other := summary.get("price_as"):
        figures[f"the same usage on {other['model']}"] = format_usd_text(other["cost_usd"])
    return figures


def _cache_figure(summary: Summary) -> dict[str, str]:
    cache = summary.get("cache")  # summaries of earlier versions have none
    if cache is None or not (cache["read_tokens"] or cache["written_tokens"]):
        return {}
    saved = Decimal(cache["saved_usd"])
    name = "saved by the service's cache" if saved >= 0 else "added by the service's cache"
    tokens = f"{cache['read_tokens']:,} prompt tokens read, {cache['written_tokens']:,} written"
    # promise: cache: people see what the service's cache saved or cost
    return {name: f"{format_usd_text(str(abs(saved)))} ({tokens})"}


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
    """Return the requests: sent, retried, throttled, in doubt, and, if there are any, submitted."""
    return {name: f"{count:,}" for name, count in summary["requests"].items() if count or name != "submitted"}


def source_figures(summary: Summary) -> dict[str, str]:
    """Return where the prices come from, and how long the run took."""
    figures = {}
    if prices := summary.get("prices"):
        figures["prices"] = f"{prices['source']}, {prices['version']}"
    if summary["duration_s"] is not None:
        seconds = summary["duration_s"]
        figures["time"] = f"{seconds:,.1f} s" if seconds < SHORT_S else format_duration(seconds)
    return figures


_ALWAYS = frozenset({"prompt", "completion", "sent"})  # shown even if it is zero


def _words(name: str) -> str:
    return name.replace("_", " ")


def summary_figures(summary: Summary) -> dict[str, str]:
    """Return all figures but the rows, each with a label that stands by itself."""
    return {
        **estimate_figures(summary),
        **notable_figures(summary),
        **{f"{_words(name)} tokens": n for name, n in token_figures(summary).items() if n != "0" or name in _ALWAYS},
        **count_figures(summary),
        **{
            f"requests {_words(name)}": n for name, n in request_figures(summary).items() if n != "0" or name in _ALWAYS
        },
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
