"""`parquill reconcile`: what the ledger has for a month against the usage and the costs of the service."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from parquill.flows.cli.lists import align, shorten
from parquill.tasks.errors import BadJob, ParquillError
from parquill.tasks.job.endpoint import Endpoint
from parquill.tasks.job.settings import Job
from parquill.tasks.llm.admin_api import AdminApi, project_of
from parquill.tasks.llm.service_usage import ServiceFigures, read_export
from parquill.tasks.money.amounts import format_column, format_usd, nano_to_usd, usd_text, usd_to_nano
from parquill.tasks.money.calendar_months import days_of
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.ledger_uses import BilledUse, BookedRun, booked_runs, read_uses
from parquill.tasks.money.reconciliation import Line, Reconciliation, reconcile
from parquill.tasks.prompts.run import load_run
from parquill.tasks.prompts.run_uses import uses_of

FINAL_AFTER = timedelta(hours=24)  # after the end of a day; OpenAI's figures are usually there within minutes
STATES = {
    "matched": "matched",
    "in_doubt": "explained by what is in doubt",
    "late": "late at the service",
    "other": "other programs",
    "price": "another price",
    "more_there": "the service has more",
    "less_there": "the ledger has more",
    "only_here": "only in the ledger",
    "only_there": "only at the service",
}


@dataclass(slots=True)
class LedgerSide:
    """What the ledger has for a month at one service; `notes` say what it cannot tell."""

    uses: list[BilledUse] = field(default_factory=list)
    submitted_nano: int = 0
    unknown_nano: int = 0  # of unfinished runs whose journals are not here
    notes: list[str] = field(default_factory=list)


def find_difference(
    job: Job | None,
    month: str,
    files: Sequence[Path],
    keys: Mapping[str, str],
    tolerance_percent: Decimal,
    now: datetime,
) -> dict[str, Any]:
    """Compare a month and return the comparison as one JSON object.

    The service is the first endpoint of the job with an admin key, or OpenAI. Its figures come from the files, if there
    are any, else from its admin API. Raises BadJob, LedgerFailed, ParquillError.
    """
    endpoint = _endpoint_of(job)
    here = read_ledger(month, endpoint.base_url)
    names, notes = dict(keys), list(here.notes)
    if files:
        there = ServiceFigures()
        for file in files:
            there.add(read_export(file))
        there = there.of_month(month)
    else:
        api = _open_admin(endpoint)
        there = api.figures(days_of(month)[0], min(days_of(month)[-1], now.date()))
        try:
            names = {**find_keys({use.key for use in here.uses}, api, project_of(endpoint)), **names}
        except ParquillError as error:
            notes.append(f"the ids of the keys are not known: {error}")
    found = reconcile(
        here.uses,
        there.uses,
        there.costs,
        keys=names,
        final_before=(now - FINAL_AFTER).astimezone(UTC).date().isoformat(),
        tolerance_percent=tolerance_percent,
    )
    if not found.has_keys and (missing := sorted({use.key for use in here.uses if use.key} - set(names))):
        notes.append(
            f"keys are not compared: it is not known which of the service's keys is {', '.join(missing)}; name its id "
            f"with --key {missing[0]}=ID, or set the variable"
        )
    return {
        "month": month,
        "service": endpoint.base_url,
        "tolerance_percent": float(tolerance_percent),
        # promise: reconcile: money of the ledger that cannot be compared does not count as matched
        "matches": found.is_matching and not here.unknown_nano,
        "cost_usd": _usd(found.own.settled_nano),
        "in_doubt_usd": _usd(found.own.in_doubt_nano),
        "submitted_usd": _usd(here.submitted_nano),
        "not_compared_usd": _usd(here.unknown_nano),
        "service_usd": _usd(found.own.service_nano) if found.has_costs else None,
        "others_usd": _usd(found.others_nano) if found.has_costs else None,
        "keys_compared": found.has_keys,
        "lines": [_line_json(line, found) for line in found.lines],
        "days": [_line_json(line, found) for line in found.days],
        "notes": [*notes, *_advice(found, month)],
    }


def _open_admin(endpoint: Endpoint) -> AdminApi:
    try:
        return AdminApi.of(endpoint)
    except BadJob as error:
        raise BadJob(
            f"{error}. Set it to an admin key of the organization, or export usage and costs and name the files with "
            "--file"
        ) from None


def _endpoint_of(job: Job | None) -> Endpoint:
    if job is None:
        return Endpoint.model_validate({})
    endpoints = [each.endpoint for each in job.each_endpoint]
    return next((each for each in endpoints if each.admin_key_env is not None), endpoints[0])


def read_ledger(month: str, service: str) -> LedgerSide:
    """Read what runs bought at a service in a month; what unfinished runs bought is read from their journals.

    Raises LedgerFailed.
    """
    side = LedgerSide()
    with Ledger() as ledger:
        runs = booked_runs(ledger, month)
        kept = read_uses(ledger, [run.run_id for run in runs])
        journaled = {run.run_id: _journaled(run) for run in runs if not run.is_finished}
        found = {
            run.run_id: _as_resolved(journaled.get(run.run_id) or kept.get(run.run_id, []), run.run_id, ledger)
            for run in runs
        }
    for run in runs:
        uses = found[run.run_id]
        # what a killed process had leased is in its journals, if they are here
        is_unread = journaled.get(run.run_id, ()) is None
        leased_nano = run.leased_nano if is_unread else 0
        if any(use.service == service for use in uses) or (not uses and _may_be_at(run, service)):
            side.submitted_nano += run.submitted_nano
        side.uses += [use for use in uses if use.service == service and use.day.startswith(month)]
        known_nano = sum(use.settled_nano + use.in_doubt_nano for use in uses)
        missing_nano = run.settled_nano + run.in_doubt_nano + leased_nano - known_nano
        if (missing_nano > 0 or is_unread) and run.started_at.startswith(month) and _may_be_at(run, service):
            side.unknown_nano += max(0, missing_nano)
            side.notes.append(
                f"{format_usd(missing_nano) if missing_nano > 0 else 'what was spent last'} by the run {run.run_id} of "
                f"{run.job!r} cannot be compared: its journals in {run.state or run.output} cannot be read here; "
                "resume the run, or compare on its machine"
            )
    return side


def _journaled(run: BookedRun) -> list[BilledUse] | None:
    """Return what an unfinished run has bought so far; None if its journals are not on this machine."""
    try:
        found = load_run(Path(run.state), run.run_id)
        return uses_of(found, found.totals())
    except (ParquillError, OSError):
        return None


def _as_resolved(uses: list[BilledUse], run_id: str, ledger: Ledger) -> list[BilledUse]:
    """Apply the answer of a person who resolved all that is in doubt of a run as paid, or as not paid."""
    settled_nano, doubt_nano = sum(use.settled_nano for use in uses), sum(use.in_doubt_nano for use in uses)
    books = ledger.spent(run_id, settled_nano, doubt_nano, 0)
    if books.in_doubt_nano or not doubt_nano:
        return uses
    is_paid = books.settled_nano > settled_nano
    return [replace(use, settled_nano=use.settled_nano + use.in_doubt_nano * is_paid, in_doubt_nano=0) for use in uses]


def _may_be_at(run: BookedRun, service: str) -> bool:
    """Whether a run may have bought at a service: the ledger has its endpoint's address, or a name instead."""
    return run.service.startswith(service) or "://" not in run.service


