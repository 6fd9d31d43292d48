"""What Prefect's UI shows of a run. None of it may cost a row: a server that does not answer causes only a warning."""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.runtime import flow_run

from parquill.tasks.job.settings import Job
from parquill.tasks.llm.run_sender import RunSender
from parquill.tasks.money.amounts import format_usd
from parquill.tasks.money.figures import format_duration, step_of_estimate, three_answers
from parquill.tasks.money.gate import Verdict
from parquill.tasks.money.model_price import ModelPrice
from parquill.tasks.orchestration.artifacts import (
    cost_picture,
    errors_tables,
    estimate_table,
    groups_tables,
    money_table,
    places,
    rows_table,
    slowest_table,
    what_to_do,
)
from parquill.tasks.orchestration.events import best_effort, emit
from parquill.tasks.prompts.run import Run
from parquill.tasks.records import Estimate
from parquill.tasks.results.escaping import escape, escape_inline, strip_control
from parquill.tasks.results.figures import headline
from parquill.tasks.results.next_step import next_step
from parquill.tasks.results.totals import ResultTotals

UPDATE_INTERVAL_S = 2.0
POLL_INTERVAL_S = 0.1  # the longest delay of a warning
MAX_WORD = 80  # in the name of a run


def _key(kind: str, job: Job) -> str:
    """Return an artifact key unique to the job; Prefect allows lower case letters, digits and dashes."""
    slug = re.sub(r"[^a-z0-9]+", "-", job.name.lower()).strip("-") or "job"
    # promise: P6 each job has its own artifact key
    if slug != job.name:
        slug += "-" + hashlib.sha256(job.name.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"parquill-{kind}-{slug}"


def flow_run_name(what: str | None = None) -> Callable[[], str]:
    """Return a function that names a flow run by job, by `what` it does and by model, before they are validated."""

    def name() -> str:
        given = flow_run.parameters
        job = given.get("job", given)
        if isinstance(job, Job):
            job = job.model_dump(include={"name", "model"})
        if not isinstance(job, Mapping):
            job = {}
        parts = (_word(job.get("name"), "a job without a name"), what, _word(job.get("model"), "no model"))
        return " · ".join(part for part in parts if part)

    return name


def _word(value: Any, otherwise: str) -> str:
    if not isinstance(value, str) or not value.strip():
        return otherwise
    return strip_control(value).replace("\n", " ").strip()[:MAX_WORD]


def run_name(job: Job, rows: int, what: str = "") -> str:
    """Return the name of a run: its job, its rows and its model; `what` precedes the rows, such as `estimate of `."""
    words = [" ".join(strip_control(word).split()) for word in (job.name, job.model)]
    return f"{words[0]} · {what}{rows:,} row{'' if rows == 1 else 's'} · {words[1]}"


def name_run(name: str) -> None:
    """Set the flow run's name in the UI."""
    with best_effort("the run's name"):
        if flow_run.id:
            with get_client(sync_client=True) as client:
                client.update_flow_run(flow_run.id, name=name)


def show_estimate(job: Job, estimate: Estimate, verdict: Verdict, price: ModelPrice) -> None:
    """Show the estimate as an artifact, with its headline as the description."""
    rejected = ", ".join(f"{code} {count:,}" for code, count in sorted(estimate.rejected.items()))
    parts = [
        what_to_do(step_of_estimate(job, estimate, verdict)),
        f"# Estimate of {escape(job.name)}",
        *(f"**{escape(answer)}**" for answer in three_answers(job, estimate, verdict, datetime.now(UTC))),
        escape(f"Warning: {verdict.warning}." if verdict.warning else ""),
        estimate_table(estimate),
        escape(f"Rows that cannot be sent: {rejected}. The first: {estimate.first_rejected}.") if rejected else "",
        *(escape(f"Warning: {note}.") for note in estimate.input_notes),
        escape(estimate.reuse_note or ""),
        escape(f"{estimate.basis_note}. Prices: {price.source}, {price.version}."),
    ]
    with best_effort("the estimate"):
        create_markdown_artifact(
            markdown="\n\n".join(part for part in parts if part),
            key=_key("estimate", job),
            description=escape_inline(verdict.sentence),
        )


def show_summary(run: Run, sums: ResultTotals, summary: dict[str, Any]) -> None:
    """Show the cost summary as an artifact, with its headline as the description."""
    line, overview = headline(summary), sums.overview
    parts = [
        what_to_do(next_step(summary)),
        f"# {escape(run.job.name)}: {line}",
        escape(summary["message"] or ""),
        rows_table(summary),
        errors_tables(summary, overview),
        groups_tables(summary),
        money_table(summary),
        cost_picture(summary),
        slowest_table(overview),
        places(run.folders.output_uri),
    ]
    with best_effort("the summary"):
        create_markdown_artifact(
            markdown="\n\n".join(part for part in parts if part),
            key=_key("summary", run.job),
            description=escape_inline(line),
        )


@contextlib.contextmanager
def show_progress(run: Run, run_sender: RunSender) -> Iterator[None]:
    """Keep a progress artifact up to date, at most every two seconds, from a separate thread."""
    artifact_id: Any = None
    with best_effort("the progress"):
        artifact_id = create_progress_artifact(
            progress=0.0, key=_key("progress", run.job), description=escape_inline(progress_line(run, run_sender))
        )
    over = threading.Event()
    # in the flow's context, so that what the thread logs, creates and emits belongs to the flow run
    work = partial(contextvars.copy_context().run, _progress_loop, run, run_sender, artifact_id, over)
    thread = threading.Thread(target=work, name="parquill-ui", daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        # the last update may take a while, and nothing more may be sent meanwhile
        # promise: M8 an error of the run does not cancel its batches
        run_sender.request_stop(cancels=not isinstance(error, Exception))
        raise
    finally:
        over.set()
        thread.join(10)


def _progress_loop(run: Run, run_sender: RunSender, artifact_id: Any, over: threading.Event) -> None:
    """Report warnings every POLL_INTERVAL_S; show progress every UPDATE_INTERVAL_S and at the end."""
    shown, reported, passed = time.monotonic(), 0, 0
    while True:
        last = over.wait(POLL_INTERVAL_S)
        # copies: the event loop appends to both
        service, limits = list(run_sender.lane.warnings), list(run_sender.soft_limits.messages)
        for message in service[reported:]:
            with best_effort("the warning"):
                get_run_logger().warning(message)
        reported = len(service)
        for message in limits[passed:]:
            _warn(run, run_sender, message)
        passed = len(limits)
        if last or time.monotonic() - shown >= UPDATE_INTERVAL_S:
            shown = time.monotonic()
            artifact_id = _show_progress(run, run_sender, artifact_id)
        if last:
            return


def _show_progress(run: Run, run_sender: RunSender, artifact_id: Any) -> Any:
    """Update the progress artifact, or create it if the server was away until now; return its id."""
    progress, line = run_sender.progress, escape_inline(progress_line(run, run_sender))
    share = round(100.0 * progress.done / max(1, progress.total), 1)
    with best_effort("the progress"):
        if artifact_id is None:
            return create_progress_artifact(progress=share, key=_key("progress", run.job), description=line)
        with get_client(sync_client=True) as client:
            client.update_artifact(artifact_id, ArtifactUpdate(data=share, description=line))
    return artifact_id


def _warn(run: Run, run_sender: RunSender, message: str) -> None:
    """Report at once that a soft limit is passed: in the flow run's log, as an event and as an artifact."""
    with best_effort("the warning"):
        get_run_logger().warning(message)
    emit("budget.soft-limit", run.job, run_id=run.run_id, message=message)
    step = "nothing, if you expected this cost: at its budget the run stops by itself. To stop it now, press Cancel"
    lines = [
        what_to_do(step),
        f"# {escape(run.job.name)}: {escape(message)}",
        escape(progress_line(run, run_sender)),
        f"Run {escape(run.run_id)}.",
    ]
    with best_effort("the warning's artifact"):
        create_markdown_artifact(
            markdown="\n\n".join(lines),
            key=_key("soft-limit", run.job),
            description=escape_inline(f"{run.job.name}: {message}"),
        )


def progress_line(run: Run, run_sender: RunSender) -> str:
    """Return rows, money and time left in one line."""
    progress, budget = run_sender.progress, run_sender.budget
    limit = f" of {format_usd(budget.limit_nano)}" if budget.limit_nano is not None else ""
    doubt = f", {format_usd(run_sender.in_doubt_nano)} in doubt" if run_sender.in_doubt_nano else ""
    if budget.submitted_nano:
        doubt += f", {format_usd(budget.submitted_nano)} reserved in batches"
    left_s = progress.eta_s(time.monotonic())
    left = "" if left_s is None or progress.done >= progress.total else f", {format_duration(left_s)} left"
    if (waiting_for := run_sender.lane.waiting_for) is not None:
        left = f", waiting for {waiting_for}"
    return (
        f"{progress.done:,} of {progress.total:,} rows, {progress.not_ok:,} not ok, "
        f"{format_usd(run_sender.settled_nano)}{limit} spent{doubt}{left} · {run.job.model}"
    )
