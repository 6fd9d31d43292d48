"""`parquill reconcile`: what the ledger has for a month against the usage and the costs of the service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from parquill.flows.cli.lists import align, shorten
from parquill.tasks.errors import BadJob, ParquillError
from parquill.tasks.job.endpoint import Endpoint
from parquill.tasks.job.settings import Job
from parquill.tasks.llm.admin_api import AdminApi, find_keys, project_of
from parquill.tasks.llm.service_usage import ServiceFigures, read_export
from parquill.tasks.money.amounts import format_column, nano_to_usd, usd_text, usd_to_nano
from parquill.tasks.money.calendar_months import days_of
from parquill.tasks.money.reconciliation import Line, Reconciliation, reconcile
from parquill.tasks.prompts.ledger_side import read_ledger
from parquill.tasks.prompts.run_uses import name_of_key

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
    if not here.uses:
        notes.append(
            f"the ledger has nothing of {month} at {endpoint.base_url}: if runs were sent, they used another ledger "
            "(see PARQUILL_LEDGER_URL)"
        )
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