def find_keys(names: set[str], api: AdminApi, project: str | None) -> dict[str, str]:
    """Return the service's id of each key whose variable is set here: of the one whose ends are those of its value."""
    values = {name: value.strip() for name in names if (value := os.environ.get(name, "")).strip()}
    if not values:
        return {}
    shown = api.keys(project)
    found = {}
    for name, value in values.items():
        fitting = [identity for identity, ends in shown.items() if _fits(value, ends)]
        if len(fitting) == 1:
            found[name] = fitting[0]
    return found


def _fits(value: str, shown: str) -> bool:
    head, *_, tail = re.split(r"\.{2,}|…|\*+", shown) if re.search(r"\.{2,}|…|\*", shown) else (shown, shown)
    return len(head) + len(tail) <= 2 * len(value) and value.startswith(head) and value.endswith(tail)


def _advice(found: Reconciliation, month: str) -> Iterator[str]:
    """Yield what to do about differences."""
    states = {line.state for line in found.lines}
    if found.doubt_billed == "all":
        yield f"the service billed what is in doubt: `parquill spend --month {month} --resolve paid`"
    elif found.doubt_billed == "none":
        yield f"the service billed nothing of what is in doubt: `parquill spend --month {month} --resolve unpaid`"
    elif found.doubt_billed == "some":
        yield "the service billed a part of what is in doubt; it stays booked"
    if "price" in states:
        yield "tokens agree and costs do not: the service charges another price; set the job's `price`"
    if states & {"more_there", "only_there"}:
        yield (
            "the service has more: another program uses the same key, or runs were sent with another ledger (see "
            "PARQUILL_LEDGER_URL)"
        )
    if states & {"less_there", "only_here"}:
        yield "the ledger has more: the exported figures cover fewer days, another organization was charged, or credits"
    if "late" in states:
        yield "the service does not have all figures of the last day yet; compare again tomorrow"


