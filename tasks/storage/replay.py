"""Replay a shard's journal: which rows are settled, what was paid, what is in doubt.

| record | says |
|---|---|
| `intent` | request `n` of a row is about to leave, with its worst case `reserved`, to one of several endpoints `at` |
| `submitted` | request `n` leaves as a part of the batch `to`, with its worst case `reserved`; its reply comes later |
| `batch` | a step of a batch, see `batch_state` |
| `attempt` | request `n` failed in a `lane` and `ended_at` a time; `fate` is what it did to the money |
| `uncharge` | the latest failure hit every row, so it costs this row no attempt |
| `outcome` | the row has its outcome; `resolves` is the request that it settles |

An intent without a later record of its request is in doubt: the run was interrupted. A submitted request is not: its
reservation stays until the lane that submitted it has collected the reply.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from parquill.tasks.errors import DamagedJournal
from parquill.tasks.records import REUSABLE, Charge, Outcome, Totals, Usage, Use, UseKey, add_usage, day_number, use_of
from parquill.tasks.storage.batch_state import BatchState
from parquill.tasks.storage.journal import JournalRecord, read_journal


class Submitted(NamedTuple):
    """A request that waits for its reply at the service: what it is a part of, and its reservation in nano-dollars."""

    to: str
    reserved_nano: int


class Sent(NamedTuple):
    """A request under way: its reservation in nano-dollars, and the label of its endpoint if there are several."""

    reserved_nano: int = 0
    at: str = ""


@dataclass(slots=True)
class RowState:
    """One row's requests so far; money in nano-dollars."""

    requests: int = 0
    throttled: int = 0
    failures: int = 0  # requests that cost one of `retry.attempts`; neither a 429 nor an outage does
    in_doubt_requests: int = 0
    in_doubt_nano: int = 0
    reserved_nano: int = 0
    last_code: str | None = None
    cost_nano: int = 0  # of failures that were billed, with their usage and what they cost beyond their reservations
    usage: Usage | None = None
    over_reserved_nano: int = 0
    open: dict[int, Sent] = field(default_factory=dict)  # by the number of the request
    submitted: dict[int, Submitted] = field(default_factory=dict)  # by the number of the request

    @property
    def charge(self) -> Charge:
        """What the row's requests have cost so far; one that is under way is not in it."""
        return Charge(self.cost_nano, self.in_doubt_nano, self.requests, self.usage)

    def add_billed(self, cost_nano: int, usage: Usage, reserved_nano: int) -> None:
        """Add a request of the row that failed and was billed."""
        self.cost_nano += cost_nano
        self.usage = add_usage(self.usage, usage)
        self.over_reserved_nano += max(0, cost_nano - reserved_nano)

    def submit(self, to: str, reserved_nano: int) -> None:
        """Note that one more request leaves, as a part of something larger."""
        self.requests += 1
        self.reserved_nano = reserved_nano
        self.submitted[self.requests] = Submitted(to, reserved_nano)

    def withdraw(self, to: str) -> None:
        """Forget the requests that were a part of something that never reached the service."""
        for number in [number for number, request in self.submitted.items() if request.to == to]:
            del self.submitted[number]
            self.requests -= 1

    def settle(self, number: int) -> Sent:
        """Note that a request is over. Returns what it was; nothing is reserved if it had no intent."""
        # promise: C1 a submitted request is settled by its later record
        submitted = self.submitted.pop(number, None)
        return self.open.pop(number, Sent()) if submitted is None else Sent(submitted.reserved_nano)

    def fail(self, record: Mapping[str, Any]) -> Sent:
        """Apply the record of a request that failed. Returns what the request was."""
        request = self.settle(record["n"])
        self.last_code = record["code"]
        if record["fate"] == "in_doubt":
            self.in_doubt_requests += 1
            self.in_doubt_nano += request.reserved_nano
        elif record["fate"] == "billed":
            # promise: M4 a billed failure stays in the books after a stop
            self.add_billed(record["cost"], Usage(*record["usage"]), request.reserved_nano)
        # a 429 inside a reply that is billed, or may be, costs an attempt (`llm.failures`)
        may_cost = record["fate"] == "in_doubt" or any(record.get("usage", ()))
        is_throttled = record["code"] == "rate_limited" and not may_cost
        self.throttled += is_throttled
        # promise: C8 a version 1 journal keeps the meaning it was written with
        self.failures += not is_throttled
        return request

    def mark_open_in_doubt(self) -> list[Sent]:
        """Count open requests as in doubt: the run was interrupted, so it is unknown whether they were paid.

        Returns the requests.
        """
        if not self.open:
            return []
        requests = list(self.open.values())
        for request in requests:
            self.in_doubt_requests += 1
            self.in_doubt_nano += request.reserved_nano
            self.failures += 1
            self.last_code = "connection_lost"
        self.open.clear()
        return requests


