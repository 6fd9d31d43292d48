"""The estimate of a job, with or without a pilot, as the command and the flow show it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from parquill.tasks.errors import ParquillError, ServiceStopped
from parquill.tasks.job.api_key import read_keys
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.money.amounts import nano_to_usd, usd_text
from parquill.tasks.money.estimate import flat_estimate
from parquill.tasks.money.figures import must_approve
from parquill.tasks.money.gate import Verdict, asks_approval, check_budget, check_largest
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.model_price import ModelPrice
from parquill.tasks.money.month import month_of_others
from parquill.tasks.money.prices import price_of
from parquill.tasks.prompts.base import RunOptions
from parquill.tasks.prompts.prepare import check_rejected, estimate_job, prepare_run
from parquill.tasks.prompts.run_money import read_standing
from parquill.tasks.records import Estimate
from parquill.tasks.storage.folders import Folders, lock_folders

if TYPE_CHECKING:
    from parquill.tasks.limits.lease_client import LogFn
    from parquill.tasks.llm.run_sender import RunSender


# What the keys mean that `estimate --json` has only after a pilot, and only if the job cannot run.
PILOT_KEYS = {
    "pilot_rows": "rows that the pilot completed",
    "pilot_ended": "why the pilot ended",
    "paid_usd": "what the pilot cost",
    "in_doubt_usd": "dollars reserved for requests of the pilot that may have been billed",
}
ERROR_KEYS = {"error": "why the job cannot run", "exit_code": "the exit code of that error"}


@dataclass(frozen=True, slots=True)
class DryRun:
    """An estimate and the gate's verdict on it; `error` is why the job cannot run even within its budget.

    After a pilot, `completed` rows have their outcome, `sentence` says what was done, and `pilot` holds its figures.
    """

    job: ResolvedJob
    estimate: Estimate
    verdict: Verdict
    price: ModelPrice
    error: ParquillError | None = None
    completed: int = 0
    sentence: str | None = None
    pilot: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return one flat mapping. After a pilot, the figures are of the whole run, what is already paid included."""
        flat = flat_estimate(self.job, self.estimate, self.price, fits=self.verdict.fits, left=self.verdict.left)
        failure = {"error": str(self.error), "exit_code": self.error.exit_code} if self.error is not None else {}
        rows = self.estimate.to_send - self.completed
        asks = must_approve(self.job, self.verdict) if asks_approval(self.job, self.verdict) else None
        warning = "; ".join(filter(None, [self.verdict.warning, asks])) or None
        return {**flat, "rows_to_send": rows, "warning": warning, **self.pilot, **failure}


def estimate_without_pilot(job: ResolvedJob, options: RunOptions) -> DryRun:
    """Estimate a job; nothing is sent, nothing is written to its folders. Raises BadJob, BadInput."""
    total = estimate_job(job, options)
    estimate, price = total.result(), price_of(job, options.day)
    error: ParquillError | None = None
    try:
        check_rejected(job, total)
        check_largest(job, estimate)
    except ParquillError as found:
        error = found
    with Ledger() as ledger:
        verdict = check_budget(job, estimate, price, None, month_of_others(ledger, job))
    return DryRun(job, estimate, verdict, price, error)


def estimate_with_pilot(
    job: ResolvedJob,
    options: RunOptions,
    rows: int | None,
    watch: Callable[[RunSender], AbstractContextManager[Any]] = nullcontext,
    log: LogFn | None = None,
) -> DryRun | None:
    """Complete a sample of a job's rows (None: as many as it takes) and estimate the whole run from them.

    `watch` gets the sender that the pilot opens, and may stop it. `log` gets messages about shared limits.
    Returns None if no row is left to send. Raises BadJob, BadInput, FolderInUse, RefusedByBudget, NotApproved before
    anything is sent; Interrupted, ServiceStopped, StoppedByBudget if the pilot was cut off.
    """
    from parquill.tasks.llm.pilot import run_pilot  # imports the HTTP client, which a plain estimate does not need

    read_keys(job)  # report a missing key now, not after the input is read
    folders = Folders.of(job.output, job.state)
    folders.create()
    with lock_folders(folders, f"a pilot of the job {job.name}"):
        run = prepare_run(job, options)
        if run is None or not run.estimate.to_send:
            return None
        check_largest(run.job, run.estimate)
        pilot = run_pilot(run, rows, watch=watch, log=log)
        standing = read_standing(pilot.run)
    totals, estimate = pilot.totals, pilot.run.estimate
    error = None
    if not pilot.rows and pilot.failed:
        # promise: estimates: a pilot without a single answer is an error
        error = ServiceStopped(
            f"the pilot got no answer, so the cost is not known: {pilot.first_failure}. Fix this, then run it again"
        )
    return DryRun(
        job,
        estimate,
        standing.verdict,
        run.price,
        error,
        completed=sum(totals.statuses.values()),
        sentence=pilot.sentence,
        pilot={
            "pilot_rows": pilot.rows,
            "pilot_ended": pilot.ended,
            "paid_usd": usd_text(nano_to_usd(totals.settled_nano)),
            "in_doubt_usd": usd_text(nano_to_usd(totals.in_doubt_nano)),
        },
    )
