"""The few types that are passed between the steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import IntEnum
from typing import Any, NamedTuple

from parquill.tasks.errors import RowFault

WORST_CASE = "worst_case"  # an estimate's basis
STATUSES = ("ok", "truncated", "invalid", "refused", "failed", "rejected", "not_sent")
# Statuses of paid answers, good or not: the answer is kept and never requested again without `--redo`.
REUSABLE = frozenset({"ok", "truncated", "invalid", "refused"})


class Usage(NamedTuple):
    """Tokens of one or more billed replies.

    `cached` and `cache_write` are parts of `prompt`, `reasoning` is a part of `completion`. This is the
    order of the output's columns and of a journal's records.
    """

    prompt: int = 0
    cached: int = 0
    cache_write: int = 0
    completion: int = 0
    reasoning: int = 0

    def __add__(self, other: Usage) -> Usage:  # type: ignore[override]  # a sum of tokens, not a longer tuple
        return Usage(*(a + b for a, b in zip(self, other, strict=True)))


def add_usage(*usages: Usage | None) -> Usage | None:
    """Return the sum of the known usages, or None if none is known."""
    known = [usage for usage in usages if usage is not None]
    return sum(known[1:], known[0]) if known else None


@dataclass(frozen=True, slots=True)
class Charge:
    """What one or more requests for a row cost: money in nano-dollars, requests, and their usage if it is known."""

    cost_nano: int = 0
    in_doubt_nano: int = 0
    attempts: int = 0
    usage: Usage | None = None

    def __add__(self, other: Charge) -> Charge:
        return Charge(
            self.cost_nano + other.cost_nano,
            self.in_doubt_nano + other.in_doubt_nano,
            self.attempts + other.attempts,
            add_usage(self.usage, other.usage),
        )

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> Charge:
        """Read what a journal or a shard stores; a shard stores null for a row without earlier requests."""
        if stored is None or stored == _NO_CHARGE_STORED:  # as for nearly every row
            return NO_CHARGE
        usage = stored["usage"]
        return cls(**{**stored, "usage": None if usage is None else Usage(*usage)})


NO_CHARGE = Charge()
_NO_CHARGE_STORED = asdict(NO_CHARGE)


def to_json(value: Any) -> Any:
    """Return what orjson writes for a Usage, which it does not know. Raises TypeError for any other type."""
    if isinstance(value, Usage):
        return list(value)
    raise TypeError(type(value).__name__)


class Action(IntEnum):
    """What the plan says about a row."""

    SEND = 0  # first row with its key: it pays
    SAME = 1  # an earlier row of this run has the same key
    REUSE = 2  # an earlier run has the answer
    REJECT = 3  # never sent
    KEEP = 4  # not selected by `--redo`: kept as it is in the results


@dataclass(frozen=True, slots=True)
class ShardRef:
    """One shard of a plan: its number, its rows, how many of them are to be sent, and its file's checksum."""

    number: int
    rows: int
    to_send: int
    crc32: int | None = None  # plans of earlier versions have none


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the rows to send will cost: money in nano-dollars, tokens counted for every row."""

    rows: int
    to_send: int
    prompt_tokens: int
    completion_tokens_expected: int
    expected_nano: int
    p90_nano: int
    worst_nano: int
    basis: str  # worst_case (nothing is known of the answers: expected, p90 and worst are the same), pilot or history
    largest_request: int  # prompt and output tokens of the largest request
    exact: bool
    low_nano: int | None = None  # to high_nano: the central 90 % interval; None without answers to learn from
    high_nano: int | None = None
    output_shares: list[tuple[int, float]] = field(default_factory=list)  # by bin of output length (money.length_stats)
    paid_nano: int = 0  # cost and worst case of the rows that already had an outcome when this was estimated
    paid_worst_nano: int = 0
    rejected: dict[str, int] = field(default_factory=dict)  # error code -> rows
    first_rejected: str | None = None
    counted_tokens: int = 0  # prompt tokens before a learned correction
    tokens_note: str = ""  # shown with prompt_tokens if they are not exact
    reused: int = 0  # rows whose answer comes from an earlier run
    reuse_note: str | None = None  # why nearly no row is reused
    input_notes: list[str] = field(default_factory=list)  # files that are left out, columns that differ
    basis_note: str = ""  # what the estimate is based on, for people
    reserved_tokens: int = 0  # prompt and output tokens that all requests reserve
    latency_s: float | None = None  # mean of earlier answers; None if unknown
    lane: str = "live"  # at whose price it is; with `lane: auto` the cheap one
    moved_expected_nano: int | None = None  # the same if all rows move to the live lane; None if no row ever does
    moved_p90_nano: int | None = None
    moved_worst_nano: int | None = None

    @property
    def most_nano(self) -> int:
        """The most that the rows can cost, in whatever lane."""
        return self.worst_nano if self.moved_worst_nano is None else self.moved_worst_nano

    @property
    def is_worst_case(self) -> bool:
        """Whether nothing is known of the length of the answers, so that no cost is expected."""
        return self.basis == WORST_CASE


@dataclass(slots=True)
class Outcome:
    """The outcome of one row: its last record in a journal.

    `cost_nano`, `in_doubt_nano`, `usage` and `attempts` are this run's; `prior` is what earlier runs of the same output
    paid for the row. `paid_by` is the run that paid for the answer if it is not the journal's own run;
    `reused_nano` is what the answer cost there if this output does not show it. Money is in nano-dollars.
    """

    row: int
    key: str
    status: str
    completion: str | None = None
    parsed: Any = None
    error_code: str | None = None
    error_message: str | None = None
    finish_reason: str | None = None
    model_used: str | None = None
    request_id: str | None = None
    usage: Usage | None = None
    failed_usage: Usage | None = None  # of earlier requests that failed and were billed; `cost_nano` includes it
    cost_nano: int = 0
    in_doubt_nano: int = 0
    attempts: int = 0
    latency_s: float | None = None
    finished_at: int | None = None  # microseconds since 1970, UTC
    usage_unknown: bool = False  # the service reported no usable figures: the reservation was booked
    usage_flag: str | None = None  # why the figures do not add up, see llm.usage; the larger figure was booked
    service_tier: str | None = None  # as the reply names it; it decides the price
    lane: str | None = None  # how the answer was bought
    cache_saved_nano: int = 0  # what the service's cache took off the cost of the answer; negative if it added to it
    endpoint: str | None = None  # where: the label of the endpoint (`job.weighted_endpoint`)
    prior: Charge = NO_CHARGE
    resolves: int = 0  # the request whose intent this record settles; 0 if another record did
    paid_by: str | None = None
    reused_nano: int | None = None
    type: str = "outcome"

    @property
    def is_in_doubt(self) -> bool:
        """Whether the row has no answer but may have been paid for."""
        return self.status == "failed" and self.total.in_doubt_nano > 0

    @property
    def total(self) -> Charge:
        """What the row has cost in this run and in earlier ones of the same output."""
        usage = self.usage if self.failed_usage is None else add_usage(self.usage, self.failed_usage)
        own = Charge(self.cost_nano, self.in_doubt_nano, self.attempts, usage)
        return own if self.prior is NO_CHARGE else own + self.prior

    @property
    def lesson(self) -> Usage | None:
        """The usage to learn token counts from; None if the server cut the prompt or reported no usage."""
        # promise: estimates: a truncated prompt does not affect later estimates
        return None if self.error_code == "prompt_cut" else self.usage

    @property
    def saved_nano(self) -> int:
        """What the answer cost; a row that shares it saves this amount."""
        if self.reused_nano is not None:
            return self.reused_nano
        return self.cost_nano if self.paid_by is None else self.prior.cost_nano

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Outcome:
        """Build an Outcome from a journal's record."""
        given = {name: value for name, value in record.items() if name in _OUTCOME_FIELDS}
        for name in ("usage", "failed_usage"):
            if given[name] is not None:
                given[name] = Usage(*given[name])
        return cls(**{**given, "prior": Charge.of(given["prior"])})


