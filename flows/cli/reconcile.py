"""`parquill reconcile`: what the ledger has for a month against the usage and the costs of the service."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
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
from parquill.tasks.prompts.run_uses import name_of_key, uses_of

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
    here = read_ledger(month, endpoint.base_url, now)
    # promise: reconcile: a key of the job is its own, also if the ledger has nothing of it
    own = {use.key for use in here.uses} | {name_of_key(each) for each in _endpoints(job, endpoint.base_url)}
    names, notes = dict(keys), list(here.notes)
    if files:
        there = _read_files(files).of_month(month)
        if not (there.uses or there.costs):
            notes.append(f"the files have no figures of {month}")
    else:
        api = _open_admin(endpoint)
        there = api.figures(days_of(month)[0], min(days_of(month)[-1], now.date()))
        try:
            names = {**find_keys(own, api, project_of(endpoint)), **names}
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
            f"with --key {missing[0]}=ID, or set the variable to the key"
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


def _read_files(files: Sequence[Path]) -> ServiceFigures:
    """Read all files, each once. Raises BadJob."""
    there = ServiceFigures()
    for file in {path.resolve(): path for path in files}.values():
        there.add(read_export(file))
    if there.uses is None and there.costs is None:
        raise BadJob(f"{', '.join(map(str, files))}: no usage and no costs, as OpenAI exports them")
    return there


def _endpoints(job: Job | None, service: str) -> list[Endpoint]:
    """Return the endpoints of a job at a service, or OpenAI's usual one."""
    given = [Endpoint.model_validate({})] if job is None else [each.endpoint for each in job.each_endpoint]
    return [each for each in given if each.base_url == service]


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


def read_ledger(month: str, service: str, now: datetime) -> LedgerSide:
    """Read what runs bought at a service in a month; of a run whose uses are not kept, its journals are read.

    Raises LedgerFailed.
    """
    side = LedgerSide()
    with Ledger() as ledger:
        runs = booked_runs(ledger, month, now)
        kept = read_uses(ledger, [run.run_id for run in runs])
        for run in runs:
            uses, is_unread = kept.get(run.run_id, []), False
            if not run.is_finished or (not uses and run.month.settled_nano):
                journaled = _journaled(run)
                uses, is_unread = journaled or uses, journaled is None
            mine = [use for use in _as_resolved(uses, run, month, ledger) if use.day.startswith(month)]
            side.uses += [use for use in mine if use.service == service]
            if service in run.services:
                side.submitted_nano += run.submitted_nano
                if is_unread:
                    _note_unread(side, run, mine)
    return side


def _journaled(run: BookedRun) -> list[BilledUse] | None:
    """Return what a run has bought so far; None if its journals are not on this machine."""
    try:
        found = load_run(Path(run.state), run.run_id)
        return uses_of(found, found.totals())
    except (ParquillError, OSError):
        return None


def _note_unread(side: LedgerSide, run: BookedRun, known: Sequence[BilledUse]) -> None:
    """Note how much of a run cannot be compared, since its journals cannot be read."""
    booked_nano = run.month.settled_nano + run.month.in_doubt_nano + run.month.leased_nano
    missing_nano = max(0, booked_nano - sum(use.settled_nano + use.in_doubt_nano for use in known))
    side.unknown_nano += missing_nano
    what = format_usd(missing_nano) if missing_nano else "what was spent last"
    side.notes.append(
        f"{what} of the run {run.run_id} of {run.job!r} cannot be compared: its journals in {run.state or run.output} "
        f"cannot be read here; {'compare' if run.is_finished else 'resume the run, or compare'} on its machine"
    )


def _as_resolved(uses: list[BilledUse], run: BookedRun, month: str, ledger: Ledger) -> list[BilledUse]:
    """Apply what a person has resolved of a run as paid or as not paid to its uses of a month.

    The ledger keeps how much was resolved, and how much is still in doubt in each month. What was resolved in a month
    is shared out among the uses of the month, in proportion to what they had in doubt.
    """
    settled_nano, doubt_nano = sum(use.settled_nano for use in uses), sum(use.in_doubt_nano for use in uses)
    if not doubt_nano:
        return uses
    books = ledger.spent(run.run_id, settled_nano, doubt_nano, 0)
    resolved_nano = doubt_nano - books.in_doubt_nano
    of_month = sum(use.in_doubt_nano for use in uses if use.day.startswith(month))
    here_nano = min(resolved_nano, of_month - run.month.in_doubt_nano)
    if here_nano <= 0:
        return uses
    # promise: reconcile: money that a person resolved as unpaid is not compared as paid
    paid = Fraction(max(0, books.settled_nano - settled_nano), resolved_nano) * Fraction(here_nano, of_month)
    left = 1 - Fraction(here_nano, of_month)
    return [
        replace(
            use,
            settled_nano=use.settled_nano + round(use.in_doubt_nano * paid),
            in_doubt_nano=round(use.in_doubt_nano * left),
        )
        if use.day.startswith(month)
        else use
        for use in uses
    ]


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
    resolve = f"`parquill spend --month {month} --resolve"
    if found.was_doubt_billed:
        yield f"the service billed what is in doubt, or a part of it: {resolve} paid` books all of it, for all jobs"
    elif found.was_doubt_billed is False:
        yield f"the service billed nothing of what is in doubt: {resolve} unpaid`, for all jobs"
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
