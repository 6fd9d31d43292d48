"""Reuses answers that other runs paid for since a plan was made, or that a redo paid for and never published.

A plan says who pays for a key by the state of that time. Runs that share a state folder take turns. So before each
start the open rows are looked up again, and each answer found becomes the row's outcome, at no cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any

from parquill.tasks.errors import DamagedJournal
from parquill.tasks.prompts.run import Run
from parquill.tasks.records import Action, Charge, Outcome, ShardRef
from parquill.tasks.storage.answer_index import AnswerIndex, AnswerLocation
from parquill.tasks.storage.disk import DISK, Disk
from parquill.tasks.storage.journal import append_groups
from parquill.tasks.storage.replay import RowState, ShardState

_COLUMNS = ("action", "request_key", "worst_nano", "newer_than", "prior")


def reuse_answers(run: Run, answers: AnswerIndex, disk: Disk = DISK) -> int:
    """Give every open row of a run its answer if the state has one. Returns how many rows that were.

    The caller holds the run's folders. Raises DamagedJournal, DiskFailed.
    """
    rows = 0
    for shard in run.shards:
        if run.is_done(shard):
            continue
        state = run.state(shard.number)
        if len(state.outcomes) < shard.to_send:
            header = {"run_id": run.run_id, "shard": shard.number}
            groups = _groups(run, shard, state, answers)
            rows += append_groups(run.folder.journal(shard.number), header, groups, disk)
    return rows


def _groups(run: Run, shard: ShardRef, state: ShardState, answers: AnswerIndex) -> Iterator[list[dict[str, Any]]]:
    first = 0
    with run.open_shard(shard) as planned:
        for plan in planned.plan(*_COLUMNS):
            rows = [dict(zip(plan, values, strict=True)) for values in zip(*plan.values(), strict=True)]
            open_rows = {
                number: row
                for number, row in enumerate(rows, first)
                if row["action"] == Action.SEND and number not in state.outcomes
            }
            first += len(rows)
            chosen = _choose(open_rows.values(), run, answers)
            group = []
            for number, row in open_rows.items():
                if row["request_key"] in chosen:
                    location, answer = chosen[row["request_key"]]
                    tried = state.rows.get(number, RowState())
                    outcome = _outcome(number, row, location, answer, tried, is_own=location.output == run.job.output)
                    group.append({**asdict(outcome), "reserved": row["worst_nano"]})
            yield group


def _choose(
    rows: Iterable[dict[str, Any]], run: Run, answers: AnswerIndex
) -> dict[bytes, tuple[AnswerLocation, Outcome]]:
    """Return another run's best answer to each key; to a row that `--redo` names, only one newer than the shown one."""
    newer_than = {row["request_key"]: row["newer_than"] for row in rows}
    waiting = {
        key: [location for location in places if location.reusable and location.run_id != run.run_id]
        for key, places in answers.find_all(list(newer_than), run.job.output).items()
    }
    chosen: dict[bytes, tuple[AnswerLocation, Outcome]] = {}
    while waiting := {key: places for key, places in waiting.items() if places and key not in chosen}:
        best = {key: places.pop(0) for key, places in waiting.items()}
        for key, outcome in answers.read(best).items():
            shown = newer_than[key]
            # promise: rerun: a redo does not reuse the answers that the results already show
            if shown is None or (outcome.finished_at or 0) > shown:
                chosen[key] = best[key], outcome
    return chosen


def _outcome(
    number: int, row: dict[str, Any], location: AnswerLocation, answer: Outcome, tried: RowState, *, is_own: bool
) -> Outcome:
    """Return the outcome of a row whose answer another run paid for; the row's own money in doubt stays."""
    found = replace(
        answer,
        row=number,
        resolves=0,
        usage=None,
        failed_usage=tried.usage,
        usage_unknown=False,
        cost_nano=tried.cost_nano,
        in_doubt_nano=tried.in_doubt_nano,
        attempts=tried.requests,
        paid_by=answer.paid_by or location.run_id,
    )
    if is_own and answer.reused_nano is None:  # this output shows the cost of the answer
        return replace(found, prior=answer.total)
    return replace(found, reused_nano=answer.saved_nano, prior=Charge.of(row["prior"]))


def check_reused(run: Run, answers: AnswerIndex) -> None:
    """Refuse to resume a run that reuses answers whose journals are gone (DamagedJournal)."""
    gone = 0
    for shard in run.shards:
        with run.open_shard(shard) as planned:
            for plan in planned.plan("action", "request_key"):
                rows = zip(plan["action"], plan["request_key"], strict=True)
                wanted = [key for action, key in rows if action == Action.REUSE]
                gone += len(set(wanted)) - len(answers.find(wanted, run.job.output))
    if gone:
        lost = [path for folder in run.folders.runs() for path in folder.lost_journals()]
        where = f"{lost[0]} is missing" if lost else f"a run is missing in {run.folders.state / 'runs'}"
        raise DamagedJournal(
            f"{where}, and {gone:,} answers that the run {run.run_id} reuses are gone. Restore it from a backup; to "
            f"pay for them again, remove {run.folders.meta / 'current.json'}"
        )
