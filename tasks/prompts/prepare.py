"""Prepares the run of a job: resumes the one that was cut off, finds that nothing is to do, or plans a new one."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from parquill.tasks.errors import BadInput, BadJob, DamagedJournal, DiskFailed, LedgerFailed
from parquill.tasks.job.answer_schema import check_format
from parquill.tasks.job.lanes import lane_of
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.job.strict_schema import check_strict
from parquill.tasks.money.amounts import format_usd
from parquill.tasks.money.calibration import Calibration
from parquill.tasks.money.estimate import EstimateSum
from parquill.tasks.money.learning import read_calibration, read_past
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.model_price import ModelPrice
from parquill.tasks.money.prices import find_price, price_of
from parquill.tasks.prompts.base import Base, RunOptions, find_base
from parquill.tasks.prompts.planner import Planner
from parquill.tasks.prompts.restore import LOST_JOURNALS, lacks_answers, restore_answers
from parquill.tasks.prompts.reuse import check_reused, reuse_answers
from parquill.tasks.prompts.reuse_hint import explain_reuse
from parquill.tasks.prompts.run import Run, current_run, digest_of
from parquill.tasks.prompts.run_money import reconcile_ledger
from parquill.tasks.prompts.shards import ShardWriter
from parquill.tasks.prompts.source import Source, find_source
from parquill.tasks.records import ShardRef
from parquill.tasks.storage.answer_index import digest_of_journals, open_answers
from parquill.tasks.storage.boot_clock import Moment
from parquill.tasks.storage.disk import DISK, Disk, read_json
from parquill.tasks.storage.folders import Folders, RunFolder, new_run_id
from parquill.tasks.storage.publish import is_published, publish

SHARDS_WANTED = 200
MIN_SHARD, MAX_SHARD = 500, 20_000


def open_source(job: ResolvedJob) -> Source:
    """Find the input of a job and check what can be checked before reading it. Raises BadInput, BadJob."""
    if job.response_format is not None:
        check_format(job.response_format)
        # promise: input: a strict schema is checked before the input is read
        check_strict(job)
    if job.price_as is not None:
        find_price(job.price_as, None, date.today())  # noqa: DTZ011 - only whether there is one
    return find_source(job.input, job.output)


def estimate_job(
    job: ResolvedJob,
    options: RunOptions,
    *,
    past_of: ResolvedJob | None = None,
    price: ModelPrice | None = None,
    other_prices: Sequence[ModelPrice] = (),
) -> EstimateSum:
    """Estimate a job without writing anything into its folders. Raises BadJob, BadInput.

    `past_of` is the job whose past predicts the answers, by default this one; `price` is by default the job's.
    """
    source = open_source(job)
    folders = Folders.of(job.output, job.state)
    answers = open_answers(folders) if (folders.state / "runs").is_dir() else None
    past = correction = None
    with contextlib.suppress(LedgerFailed):  # without the ledger, the estimate is made without the past
        past = read_past(past_of or job)
        correction = read_calibration(job)
    base = find_base(job, options, source)
    try:
        with tempfile.TemporaryDirectory(prefix="parquill-") as scratch:
            planner = Planner(
                job,
                source,
                price or price_of(job, options.day),
                Path(scratch),
                answers,
                *base.kept,
                past,
                other_prices,
                correction,
            )
            with base.refusals():
                total = planner.plan(None, base.rows)
        is_lacking = lacks_answers(folders, answers)
    finally:
        if answers is not None:
            answers.close()
    if is_lacking:
        total.reuse_note = LOST_JOURNALS
    elif not options.redo:
        total.reuse_note = explain_reuse(job, total, folders.runs())
    return total


def refuse_abandoned(run: Run) -> None:
    """Refuse to replace a run whose batches are not collected (BadJob)."""
    raise BadJob(
        f"the run {run.run_id} of this output, with another input or other settings, has made batches that are not "
        "collected yet; start `parquill run`, which collects them first"
    )


def prepare_run(
    job: ResolvedJob,
    options: RunOptions,
    work_ahead: Callable[[], None] = lambda: None,
    disk: Disk = DISK,
    *,
    collect: Callable[[Run], None] = refuse_abandoned,
) -> Run | None:
    """Return the run that a job resumes or begins; None if nothing is to do. Sends nothing.

    `work_ahead` is called as soon as it is known that there is something to do, before the input is read. `collect`
    gets an unfinished run that another one is to replace, if some of its batches are not collected. The caller holds
    the folders. Raises BadJob, BadInput, DiskFailed, DamagedJournal.
    """
    source = open_source(job)
    folders = Folders.of(job.output, job.state)
    folders.recover(disk)
    digest = digest_of(job, source.fingerprint, options.limit)
    current = current_run(folders)
    # promise: C1 a missing journal of an unfinished run is detected before sending
    check_current(folders, current)
    if current is not None and current.digest == digest and _goes_on(current, options):
        work_ahead()
        found = _with(current, job)
        _open_source_again(found, disk)
        found.save_job(disk)
        return found
    if current is not None and current.open_batches:
        # promise: M8 the batches of a run are collected before another run of the output replaces it
        collect(current)
    if not options.redo and _nothing_to_do(folders, digest, hold=job.retry.in_doubt == "hold"):
        _restore_summary(folders, disk)
        return None
    work_ahead()
    run = _plan(job, options, source, digest, disk)
    if run is None:
        _restore_summary(folders, disk)
    return run


def check_current(folders: Folders, current: Run | None) -> None:
    """Refuse to begin if the records of what an unfinished run of this output paid for are gone (DamagedJournal)."""
    if current is not None:
        current.check_journals()
        return
    named = read_json(folders.meta / "current.json")
    if named is None:
        return
    folder = folders.run(named["run_id"])
    lost = folder.lost_journals()
    if not lost and folder.has_journals():  # only its plan is gone: its answers are reused
        return
    now = datetime.now(UTC)
    with Ledger() as ledger:
        booked = ledger.of_run(named["run_id"], now).total_nano
    # promise: C1 a missing run folder with booked payments is detected before sending
    if booked:  # else it was removed because it had sent nothing
        raise DamagedJournal(
            f"{lost[0] if lost else folder.path} is missing; it records what the run has booked {format_usd(booked)} "
            f"for. Restore it from a backup; to pay for its rows again, remove {folders.meta / 'current.json'}"
        )


def _open_source_again(run: Run, disk: Disk) -> None:
    """Take over answers that other runs paid for since the plan was made; check that the reused ones still exist."""
    folders = run.folders
    if digest_of_journals(folders.runs(), run.run_id) != run.known_journals:
        with contextlib.closing(open_answers(folders)) as answers:
            # promise: C4 a resumed run restores its missing answers from the results
            # promise: C1 a missing reused answer is detected before any payment
            restore_answers(folders, answers, disk)
            check_reused(run, answers)
            # promise: C1 a resumed run reuses answers that were paid for since its plan
            reuse_answers(run, answers, disk)


def _goes_on(current: Run, options: RunOptions) -> bool:
    """Whether a start resumes the unfinished run: the same one, or a `--redo` that has paid and was cut off."""
    return current.redo == options.redo or (not options.redo and current.folder.has_begun)


def _restore_summary(folders: Folders, disk: Disk) -> None:
    """Leave results and summary as they are, but write a removed summary or report again."""
    if read_json(folders.output / "summary.json") is None:
        summary = read_json(_history(folders))
        if summary is not None:
            # promise: rerun: a summary.json that was removed is written again
            disk.write_json(folders.output / "summary.json", summary)
    # promise: stores: the next start completes an interrupted copy
    if not is_published(folders):
        publish(folders)  # the copying was cut off, or files were removed there


def _history(folders: Folders) -> Path:
    manifest = read_json(folders.meta / "manifest.json") or {}
    return folders.output / "history" / f"{manifest.get('run_id')}.json"


def _with(run: Run, job: ResolvedJob) -> Run:
    return Run(**{**{name: getattr(run, name) for name in Run.__slots__}, "job": job})


def _nothing_to_do(folders: Folders, digest: str, *, hold: bool) -> bool:
    manifest = read_json(folders.meta / "manifest.json")
    return (
        manifest is not None
        and manifest["digest"] == digest
        and manifest["rows"]["failed"] + manifest["rows"]["not_sent"]
        # promise: M5 with `hold`, rows in doubt do not count as work left to do
        == (manifest.get("failed_in_doubt", 0) if hold else 0)
        and ((folders.output / "summary.json").exists() or _history(folders).exists())
        and all(_size(folders.output / "results" / part["file"]) == part.get("bytes") for part in manifest["parts"])
    )


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def _plan(job: ResolvedJob, options: RunOptions, source: Source, digest: str, disk: Disk) -> Run | None:
    """Plan a run. Returns None if all rows stay as they are in the results."""
    folders = Folders.of(job.output, job.state)
    _discard_unsent(folders, disk)
    started_at, began = datetime.now(UTC), Moment.now()
    price = price_of(job, options.day)
    with contextlib.closing(open_answers(folders)) as answers:
        # promise: C4 answers of removed journals are restored from the results
        restore_answers(folders, answers, disk)
    base = find_base(job, options, source)
    run_id = new_run_id(started_at)
    folder = folders.run(run_id)
    folder.create(disk)
    try:
        correction = read_calibration(job)
        total, shards, kept = _plan_rows(job, base, source, price, folder, correction, disk)
        # promise: rerun: a redo that selects no rows changes nothing
        if base.previous is not None and kept == total.rows:
            folder.discard(disk)
            return None
        # promise: input: more rejected rows than tolerated stop the run before any payment
        check_rejected(job, total)
        if not options.redo:
            total.reuse_note = explain_reuse(job, total, folders.runs())
    except BaseException:
        # promise: input: the planned prompts of a refused input are removed
        folder.discard(disk)  # it holds prompts, and nothing will use it
        raise
    run = Run(
        run_id=run_id,
        job=job,
        day=options.day,
        digest=digest,
        redo=options.redo,
        shards=tuple(shards),
        estimate=total.result(),
        price=price,
        started_at=started_at,
        input_rows=source.rows if base.rows is None else min(base.rows, source.rows),
        correction=correction,
        known_journals=digest_of_journals(folders.runs(), run_id),
        keeps_digest=base.keeps_digest,
        began=began,
    )
    run.save(disk)
    # promise: C1 `--redo` reuses answers that an interrupted redo paid for
    if options.redo:  # an earlier one may have been abandoned after it had paid
        with contextlib.closing(open_answers(folders)) as answers:
            reuse_answers(run, answers, disk)
    given_up = current_run(folders)
    if given_up is not None and given_up.folder.has_journals():
        # nothing else will: its journals have what it paid, the ledger only what its process last reported
        # promise: M4 an abandoned run is settled in the ledger from its journals
        reconcile_ledger(given_up)
    disk.write_own(folders.meta / "current.json", {"run_id": run_id})
    folders.delete_stale_shards()  # of a run that this one replaces
    return run


def _discard_unsent(folders: Folders, disk: Disk) -> None:
    """Remove the runs of this output that have sent nothing: those cut off during planning, or refused."""
    for old in folders.runs():
        # promise: input: a run that has journals is never discarded
        if old.has_journals():
            continue
        settings = read_json(old.path / "job.json") if old.plan.exists() else None
        # another output of the same state folder may have a run that waits for approval
        if settings is None or settings["output"] == folders.output_uri:
            old.discard(disk)


def _plan_rows(
    job: ResolvedJob,
    base: Base,
    source: Source,
    price: ModelPrice,
    folder: RunFolder,
    correction: Calibration | None,
    disk: Disk,
) -> tuple[EstimateSum, list[ShardRef], int]:
    with contextlib.closing(open_answers(Folders.of(job.output, job.state))) as answers:
        combinations = math.prod(len(values) for values in (job.for_each or {}).values())
        # a shard has at least as many rows as requests at once: four that overlap keep every place filled
        # and a batch has as many rows as it may, since the service limits how many batches are made
        smallest = MAX_SHARD if lane_of(price.asked) == "batch" else max(MIN_SHARD, job.limits.max_at_once)
        rows = max(smallest, min(MAX_SHARD, -(-source.rows * combinations // SHARDS_WANTED)))
        sink = ShardWriter(folder, rows, disk)
        planner = Planner(job, source, price, folder.path, answers, *base.kept, read_past(job), correction=correction)
        try:
            with base.refusals():
                total = planner.plan(sink, base.rows)
            sink.close()
        except sqlite3.Error as error:
            raise DiskFailed(f"cannot write into {folder.path}: {error}") from None
        finally:
            sink.abandon()
        answers.add_run(folder.run_id, job.output)
    return total, sink.shards, planner.kept


def check_rejected(job: ResolvedJob, total: EstimateSum) -> None:
    """Refuse a plan with more rejected rows than tolerated (BadInput, which names the first one)."""
    rejected = sum(total.rejected.values())
    # one bad row is always tolerated: a single typo must not stop a run
    if rejected > max(Decimal(1), Decimal(str(job.tolerate.rejected)) * total.rows):
        counts = ", ".join(f"{code} {count:,}" for code, count in sorted(total.rejected.items()))
        raise BadInput(
            f"{rejected:,} of {total.rows:,} rows cannot be sent ({counts}), more than tolerate.rejected = "
            f"{job.tolerate.rejected} allows; the first: {total.first_rejected}"
        )
