"""`parquill try`: complete a few rows and show prompt, answer and price of each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import orjson

from parquill.flows.cli.console import print_result
from parquill.flows.cli.rows import INDENT, head_of, shorten
from parquill.tasks.errors import BadInput
from parquill.tasks.job.api_key import read_keys
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.llm.pilot import Pilot, run_pilot
from parquill.tasks.llm.run_sender import RunSender
from parquill.tasks.money.amounts import format_usd, nano_to_usd, usd_text
from parquill.tasks.money.gate import check_largest
from parquill.tasks.prompts.base import RunOptions
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.run import Run
from parquill.tasks.records import Outcome
from parquill.tasks.storage.folders import Folders, lock_folders


@dataclass(frozen=True, slots=True)
class TriedRow:
    """A row that was completed: where it is in the input, its request, and its outcome."""

    source_file: str
    row_number: int
    request: Any
    outcome: Outcome

    def as_dict(self) -> dict[str, Any]:
        """Return the row for JSON."""
        outcome, usage = self.outcome, self.outcome.usage
        return {
            "source_file": self.source_file,
            "row_number": self.row_number,
            "request": self.request,
            "status": outcome.status,
            "completion": outcome.completion,
            "error_code": outcome.error_code,
            "error_message": outcome.error_message,
            "prompt_tokens": None if usage is None else usage.prompt,
            "completion_tokens": None if usage is None else usage.completion,
            "cost_usd": usd_text(nano_to_usd(outcome.cost_nano)),
            "latency_s": outcome.latency_s,
        }


@dataclass(frozen=True, slots=True)
class Trial:
    """The rows that were tried, and the pilot that completed them."""

    rows: list[TriedRow]
    pilot: Pilot

    @property
    def sentence(self) -> str:
        """What was paid, and what happens with it."""
        paid = format_usd(sum(row.outcome.cost_nano for row in self.rows))
        count = "1 row" if len(self.rows) == 1 else f"{len(self.rows):,} rows"
        return f"{count} for {paid}; `parquill run` reuses what was answered"


def try_rows(
    job: ResolvedJob,
    options: RunOptions,
    rows: int,
    watch: Callable[[RunSender], AbstractContextManager[Any]] = nullcontext,
) -> Trial:
    """Complete rows that are spread over the input's lengths; the run continues from them.

    Raises BadInput if no row is left to complete, and like `run_pilot`.
    """
    read_keys(job)
    folders = Folders.of(job.output, job.state)
    folders.create()
    with lock_folders(folders, f"a trial of the job {job.name}"):
        run = prepare_run(job, options)
        if run is None or not run.estimate.to_send:
            raise BadInput("every row already has its answer; `parquill report JOB --sample 10` shows some of them")
        check_largest(run.job, run.estimate)
        pilot = run_pilot(run, rows, watch=watch)
        return Trial(_tried(pilot), pilot)


def _tried(pilot: Pilot) -> list[TriedRow]:
    found = []
    run: Run = pilot.run
    for shard in sorted({row.shard for row in pilot.chosen}, key=lambda each: each.number):
        numbers = {row.number for row in pilot.chosen if row.shard == shard}
        outcomes = run.state(shard.number).outcomes
        with run.open_shard(shard) as planned:
            requests = {row.number: row.messages for batch in planned.pending(numbers) for row in batch}
            first = 0
            for plan in planned.plan("source_file", "row_number"):
                for number, (file, row_number) in enumerate(zip(*plan.values(), strict=True), first):
                    if number in numbers and number in outcomes:
                        request = orjson.loads(requests[number])
                        found.append(TriedRow(file, row_number, request, outcomes[number]))
                first += len(plan["source_file"])
    return found


def show_trial(trial: Trial) -> None:
    """Show each row with its prompt and its answer, and what they cost."""
    for row in trial.rows:
        print_result(head_of({**row.as_dict(), "cost_usd": nano_to_usd(row.outcome.cost_nano)}))
        for line in _lines_of(row.request):
            print_result(f"{INDENT}{line}")
        shown = row.outcome.completion if row.outcome.completion is not None else row.outcome.error_message
        print_result(f"{INDENT}-> {shorten(shown)}")
    print_result(trial.sentence)


def _lines_of(request: Any) -> list[str]:
    """Return each message of a request as a line; the legacy API has one text."""
    if isinstance(request, str):
        return [shorten(request)]
    names = (message.get("role", message.get("type", "item")) for message in request)
    return [f"{name}: {shorten(message.get('content'))}" for name, message in zip(names, request, strict=True)]
