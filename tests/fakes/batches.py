"""Batches and what time does to them; see batch_options.py for the states."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from .batch_input import BatchInput, Problem, read_input, with_version
from .batch_rows import complete_row, remainder_line
from .faults import FaultBook

if TYPE_CHECKING:
    from collections.abc import Callable

    from .batch_options import BatchOptions
    from .fake_openai import Service

_ENDED = {"completed", "failed", "expired", "cancelled"}
_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
_NEVER = math.inf


@dataclass(slots=True, eq=False)
class Batch:
    """One batch."""

    id: str
    serial: int
    asked: dict[str, Any]  # the body of its create call
    content: bytes
    key_id: str
    created_at: float
    expires_at: float | None
    status: str = "validating"
    at: dict[str, float] = field(default_factory=dict)  # when each further state began
    problems: list[Problem] = field(default_factory=list)
    input: BatchInput | None = None
    order: list[int] = field(default_factory=list)
    failed_after: list[int] = field(default_factory=list)  # failed rows after each completed one
    remainder: int = 0
    output: list[bytes] = field(default_factory=list)
    errors: list[bytes] = field(default_factory=list)
    tokens: list[int] = field(default_factory=lambda: [0, 0, 0, 0])  # prompt, cached, completion, reasoning
    output_file_id: str | None = None
    error_file_id: str | None = None

    @property
    def has_ended(self) -> bool:
        """Return whether the state is final."""
        return self.status in _ENDED

    @property
    def rows(self) -> int:
        """Return how many rows it has; 0 before its input is checked."""
        return len(self.order)

    @property
    def done(self) -> int:
        """Return how many rows are completed, with or without success."""
        return len(self.failed_after)

    @property
    def endpoint(self) -> str:
        """Return the endpoint that it shows."""
        shown: str = self.asked["endpoint"] if self.input is None else self.input.url or self.asked["endpoint"]
        return shown

    def enter(self, status: str, at: float) -> None:
        """Begin a state."""
        self.status = status
        self.at[status] = at


class Batches:
    """All batches of one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._batches: dict[str, Batch] = {}
        self.faults = FaultBook()

    @property
    def _options(self) -> BatchOptions:
        return self._service.options.batch

    def create(self, asked: dict[str, Any], content: bytes, key_id: str) -> Batch:
        """Add a batch; its input is checked later, except for what Azure checks at once."""
        now, serial = self._service.clock.now, len(self._batches) + 1
        identity = "batch_" + sha256(f"{self._service.options.seed}/batch/{serial}".encode()).hexdigest()[:24]
        expiry_s = 86_400.0 if self._options.is_azure else self._options.expiry_s
        expires_at = None if expiry_s is None else now + expiry_s
        batch = Batch(identity, serial, asked, content, key_id, now, expires_at)
        self._batches[identity] = batch
        if self._options.is_azure:
            found = read_input(content, asked["endpoint"], self._service.options)
            unknown = [each for each in found.problems if each.code == "model_not_found"]
            if unknown:
                self._fail(batch, now, unknown[:1])
        return batch

    def find(self, identity: str) -> Batch | None:
        """Return a batch, unless it has vanished."""
        batch = self._batches.get(identity)
        return None if batch is None or self._age(batch) >= self._vanish_after_s else batch

    def newest_first(self) -> list[Batch]:
        """Return all batches that a list shows."""
        shown = (
            each
            for each in self._batches.values()
            if self._options.list_lag_s <= self._age(each) < self._vanish_after_s
        )
        return sorted(shown, key=lambda batch: batch.serial, reverse=True)

    def _age(self, batch: Batch) -> float:
        return self._service.clock.now - batch.created_at

    @property
    def _vanish_after_s(self) -> float:
        return _NEVER if self._options.vanish_after_s is None else self._options.vanish_after_s

    def cancel(self, batch: Batch) -> None:
        """Begin to cancel a batch that is open and not yet being cancelled."""
        batch.enter("cancelling", self._service.clock.now)

    def run(self) -> None:
        """Let everything happen that is due, in the order of time."""
        now = self._service.clock.now
        open_batches = [each for each in self._batches.values() if not each.has_ended]
        while open_batches:
            due = [(*self._next(each), each) for each in open_batches]
            at, step, batch = min(due, key=lambda one: (one[0], one[2].serial))
            if at > now:
                break
            step(batch, at)
            open_batches = [each for each in open_batches if not each.has_ended]
        for batch in open_batches:
            if batch.status == "in_progress":
                self._complete_rows(batch, now)

    def _next(self, batch: Batch) -> tuple[float, Callable[[Batch, float], None]]:
        """Return when the next state begins, and what begins it."""
        options = self._options
        if options.stuck == batch.status:
            return _NEVER, self._validated
        if batch.status == "validating":
            return batch.created_at + options.validating_s, self._validated
        if batch.status == "finalizing":
            return batch.at["finalizing"] + options.finalizing_s, self._complete
        if batch.status == "cancelling":
            return batch.at["cancelling"] + options.cancelling_s, self._cancelled
        rows, end = batch.rows, self._finalize
        if options.fail_after_rows is not None and options.fail_after_rows < rows:
            rows, end = options.fail_after_rows, self._fail_late
        stalls = options.stall_after_rows is not None and options.stall_after_rows < rows
        last = _NEVER if stalls else batch.at["in_progress"] + rows / options.rows_per_s
        expiry = _NEVER if options.expiry_s is None else batch.created_at + options.expiry_s
        return (last, end) if last <= expiry else (expiry, self._expire)

    def _validated(self, batch: Batch, at: float) -> None:
        service = self._service
        batch.input = read_input(batch.content, batch.asked["endpoint"], service.options)
        problems = batch.input.problems
        if not problems and self._options.fail_with is not None:
            problems = [Problem(self._options.fail_with, "This batch cannot be processed.")]
        if not problems:
            problems = self._over_token_limit(batch.input)
        if problems:
            self._fail(batch, at, problems)
            return
        batch.order = list(range(len(batch.input.rows)))
        if self._options.shuffle:
            random.Random(f"{service.options.seed}/{batch.id}").shuffle(batch.order)
        batch.enter("in_progress", at)

    def _over_token_limit(self, wanted: BatchInput) -> list[Problem]:
        limit = self._options.token_limit(wanted.model)
        if limit is None or self.enqueued_tokens(wanted.model) + wanted.prompt_tokens <= limit:
            return []
        if self._options.is_azure:
            message = (
                f"The number of enqueued tokens has surpassed the configured limit of {_short(limit)} for the deployment "
                f"'{wanted.model}'. Please either increase the limit or try again once the current jobs have finished."
            )
        else:
            message = (
                f"Enqueued token limit reached for {wanted.model} in organization org-fake. Limit: {limit:,} enqueued "
                "tokens. Please try again once some in_progress batches have been completed."
            )
        return [Problem("token_limit_exceeded", message)]

    def enqueued_tokens(self, model: str) -> int:
        """Return the prompt tokens of the model's batches that have been checked and have not ended."""
        held = {"in_progress", "finalizing", "cancelling"} | ({"failed"} if self._options.failed_hold_tokens else set())
        return sum(
            each.input.prompt_tokens
            for each in self._batches.values()
            if each.input is not None and each.input.model == model and each.status in held
        )

    def _fail(self, batch: Batch, at: float, problems: list[Problem]) -> None:
        batch.problems = problems
        batch.enter("failed", at)

    def _fail_late(self, batch: Batch, at: float) -> None:
        self._complete_rows(batch, _NEVER)
        batch.problems = [Problem("server_error", "The batch failed while it was processed.")]
        self._end(batch, "failed", at)

    def _finalize(self, batch: Batch, at: float) -> None:
        self._complete_rows(batch, _NEVER)
        batch.enter("finalizing", at)

    def _complete(self, batch: Batch, at: float) -> None:
        self._end(batch, "completed", at)

    def _expire(self, batch: Batch, at: float) -> None:
        self._complete_rows(batch, at)
        self._leave_remainder(batch, "batch_expired")
        self._end(batch, "expired", at)

    def _cancelled(self, batch: Batch, at: float) -> None:
        if "in_progress" in batch.at:
            last = min(batch.rows, batch.done + self._options.cancelling_rows)
            while batch.done < last:
                self._complete_row(batch, at)
            self._leave_remainder(batch, "batch_cancelled")
        self._end(batch, "cancelled", at)

    def _complete_rows(self, batch: Batch, until: float) -> None:
        """Complete the rows that are due, each at its own time."""
        options = self._options
        began = batch.at["in_progress"]
        # a thousandth of a row makes up for the rounding of times
        target = int(min(batch.rows, (until - began) * options.rows_per_s + 1e-3))
        for most in (options.stall_after_rows, options.fail_after_rows):
            target = target if most is None else min(target, most)
        while batch.done < target:
            self._complete_row(batch, began + (batch.done + 1) / options.rows_per_s)

    def _complete_row(self, batch: Batch, at: float) -> None:
        assert batch.input is not None
        service = self._service
        options, books = service.options, service.books
        row = batch.input.rows[batch.order[batch.done]]
        raw = batch.content[row.start : row.end]
        identity = f"{batch.serial:04x}{batch.done:08x}"
        url = with_version(batch.endpoint, options)
        done = complete_row(raw, row.custom_id, url, identity, self.faults, options)
        is_error = done.in_error_file and not options.batch.errors_in_output
        (batch.errors if is_error else batch.output).extend(done.lines)
        batch.failed_after.append((batch.failed_after[-1] if batch.done else 0) + done.counted_failed)
        usage = done.billed
        if usage is None:
            return
        books.bill(done.digest, usage, remember=options.remember)
        books.bills.add_row(
            at, batch.input.model + options.model_suffix, usage,
            key_id=batch.key_id, batch_id=batch.id, custom_id=row.custom_id, digest=done.digest,
        )  # fmt: skip
        counts = (usage.prompt, usage.cached, usage.completion, usage.reasoning)
        batch.tokens = [before + more for before, more in zip(batch.tokens, counts, strict=True)]

    def _leave_remainder(self, batch: Batch, code: str) -> None:
        assert batch.input is not None
        left = [batch.input.rows[place] for place in batch.order[batch.done :]]
        batch.remainder = len(left)
        if self._options.list_remainder:
            lines = (remainder_line(row.custom_id, batch.id, code) for row in left)
            (batch.output if self._options.errors_in_output else batch.errors).extend(lines)

    def _end(self, batch: Batch, status: str, at: float) -> None:
        """Write the result files, if the batch got as far as having any, and begin a final state."""
        batch.enter(status, at)
        if "in_progress" not in batch.at:
            return
        options = self._options
        if batch.output and not options.withhold_output:
            batch.output_file_id = self._store(batch, "output", batch.output, at)
        if batch.errors or options.no_errors == "empty_file":
            batch.error_file_id = self._store(batch, "error", batch.errors, at)
        elif options.no_errors == "empty_text":
            batch.error_file_id = ""
        batch.output, batch.errors, batch.content = [], [], b""

    def _store(self, batch: Batch, kind: str, lines: list[bytes], at: float) -> str:
        expiry = batch.asked.get("output_expires_after") or {}
        stored = self._service.files.add(
            f"{batch.id}_{kind}.jsonl", "batch_output", b"".join(lines), at, expiry.get("seconds"),
            late_s=self._options.late_files_s,
        )  # fmt: skip
        return stored.id

    def document(self, batch: Batch) -> dict[str, Any]:
        """Return a batch as the API shows it."""
        document: dict[str, Any] = {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.endpoint,
            "errors": None,
            "input_file_id": batch.asked["input_file_id"],
            "completion_window": batch.asked["completion_window"],
            "status": batch.status,
            "output_file_id": batch.output_file_id,
            "error_file_id": batch.error_file_id,
            "created_at": int(batch.created_at),
            "expires_at": None if batch.expires_at is None else int(batch.expires_at),
            "model": None if batch.input is None else batch.input.model or None,
            "request_counts": self._counts(batch),
            "metadata": batch.asked.get("metadata"),
        }
        document |= {f"{name}_at": int(batch.at[name]) if name in batch.at else None for name in _TIMES}
        if batch.problems:
            document["errors"] = {"object": "list", "data": [each.document() for each in batch.problems]}
        if self._options.usage != "missing":
            document["usage"] = self._usage(batch)
        return document

    def _counts(self, batch: Batch) -> dict[str, int] | None:
        options = self._options
        kind = options.request_counts
        if kind == "null" or (options.is_azure and batch.input is None):
            return None
        done, remainder = batch.done, batch.remainder
        if kind == "zero":
            return {"total": 0, "completed": 0, "failed": 0}
        if kind == "all_completed":
            return {"total": batch.rows, "completed": batch.rows if batch.has_ended else done, "failed": 0}
        if kind == "lagging":
            then = self._service.clock.now - options.counts_lag_s
            began = batch.at.get("in_progress", _NEVER)
            done = min(done, int((then - began) * options.rows_per_s + 1e-3)) if then > began else 0
            remainder = 0
        failed = batch.failed_after[done - 1] if done else 0
        return {"total": batch.rows, "completed": done - failed, "failed": failed + remainder}

    def _usage(self, batch: Batch) -> dict[str, Any] | None:
        if not batch.has_ended or not batch.rows or self._options.usage == "null":
            return None
        prompt, cached, completion, reasoning = batch.tokens
        if self._options.usage == "wrong":
            prompt, completion = prompt // 2, completion + 1
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": prompt + completion,
        }


def _short(limit: int) -> str:
    """Write a limit as Azure does: 30K, 200M."""
    for unit, name in ((1_000_000, "M"), (1_000, "K")):
        if limit and limit % unit == 0:
            return f"{limit // unit}{name}"
    return str(limit)
