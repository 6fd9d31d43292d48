"""summary.json, history and report of a run: what ran, what it cost, what failed and why."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from parquill.tasks.money.amounts import femto_to_nano, nano_to_usd, usd_text
from parquill.tasks.money.estimate import estimate_json
from parquill.tasks.money.tokens import encoding_of
from parquill.tasks.prompts.run import Run
from parquill.tasks.records import Totals, Use
from parquill.tasks.results.count_figures import compared_json
from parquill.tasks.results.report import write_report
from parquill.tasks.results.totals import ResultTotals
from parquill.tasks.storage.boot_clock import Moment, elapsed_s
from parquill.tasks.storage.disk import DISK, Disk
from parquill.tasks.storage.publish import publish, publish_summary, take_ownership
from parquill.tasks.storage.uri import is_uri

# What each key means, for the documentation.
SUMMARY_KEYS = {
    "run_id": "the run",
    "state": "`running`, `finished` or `stopped`",
    "exit_code": "the [exit code](exit-codes.md); null while the run is under way",
    "message": "one sentence if the run stopped or some rows are not ok; otherwise null",
    "job": "the setting `name`",
    "model": "the setting `model`",
    "labels": "the setting `labels`",
    "rows": "rows by status, which add up to `total`, and how many of them are `reused`",
    "tokens": "prompt, cached, cache write, completion and reasoning tokens of this run's rows, as billed",
    "counted": "prompt tokens as counted before the run and as reported by the service, see below",
    "estimate": "tokens and cost as expected before the run; keys as in [`estimate --json`](#estimate---json)",
    "cost_usd": "the sum of the column `cost_usd` over the rows of this `run_id`",
    "paid_usd": "what this run alone paid, according to the ledger",
    "in_doubt_usd": "the sum of the column `in_doubt_usd` over the rows of this `run_id`",
    "submitted_usd": "reserved at the service for requests whose reply is still to come",
    "over_reserved_usd": "what replies of this run cost beyond their reservations; booked, and 0 if the service keeps "
    "`max_output_tokens`",
    "saved_usd": "what the rows that reuse an answer would have cost",
    "budget": "the budget of the run, and what was booked in the month before and after the run",
    "requests": "requests sent, retried, throttled, in doubt, and submitted without a reply yet: of this run alone, "
    "summed over interruptions",
    "lanes": "answers that this run paid for and their cost, by lane",
    "endpoints": "what this run bought at each endpoint: requests sent, rows with an answer, cost, tokens, and what is "
    "in doubt; the costs add up to `paid_usd`",
    "cache": "prompt tokens that the answers read from the service's cache and wrote to it, and what that saved; less "
    "than zero if it cost more, since some models charge for writing",
    "finish_by": "when the run was to be done by its setting `finish_by`; null without one",
    "duration_s": "seconds from start to end",
    "prices": "the source of the prices, with its version and day",
    "errors": "rows by `error_code`",
    "groups": "for each `for_each` name and value: rows, rows that are not ok, cost, and mean tokens of the answers "
    "that this run paid for",
    "usage_unknown": "answers whose usage is missing or cannot be true; at least their reservation is booked",
    "usage_flags": "answers whose usage does not add up, by reason; the larger figure is booked. `tier`: a service "
    "tier without a known price, booked at the highest known one",
    "over_reserved_rows": "rows that cost more than reserved, by cause: `answers` longer than `max_output_tokens`, "
    "`prompts` longer than counted, other `prices`",
    "prompts_cut_at": "answers to prompts that the server cut, by the number of prompt tokens that it read",
    "unknown_finish_reasons": "answers that are ok although their finish reason is not known, by that reason",
    "started_at": "when the run started",
    "finished_at": "when the run ended",
    "price_as": "only with the setting `price_as`: what the same usage costs on that model",
}


def make_summary(
    run: Run,
    sums: ResultTotals,
    totals: Totals,
    *,
    state: str,
    exit_code: int | None,
    finished_at: datetime | None,
    message: str | None = None,
    month: tuple[Decimal, Decimal] | None = None,
) -> dict[str, Any]:
    """Return the summary of a run: the documented keys, and a few more for people.

    Cost and doubt are sums over the rows of this run, including what the same rows cost before; `paid_usd` is what this
    run alone paid. `month` is what the ledger had booked before the run, and has booked with it, in dollars.
    """
    run_usd = run.job.budget.run_usd
    before, after = month or (None, None)
    encoding, exact = encoding_of(run.job.model, run.job.tokenizer)
    summary: dict[str, Any] = {
        "run_id": run.run_id,
        "state": state,
        "exit_code": exit_code,
        "message": message,
        "job": run.job.name,
        "model": run.job.model,
        "labels": run.job.labels,
        "rows": sums.rows,
        "tokens": sums.tokens,
        "counted": compared_json(sums.compared, model=run.job.model, encoding=encoding, exact=exact),
        "estimate": estimate_json(run.job, run.estimate),
        "cost_usd": usd_text(nano_to_usd(sums.cost_nano)),
        "paid_usd": usd_text(nano_to_usd(totals.settled_nano)),  # by this run; a redone row also shows its earlier cost
        "in_doubt_usd": usd_text(nano_to_usd(sums.in_doubt_nano)),
        "submitted_usd": usd_text(nano_to_usd(totals.submitted_nano)),
        "over_reserved_usd": usd_text(nano_to_usd(totals.over_reserved_nano)),
        "saved_usd": usd_text(nano_to_usd(sums.saved_nano)),
        "budget": {
            "run_usd": None if run_usd is None else usd_text(run_usd),
            "month_usd_before": None if before is None else usd_text(before),
            "month_usd_after": None if after is None else usd_text(after),
        },
        "requests": {
            "sent": totals.sent,
            "retried": totals.retried,
            "throttled": totals.throttled,
            "in_doubt": totals.in_doubt,
            "submitted": totals.submitted,
        },
        "lanes": {
            lane: {"rows": g.rows, "cost_usd": usd_text(nano_to_usd(g.cost_nano))} for lane, g in sums.lanes.items()
        },
        "endpoints": endpoints_json(run.job.labels_of_endpoints, totals),
        "cache": {
            "read_tokens": totals.cached_tokens,
            "written_tokens": totals.cache_write_tokens,
            "saved_usd": usd_text(nano_to_usd(totals.cache_saved_nano)),
        },
        "finish_by": None if run.finish_at is None else run.finish_at.isoformat(timespec="seconds"),
        "duration_s": None if finished_at is None else _duration_s(run, finished_at),
        "prices": {"source": run.price.source, "version": run.price.version},
        "errors": sums.errors,
        "groups": {
            name: [
                {
                    "value": value,
                    "rows": g.rows,
                    "not_ok": g.rows - g.ok,
                    "cost_usd": usd_text(nano_to_usd(g.cost_nano)),
                    "mean_answer_tokens": g.mean_answer_tokens,
                }
                for value, g in groups.items()
            ]
            for name, groups in sums.groups.items()
        },
        "usage_unknown": sums.usage_unknown,
        "usage_flags": sums.usage_flags,
        "over_reserved_rows": dict(sums.over_reserved),
        "prompts_cut_at": sums.prompts_cut_at,
        "unknown_finish_reasons": sums.unknown_finish_reasons,
        "started_at": run.started_at.isoformat(timespec="seconds"),
        "finished_at": None if finished_at is None else finished_at.isoformat(timespec="seconds"),
    }
    if sums.price_as is not None:
        cost = usd_text(nano_to_usd(femto_to_nano(sums.price_as_femto)))
        summary["price_as"] = {"model": run.job.price_as, "cost_usd": cost, "prices": sums.price_as.source}
    return summary


def endpoints_json(labels: Sequence[str], totals: Totals) -> dict[str, dict[str, Any]]:
    """Return what a run bought at each of its endpoints, by label."""
    # the journals of a run with one endpoint do not name it
    uses: dict[str, Use] = {}
    for label, use in totals.endpoints.items():
        # promise: endpoints: what a run paid is summed by endpoint, also if there was only one before
        uses.setdefault(label or labels[0], Use()).add(use)
    return {
        label: {
            "requests": use.sent,
            "rows": use.rows,
            "cost_usd": usd_text(nano_to_usd(use.settled_nano)),
            "in_doubt_usd": usd_text(nano_to_usd(use.in_doubt_nano)),
            "prompt_tokens": use.prompt_tokens,
            "completion_tokens": use.completion_tokens,
        }
        # an endpoint without requests too, and one that was renamed since
        for label, use in {**{label: Use() for label in labels}, **uses}.items()
    }


def _duration_s(run: Run, finished_at: datetime) -> float:
    # promise: clock: the summary's duration is measured with the boot clock
    return round(elapsed_s(run.began, Moment.now(), run.started_at, finished_at), 3)


def write_running(run: Run, disk: Disk = DISK) -> None:
    """Write in summary.json that the run is under way. Raises DiskFailed; for a store BadJob, FolderInUse."""
    if is_uri(run.folders.output_uri):
        take_ownership(run.folders, run.run_id)
    sums, totals = _journaled(run)
    summary = make_summary(run, sums, totals, state="running", exit_code=None, finished_at=None)
    disk.write_json(run.folders.output / "summary.json", summary)
    publish_summary(run.folders)


def _journaled(run: Run) -> tuple[ResultTotals, Totals]:
    """Return the totals of a run without results, from its journals: a row without an outcome there is not sent."""
    totals = run.totals()
    sums = ResultTotals(cost_nano=totals.settled_nano, in_doubt_nano=totals.in_doubt_nano)
    sums.rows.update(totals.statuses, rejected=sum(run.estimate.rejected.values()))
    sums.rows["not_sent"] = run.estimate.rows - sum(sums.rows.values())
    sums.rows["total"] = run.estimate.rows
    for kind in sums.tokens:
        sums.tokens[kind] = getattr(totals, f"{kind}_tokens")
    return sums, totals


def write_summary(run: Run, sums: ResultTotals, summary: dict[str, Any], disk: Disk = DISK) -> None:
    """Write history and report, and summary.json last. Raises DiskFailed."""
    output = run.folders.output
    disk.make_folder(output / "history")
    disk.write_json(output / "history" / f"{run.run_id}.json", summary)
    if sums.overview is not None:
        write_report(output / "report.html", summary, sums.overview, disk)
    disk.write_json(output / "summary.json", summary)
    publish(run.folders)


def write_interrupted(run: Run, message: str, exit_code: int, disk: Disk = DISK) -> dict[str, Any]:
    """Write summary.json of a run that was cut off, from its journals; the results stay those of the previous run."""
    sums, totals = _journaled(run)
    summary = make_summary(
        run, sums, totals, state="stopped", exit_code=exit_code, finished_at=datetime.now(UTC), message=message
    )
    disk.write_json(run.folders.output / "summary.json", summary)
    publish_summary(run.folders, ended=True)
    return summary
