"""The types of a summary, as `summary.json` holds it. `results/summary.py` says what each key means.

Money is decimal text in dollars, so that no digit is lost: `Decimal(summary["cost_usd"])`.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict


class RowCounts(TypedDict):
    """Rows by status, and how many of all rows are `reused`."""

    total: int
    ok: int
    truncated: int
    invalid: int
    refused: int
    failed: int
    rejected: int
    not_sent: int
    reused: int


class TokenCounts(TypedDict):
    """Tokens as billed."""

    prompt: int
    cached: int
    cache_write: int
    completion: int
    reasoning: int


class BudgetFigures(TypedDict):
    """Dollars as decimal text; null without a budget or a ledger."""

    run_usd: str | None
    month_usd_before: str | None
    month_usd_after: str | None


class RequestCounts(TypedDict):
    """Requests of the run alone."""

    sent: int
    retried: int
    throttled: int
    in_doubt: int
    submitted: int


class LaneFigures(TypedDict):
    """What was bought in a lane, with the dollars as text."""

    rows: int
    cost_usd: str


class EndpointFigures(TypedDict):
    """What a run bought at an endpoint, with the dollars as text."""

    requests: int
    rows: int
    cost_usd: str
    in_doubt_usd: str
    prompt_tokens: int
    completion_tokens: int


class CacheFigures(TypedDict):
    """What the service's cache did; dollars as decimal text, negative if it cost more than it saved."""

    read_tokens: int
    written_tokens: int
    saved_usd: str


class PriceList(TypedDict):
    """The source of the prices, with its version and day."""

    source: str
    version: str


class PriceAs(TypedDict):
    """What the same usage costs on another model."""

    model: str
    cost_usd: str
    prices: str


class ExpectedFigures(TypedDict):
    """Tokens and cost as expected before the run; dollars as decimal text."""

    prompt_tokens: int
    completion_tokens_expected: int
    cost_usd_expected: str
    cost_usd_low: str | None
    cost_usd_high: str | None
    cost_usd_p90: str
    cost_usd_worst: str
    cost_usd_moved_expected: str | None
    cost_usd_moved_worst: str | None
    duration_s: float | None
    basis: Literal["history", "pilot", "worst_case"]


class Group(TypedDict):
    """One value of a `for_each` name."""

    value: Any
    rows: int
    not_ok: int
    cost_usd: str


class Summary(TypedDict):
    """What ran, what it cost, what failed and why."""

    run_id: str
    state: Literal["running", "finished", "stopped"]
    exit_code: int | None
    message: str | None
    job: str
    model: str
    labels: dict[str, Any]
    rows: RowCounts
    tokens: TokenCounts
    counted: dict[str, Any]
    estimate: ExpectedFigures
    cost_usd: str
    paid_usd: str
    in_doubt_usd: str
    submitted_usd: str
    over_reserved_usd: str
    saved_usd: str
    budget: BudgetFigures
    requests: RequestCounts
    lanes: dict[str, LaneFigures]
    endpoints: dict[str, EndpointFigures]
    cache: CacheFigures
    finish_by: str | None
    duration_s: float | None
    prices: PriceList
    errors: dict[str, int]
    groups: dict[str, list[Group]]
    usage_unknown: int
    usage_flags: dict[str, int]
    over_reserved_rows: dict[str, int]
    prompts_cut_at: dict[str, int]
    unknown_finish_reasons: dict[str, int]
    started_at: str
    finished_at: str | None
    price_as: NotRequired[PriceAs]