@dataclass(slots=True)
class ShardState:
    """All rows of a shard that have a record."""

    rows: dict[int, RowState] = field(default_factory=dict)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    batches: dict[str, BatchState] = field(default_factory=dict)  # those that are not over, by key
    uses: dict[UseKey, Use] = field(default_factory=dict)
    _last_day: int | None = None  # of the latest record with a time

    def send(self, row: RowState, record: Mapping[str, Any]) -> None:
        """Apply the intent of a request."""
        row.requests += 1
        row.reserved_nano = record["reserved"]
        row.open[record["n"]] = Sent(row.reserved_nano, record.get("at", ""))

    def end(self, row: RowState) -> None:
        """Count the requests of a row in doubt that no record settles."""
        for request in row.mark_open_in_doubt():
            # promise: endpoints: a request in doubt after a kill counts for its endpoint
            use = use_of(self.uses, UseKey(day=self._last_day, endpoint=request.at))
            use.sent += 1
            use.in_doubt_nano += request.reserved_nano

    def fail(self, row: RowState, record: Mapping[str, Any]) -> None:
        """Apply the record of a request of a row that failed."""
        request = row.fail(record)
        self._last_day = day_number(record.get("ended_at")) or self._last_day
        # promise: reconcile: a failure counts on its own day, in its own lane and at its own endpoint
        use = use_of(self.uses, UseKey(self._last_day, None, record.get("lane"), request.at))
        use.sent += 1
        if record["fate"] == "in_doubt":
            use.in_doubt_nano += request.reserved_nano
        elif record["fate"] == "billed":
            use.bill(record["cost"], Usage(*record["usage"]))

    def answer(self, row: RowState, record: dict[str, Any]) -> None:
        """Apply the outcome of a row."""
        request = row.settle(record["resolves"])
        outcome = self.outcomes[record["row"]] = Outcome.from_record(record)
        self._last_day = day_number(outcome.finished_at) or self._last_day
        self.end(row)
        if outcome.resolves:
            use = use_of(self.uses, UseKey(self._last_day, outcome.model_used, outcome.lane, request.at))
            use.sent += 1
            # promise: endpoints: an answer counts for its endpoint without the failures that came before it
            use.bill(outcome.cost_nano - row.cost_nano, outcome.usage)
            use.rows += outcome.status in REUSABLE

    def apply_batch(self, record: Mapping[str, Any]) -> None:
        """Apply a step of a batch. Raises KeyError for an unknown step, or one of a batch without an intent."""
        key, step = record["key"], record["step"]
        if step == "intent":
            self.batches[key] = BatchState.from_intent(record)
        elif step == "void":
            del self.batches[key]
            for row in self.rows.values():
                # promise: M8 requests of a batch that was never created count as never sent
                row.withdraw(key)
        elif step == "collected":
            del self.batches[key]
        else:
            self.batches[key].apply(record)

    def totals(self) -> Totals:
        """Requests, money and tokens of the shard."""
        total, usage = Totals(uses={key: replace(use) for key, use in self.uses.items()}), Usage()
        for number, row in self.rows.items():
            if number not in self.outcomes:  # an outcome counts them itself
                total.settled_nano += row.cost_nano
                usage = usage + row.usage if row.usage is not None else usage
            total.over_reserved_nano += row.over_reserved_nano
            total.sent += row.requests
            total.throttled += row.throttled
            total.retried += max(0, row.requests - row.throttled - 1)
            total.in_doubt += row.in_doubt_requests
            total.in_doubt_nano += row.in_doubt_nano
            total.submitted += len(row.submitted)
            total.submitted_nano += sum(request.reserved_nano for request in row.submitted.values())
        for number, outcome in self.outcomes.items():
            total.settled_nano += outcome.cost_nano
            total.cache_saved_nano += outcome.cache_saved_nano
            total.statuses[outcome.status] = total.statuses.get(outcome.status, 0) + 1
            row = self.rows.get(number, RowState())
            total.worst_nano += row.reserved_nano
            # promise: M3 the cost above the reservations is summed from the journals
            total.over_reserved_nano += max(0, outcome.cost_nano - row.cost_nano - row.reserved_nano)
            usage = add_usage(usage, outcome.usage, outcome.failed_usage) or usage
        for kind, tokens in zip(Usage._fields, usage, strict=True):
            setattr(total, f"{kind}_tokens", tokens)
        return total


def replay_shard(journal: Path) -> ShardState:
    """Replay a journal; a shard that was never started has none. Raises DamagedJournal, DiskFailed."""
    return replay_records(journal, read_journal(journal)) if journal.exists() else ShardState()


def replay_records(journal: Path, records: Iterable[JournalRecord]) -> ShardState:
    """Replay all records of a journal in order. Raises DamagedJournal for a record of an unknown kind."""
    state = ShardState()
    for each in records:
        record = each.record
        if record["type"] == "batch":
            _apply_batch(state, record, journal)
            continue
        row = state.rows.get(record["row"])
        if row is None:
            row = state.rows[record["row"]] = RowState()
        if record["type"] == "intent":
            state.send(row, record)
        elif record["type"] == "submitted":
            # promise: M5 a request that was submitted elsewhere is neither open nor in doubt
            row.submit(record["to"], record["reserved"])
        elif record["type"] == "attempt":
            state.fail(row, record)
        elif record["type"] == "uncharge":
            row.failures -= 1
        elif record["type"] == "outcome":
            state.answer(row, record)
            # nothing was reserved for a reused answer: its record has what the estimate counted for the row
            # promise: gate: a reused row does not count as left to pay
            row.reserved_nano = record.get("reserved", row.reserved_nano)
        else:
            raise DamagedJournal(
                f"{journal} has a record of the kind {record['type']!r}, which this Parquill does not know"
            )
    for row in state.rows.values():
        state.end(row)
    return state


def _apply_batch(state: ShardState, record: Mapping[str, Any], journal: Path) -> None:
    try:
        state.apply_batch(record)
    except KeyError:
        raise DamagedJournal(
            f"{journal} has a step {record.get('step')!r} of a batch, which this Parquill does not know"
        ) from None
