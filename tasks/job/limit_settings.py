"""The setting `limits`: how fast requests may be sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from parquill.tasks.job.base import Number, Settings

AtOnce = Annotated[int, Field(ge=1, le=4096), Number]
RequestsPerMinute = Annotated[int, Field(ge=1, le=10_000_000), Number]
TokenCount = Annotated[int, Field(ge=1, le=100_000_000_000), Number]
CountOutput = Literal["reserved", "actual"]
SharedName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class LimitSettings(Settings, title="Limits"):
    """How fast requests may be sent."""

    max_at_once: AtOnce = Field(64, description="The most requests in flight at once")
    requests_per_minute: RequestsPerMinute | None = Field(
        None, description="The service's limit of requests in any minute"
    )
    tokens_per_minute: TokenCount | None = Field(None, description="The service's limit of tokens in any minute")
    count_output: CountOutput = Field(
        "reserved", description="What the service counts against its limit: max_output_tokens, or the actual output"
    )
    batch_tokens: TokenCount | None = Field(
        None,
        description="With lane: batch, the most prompt tokens that may wait in batches at the same time, by the "
        "service's limit of enqueued tokens; default: learned from the service",
    )
    shared: SharedName | None = Field(
        None, description="NAME under which concurrent runs share these limits, through the ledger"
    )

    @model_validator(mode="after")
    def _something_to_share(self) -> Self:
        if self.shared is not None and self.requests_per_minute is None and self.tokens_per_minute is None:
            raise ValueError("`shared` needs a requests_per_minute or a tokens_per_minute to share")
        return self


class EndpointLimits(Settings, title="Limits of an endpoint"):
    """How fast requests may be sent to one of several endpoints; what is left out is as in the job's `limits`."""

    max_at_once: AtOnce | None = Field(
        None, description="The most requests in flight there at once; all endpoints together keep `limits.max_at_once`"
    )
    requests_per_minute: RequestsPerMinute | None = Field(
        None, description="The endpoint's limit of requests in any minute"
    )
    tokens_per_minute: TokenCount | None = Field(None, description="The endpoint's limit of tokens in any minute")
    count_output: CountOutput | None = Field(
        None, description="What the endpoint counts against its limit: max_output_tokens, or the actual output"
    )
    shared: SharedName | None = Field(
        None, description="NAME under which concurrent runs, and endpoints, share these limits, through the ledger"
    )

    def over(self, limits: LimitSettings) -> LimitSettings:
        """Return a job's limits with those of the endpoint in their place. Raises ValueError (see LimitSettings)."""
        own = self.model_dump(exclude_none=True)
        # promise: endpoints: all endpoints together keep the job's max_at_once
        own["max_at_once"] = min(own.get("max_at_once", limits.max_at_once), limits.max_at_once)
        return LimitSettings.model_validate({**limits.model_dump(), **own})


def total_of(each: Sequence[LimitSettings]) -> LimitSettings:
    """Return the limits of several endpoints together. A limit that one of them does not have is no limit of all.

    Endpoints that share a limit by its name have it once. The most at once is that of the job, which all have.
    """
    totals: dict[str, int | None] = {}
    for name in ("requests_per_minute", "tokens_per_minute"):
        named = {limits.shared or number: getattr(limits, name) for number, limits in enumerate(each)}
        values = [value for value in named.values() if value is not None]
        totals[name] = sum(values) if len(values) == len(named) else None
    count = "reserved" if any(limits.count_output == "reserved" for limits in each) else "actual"
    at_once = max(limits.max_at_once for limits in each)
    return each[0].model_copy(update={**totals, "count_output": count, "max_at_once": at_once})