_OUTCOME_FIELDS = frozenset(f.name for f in fields(Outcome))


class Reservation(NamedTuple):
    """What is reserved for a request, so that neither a limit nor a budget is exceeded whatever the answer.

    `tokens` are those of the prompt, with an allowance where their count is not exact, and of all the output;
    `worst_nano` is the most that they can cost, in nano-dollars. `expected_prompt_tokens` are what the service is
    expected to report.
    """

    tokens: int
    worst_nano: int
    expected_prompt_tokens: float


@dataclass(slots=True)
class PlannedRow:
    """One row of the plan: its request, its prompt tokens, its key, and the action for it."""

    file: str
    number: int
    identity: list[Any]
    messages: list[dict[str, Any]] | None = None
    parameters: dict[str, Any] | None = None
    key: bytes | None = None
    prompt_tokens: int | None = None
    reservation: Reservation | None = None  # of a row that is to be sent
    action: Action = Action.REJECT
    carries_cost: bool = False
    fault: RowFault | None = None
    prior: Charge = NO_CHARGE
    newer_than: int | None = None  # `--redo`: when the answer in the results arrived, in microseconds since 1970


class UseKey(NamedTuple):
    """What the requests of a run are summed by: the day on which they ended, what answered, how, and where.

    `day` counts days since 1970 in UTC. `endpoint` is the label of one of several endpoints, empty for the only one.
    What no record says is None: the day and the lane of a request under way when its run was killed.
    """

    day: int | None = None
    model: str | None = None  # as the reply names it
    lane: str | None = None
    endpoint: str = ""


