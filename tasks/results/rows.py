"""One result row for each planned row: its outcome, its cost, and the run that paid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from parquill.tasks.errors import BadJob, DamagedJournal
from parquill.tasks.job.answer_type import parsed_type, shape_value
from parquill.tasks.llm.outcomes import NOT_SENT_CODES, TABLE
from parquill.tasks.money.model_price import ModelPrice
from parquill.tasks.money.prices import find_price
from parquill.tasks.money.tokens import TokenCounter
from parquill.tasks.prompts.run import Run
from parquill.tasks.records import NO_CHARGE, REUSABLE, Action, Charge, Outcome, ShardRef, Usage
from parquill.tasks.results.excess import causes_of
from parquill.tasks.results.totals import ForEachValues, ResultTotals, stored_nano
from parquill.tasks.storage.answer_index import AnswerIndex, AnswerLocation
from parquill.tasks.storage.columns import USD, result_fields
from parquill.tasks.storage.replay import RowState, ShardState


def price_of_price_as(run: Run) -> ModelPrice | None:
    """Return the public price of the job's `price_as` model on the run's day; None if there is none."""
    if run.job.price_as is None:
        return None
    try:
        return find_price(run.job.price_as, None, run.day)
    except BadJob:
        return None


class ResultRows:
    """Builds result tables from shards, and adds each row to the totals."""

    def __init__(self, run: Run, answers: AnswerIndex, sums: ResultTotals, not_sent: str) -> None:
        self._run, self._answers, self._sums, self._not_sent = run, answers, sums, not_sent
        sums.price_as = price_of_price_as(run)
        self._counter = TokenCounter(run.job.model, run.job.tokenizer, correction=run.correction)
        self._each_names = tuple(run.job.for_each or {})
        self._parsed = parsed_type(run.job.response_format)
        self._fields = result_fields(self._parsed)
        self.held_by: set[str] = set()  # the runs whose journals have the outcomes
        self.keeps = False  # whether any row is kept from the earlier results

    def of_shard(self, shard: ShardRef, *, finished_only: bool = False) -> Iterator[pa.Table]:
        """Yield the result rows of one shard, in pieces: all, or those with an outcome.

        Raises DamagedJournal, DiskFailed.
        """
        state = self._run.state(shard.number)
        first = 0
        with self._run.open_shard(shard) as planned:
            for part in planned.result_parts():
                lines = self._lines(part.plan, state, first, self._each(part.given))
                table = self._table(part.given, lines)
                yield table.filter([not line.get("is_open", False) for line in lines]) if finished_only else table
                first += part.given.num_rows

    def _each(self, table: pa.Table) -> list[ForEachValues]:
        columns = [map(str, table.column(name).to_pylist()) for name in self._each_names]
        return list(zip(*columns, strict=True)) or [()] * table.num_rows

    def _lines(
        self, plan: dict[str, list[Any]], state: ShardState, first: int, each: Sequence[ForEachValues]
    ) -> list[dict[str, Any]]:
        elsewhere = [
            key
            for key, action in zip(plan["request_key"], plan["action"], strict=True)
            if action in {Action.SAME, Action.REUSE}
        ]
        places = self._answers.find(elsewhere, self._run.job.output)
        found = self._answers.read(places)
        lines = []
        for index, action in enumerate(plan["action"]):
            row = {name: column[index] for name, column in plan.items()}
            if action == Action.KEEP:
                self.keeps = True
                line = {f.name: row["kept"][self._run.job.column_prefix + f.name] for f in self._fields}
                line["finished_at"] = _microseconds(line["finished_at"])
            else:
                line = self._line(row, state, first + index, places, found)
                line["source_file"], line["row_number"] = row["source_file"], row["row_number"]
                line["request_key"] = row["request_key"].hex() if row["request_key"] else None
                line["estimated_prompt_tokens"] = row["prompt_tokens"]
            self._sums.add(line, each[index], self._each_names, self._run.run_id)
            lines.append(line)
        return lines

    def _line(  # noqa: PLR0911 - a line for each action of the plan
        self,
        row: dict[str, Any],
        state: ShardState,
        number: int,
        places: dict[bytes, AnswerLocation],
        found: dict[bytes, Outcome],
    ) -> dict[str, Any]:
        key = row["request_key"]
        if row["action"] == Action.REJECT:
            return _unpaid("rejected", row["error_code"], row["error_message"])
        if row["action"] == Action.SEND:
            outcome = state.outcomes.get(number)
            if outcome is None:
                return self._unfinished(state.rows.get(number), row)
            # promise: C9 an outcome whose key differs from the row's key is refused
            if outcome.key != key.hex():
                raise DamagedJournal(f"the journal answers another request for shard row {number} than the plan has")
            self._add_answer(row, outcome, state.rows.get(number))
            # promise: results: the manifest names the runs whose journals the results need
            self.held_by.add(self._run.run_id)
            return self._own(outcome, self._run.run_id)
        if key not in found:
            if row["action"] == Action.REUSE:
                raise DamagedJournal(f"an answer that run {self._run.run_id} reuses is missing: its journal is gone")
            return self._unfinished(None, row)
        outcome, run_id = found[key], places[key].run_id
        self.held_by.add(run_id)
        if row["carries_cost"]:  # an answer, or an attempt that `retry.in_doubt: hold` does not repeat
            return self._own(outcome, run_id)
        if outcome.status not in REUSABLE:
            line = _unpaid(outcome.status, outcome.error_code, outcome.error_message)
            return {**line, "in_doubt": outcome.is_in_doubt}
        self._sums.saved_nano += outcome.saved_nano
        return _shared(outcome, outcome.paid_by or run_id)

    def _add_answer(self, row: dict[str, Any], outcome: Outcome, tried: RowState | None) -> None:
        """Learn from an answer that this run paid for."""
        lesson, counted, most = outcome.lesson, row["prompt_tokens"], self._run.job.max_output_tokens
        if lesson is not None and counted is not None:
            self._sums.history.add(counted, lesson, most, outcome.latency_s)
            self._sums.compared.add(counted, lesson.prompt, row["source_file"], row["row_number"])
        if tried is not None and outcome.cost_nano - tried.cost_nano > tried.reserved_nano:
            self._sums.over_reserved.update(causes_of(outcome.usage, self._counter.reserved(counted or 0), most))

    def _own(self, outcome: Outcome, run_id: str) -> dict[str, Any]:
        """Return the row of an outcome in the journal of a run of this output, which paid for it or reused it."""
        if outcome.reused_nano is None:
            # what this run paid or has in doubt is its own, even if another run paid for the answer
            is_ours = outcome.in_doubt_nano or outcome.failed_usage is not None
            return _paid(outcome, run_id if is_ours else outcome.paid_by or run_id)
        self._sums.saved_nano += outcome.reused_nano
        line = _shared(outcome, outcome.paid_by or run_id)
        # promise: M4 a reused row shows the cost and doubt that its own run booked for it
        paid = _paid(outcome, run_id)
        if paid["cost_nano"] or paid["in_doubt_nano"]:
            return {**paid, "reused": True}
        return {**line, "attempts": paid["attempts"]}

    def _unfinished(self, tried: RowState | None, row: dict[str, Any]) -> dict[str, Any]:
        if tried is None or tried.requests == 0:
            line = _unpaid("not_sent", self._not_sent, NOT_SENT_CODES[self._not_sent])
        else:
            rule = TABLE[tried.last_code or "connection_lost"]
            line = _unpaid("failed", rule.code, rule.sentence)
            line["run_id"] = self._run.run_id
        charge = (NO_CHARGE if tried is None else tried.charge) + Charge.of(row["prior"])
        line |= {"attempts": charge.attempts, "cost_nano": charge.cost_nano, "in_doubt_nano": charge.in_doubt_nano}
        line["is_open"] = True  # another start may still give it an outcome
        if charge.usage is not None:
            line.update(zip(_TOKENS, charge.usage, strict=True))
        return line

    def _table(self, given: pa.Table, lines: Sequence[dict[str, Any]]) -> pa.Table:
        prefix, result = self._run.job.column_prefix, given
        for field_ in self._fields:
            result = result.append_column(field_.with_name(prefix + field_.name), self._column(field_, lines))
        return result

    def _column(self, kind: pa.Field, lines: Sequence[dict[str, Any]]) -> pa.Array:
        if kind.type == USD:
            short = kind.name.removesuffix("_usd")
            return _decimals([stored_nano(line, short) for line in lines])
        values = [line[kind.name] for line in lines]
        if kind.name == "parsed":
            values = [shape_value(value, kind.type) for value in values]
        return pa.array(values, kind.type)


def _microseconds(time: datetime | None) -> int | None:
    return None if time is None else (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _decimals(nano: Sequence[int]) -> pa.Array:
    """Return whole nano-dollars as decimal128(18, 9), exactly: the same integers, read with nine decimals."""
    low = np.array(nano, dtype=np.int64)
    words = np.empty((len(low), 2), dtype=np.int64)
    words[:, 0], words[:, 1] = low, low >> 63
    return pa.Array.from_buffers(USD, len(low), [None, pa.py_buffer(words.tobytes())])


_TOKENS = tuple(f"{kind}_tokens" for kind in Usage._fields)


def _unpaid(status: str, code: str | None, message: str | None) -> dict[str, Any]:
    empty = dict.fromkeys(
        (
            "completion",
            "parsed",
            "finish_reason",
            "model_used",
            "request_id",
            *_TOKENS,
            "lane",
            "endpoint",
            "run_id",
            "latency_s",
            "finished_at",
        )
    )
    return {
        **empty,
        "status": status,
        "error_code": code,
        "error_message": message,
        "cost_nano": 0,
        "in_doubt_nano": 0,
        "reused": False,
        "attempts": 0,
    }


def _shared(outcome: Outcome, run_id: str) -> dict[str, Any]:
    """Return a row whose answer another row, or another output, paid for: it cost nothing and used no tokens."""
    return {
        "completion": outcome.completion,
        "parsed": outcome.parsed,
        "status": outcome.status,
        "error_code": outcome.error_code,
        "error_message": outcome.error_message,
        "finish_reason": outcome.finish_reason,
        "model_used": outcome.model_used,
        "request_id": outcome.request_id,
        **dict.fromkeys(_TOKENS, 0),
        "cost_nano": 0,
        "in_doubt_nano": 0,
        "lane": outcome.lane,
        "endpoint": outcome.endpoint,
        "reused": True,
        "run_id": run_id,
        "attempts": 0,
        "latency_s": outcome.latency_s,
        "finished_at": outcome.finished_at,
    }


def _paid(outcome: Outcome, run_id: str) -> dict[str, Any]:
    """Return the row that paid, including what earlier runs of this output paid for it."""
    line, total = _shared(outcome, run_id), outcome.total
    line.update(zip(_TOKENS, total.usage or [None] * len(_TOKENS), strict=True))
    line.update(
        cost_nano=total.cost_nano,
        in_doubt_nano=total.in_doubt_nano,
        attempts=total.attempts,
        reused=False,
        usage_unknown=outcome.usage_unknown,
        usage_flag=outcome.usage_flag,
        in_doubt=outcome.is_in_doubt,
        read_tokens=None if outcome.usage is None else outcome.usage.prompt,  # of the last request alone
    )
    return line