def _usd(nano: int) -> str:
    return usd_text(nano_to_usd(nano))


def _line_json(line: Line, found: Reconciliation) -> dict[str, Any]:
    amounts = line.amounts
    more, known = (
        (amounts.service_nano - amounts.settled_nano, amounts.settled_nano)
        if found.has_costs
        else (amounts.service_tokens - amounts.tokens, amounts.tokens)
    )
    return {
        **({} if line.day is None else {"day": line.day}),
        **line.place._asdict(),
        "state": line.state,
        "cost_usd": _usd(amounts.settled_nano),
        "in_doubt_usd": _usd(amounts.in_doubt_nano),
        "requests": amounts.requests,
        "prompt_tokens": amounts.prompt_tokens,
        "completion_tokens": amounts.completion_tokens,
        "service_usd": _usd(amounts.service_nano) if found.has_costs else None,
        "service_requests": amounts.service_requests if found.has_uses else None,
        "service_prompt_tokens": amounts.service_prompt_tokens if found.has_uses else None,
        "service_completion_tokens": amounts.service_completion_tokens if found.has_uses else None,
        "difference_usd": _usd(more) if found.has_costs else None,
        "difference_percent": round(100 * more / known, 3) if known else None,
    }


def show_difference(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that a person reads: a table, the days that differ, what it comes to, and what to do."""
    yield f"{found['month']} (UTC): the ledger against {found['service']}"
    if found["lines"]:
        yield from _table(found["lines"], ("model", "lane", "key"))
    if found["days"]:
        yield "days that differ:"
        yield from _table(found["days"], ("day", "model", "lane", "key"))
    ledger, doubt, service, others, waiting = format_column(
        [
            usd_to_nano(Decimal(found[name] or 0))
            for name in ("cost_usd", "in_doubt_usd", "service_usd", "others_usd", "submitted_usd")
        ]
    )
    words = [f"ledger {ledger}"]
    if Decimal(found["in_doubt_usd"]):
        words.append(f"in doubt {doubt}")
    if Decimal(found["submitted_usd"]):
        words.append(f"waiting in batches {waiting}")
    if found["service_usd"] is not None:
        words.append(f"service {service}")
        if Decimal(found["others_usd"]):
            words.append(f"other programs {others}")
    verdict = "matches" if found["matches"] else "does not match"
    yield f"{found['month']} {verdict} within {found['tolerance_percent']:g} %: {', '.join(words)}"
    yield from found["notes"]


def _table(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    shown = [name for name in names if any(line[name] is not None for line in lines)]
    has_costs = lines[0]["service_usd"] is not None
    fields = ("cost_usd", "in_doubt_usd", "service_usd", "difference_usd")[: 4 if has_costs else 2]
    nano = [usd_to_nano(Decimal(line[name])) for line in lines for name in fields]
    amounts = [text if amount else "-" for text, amount in zip(format_column(nano), nano, strict=True)]
    head = ["ledger", "in doubt", "service", "difference"][: len(fields)]
    rows = [[*shown, *head, "%", "requests", "at the service", ""]]
    for number, line in enumerate(lines):
        percent, there = line["difference_percent"], line["service_requests"]
        rows.append(
            [
                *(shorten(line[name] or "-") for name in shown),
                *amounts[number * len(fields) : (number + 1) * len(fields)],
                "" if percent is None else f"{percent:+.2f}",
                f"{line['requests']:,}",
                "-" if there is None else f"{there:,}",
                STATES[line["state"]],
            ]
        )
    return align(rows, left={*range(len(shown)), len(rows[0]) - 1})