_DAY_US = 86_400_000_000


def day_number(moment_us: int | None) -> int | None:
    """Return the UTC day of a moment in microseconds since 1970, as days since 1970."""
    return None if moment_us is None else moment_us // _DAY_US


@dataclass(slots=True)
class Use:
    """What requests came to: money in nano-dollars, tokens as billed. `rows` have their answer from one of them."""

    sent: int = 0  # requests that are over
    billed: int = 0
    rows: int = 0
    settled_nano: int = 0
    in_doubt_nano: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    def bill(self, cost_nano: int, usage: Usage | None) -> None:
        """Add a reply that was billed."""
        self.billed += 1
        self.settled_nano += cost_nano
        if usage is not None:
            self.prompt_tokens += usage.prompt
            self.cached_tokens += usage.cached
            self.cache_write_tokens += usage.cache_write
            self.completion_tokens += usage.completion
            self.reasoning_tokens += usage.reasoning

    def add(self, other: Use) -> None:
        """Add other requests."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


MAX_USES = 500  # a service that names another model in each reply must not fill the memory


def use_of(uses: dict[UseKey, Use], key: UseKey) -> Use:
    """Return what the requests of one day, model, lane and endpoint came to, to be added to."""
    found = uses.get(key)
    if found is None:
        # promise: reconcile: the number of models that a service names is bounded
        found = uses.setdefault(key if len(uses) < MAX_USES else key._replace(model=None), Use())
    return found


@dataclass(slots=True)
class Totals:
    """Requests, money (nano-dollars) and tokens of a shard or a run, summed over interruptions."""

    sent: int = 0
    retried: int = 0
    throttled: int = 0
    in_doubt: int = 0
    submitted: int = 0  # requests that wait for their reply at the service, such as those of a batch
    settled_nano: int = 0
    in_doubt_nano: int = 0
    submitted_nano: int = 0  # what is reserved for them
    worst_nano: int = 0  # reservations of the rows that have an outcome, as estimated
    over_reserved_nano: int = 0  # what replies cost beyond their reservations
    cache_saved_nano: int = 0  # what the service's cache took off the cost of the answers; negative if it added to it
    prompt_tokens: int = 0  # as the answers report them, like the other four counts of tokens
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    statuses: dict[str, int] = field(default_factory=dict)  # of the rows that have an outcome
    uses: dict[UseKey, Use] = field(default_factory=dict)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Totals:
        """Read what `to_json` returned. Raises TypeError."""
        uses = {UseKey(*key): Use(**use) for key, use in found.get("uses", ())}
        return cls(**{**found, "uses": uses})

    def to_json(self) -> dict[str, Any]:
        """Return the totals as JSON can hold them."""
        return {**asdict(self), "uses": [[list(key), asdict(use)] for key, use in self.uses.items()]}

    @property
    def answers(self) -> int:
        """Rows with an answer that the run paid for."""
        return sum(count for status, count in self.statuses.items() if status in REUSABLE)

    @property
    def endpoints(self) -> dict[str, Use]:
        """What the requests to each endpoint came to, by its label; "" is the only endpoint."""
        found: dict[str, Use] = {}
        for key, use in self.uses.items():
            found.setdefault(key.endpoint, Use()).add(use)
        return found

    @property
    def committed_nano(self) -> int:
        """What counts against a budget: what is paid, may have been paid, or is reserved at the service."""
        return self.settled_nano + self.in_doubt_nano + self.submitted_nano

    def add(self, other: Totals) -> None:
        """Add another part of the run."""
        for name in self.__slots__:
            if name not in {"statuses", "uses"}:
                setattr(self, name, getattr(self, name) + getattr(other, name))
        for key, use in other.uses.items():
            use_of(self.uses, key).add(use)
        for status, count in other.statuses.items():
            self.statuses[status] = self.statuses.get(status, 0) + count
