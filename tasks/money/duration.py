"""How long a run takes at least, by the job's limits and by how fast earlier answers came.

Three bounds, of which the longest counts; n is the number of requests:

- `requests_per_minute`: 60 n / limit seconds, since a full minute admits no more than the limit (`limits.meters`).
- `tokens_per_minute`: 60 T / limit seconds, where T are the tokens that the service counts. With `count_output:
  reserved` they are the reserved tokens: input and max_output_tokens. With `actual` they are the input and the
  predicted output; what an answer does not use is given back. Without earlier answers only the input is certain.
- `max_at_once`: n latency / max_at_once seconds, by Little's law (J. D. C. Little, Operations Research 9, 1961), and no
  less than one latency, with the mean latency of earlier answers. Without earlier answers there is no such bound.

With several endpoints, the two limits are the sums of theirs.

A run that ends within its first minute may be a fifth faster than the two limits say: its requests leave at a pace that
is a little above the limit. Retries, throttling, other runs that share a limit and a slow service all take more time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from parquill.tasks.job.limit_settings import LimitSettings, total_of

if TYPE_CHECKING:
    from parquill.tasks.job.settings import Job
    from parquill.tasks.records import Estimate


class Duration(NamedTuple):
    """A least duration and the limit that it follows from, such as `at 500 requests a minute`."""

    seconds: float
    reason: str


def least_duration(job: Job, estimate: Estimate, left: int | None = None) -> Duration | None:
    """Return how long the `left` rows take at least, by default all rows to send; None if nothing bounds it."""
    rows = estimate.to_send if left is None else left
    if not rows or not estimate.to_send or estimate.lane == "batch":  # none of these limits applies to batches
        return None
    limits, bounds = total_of([each.limits for each in job.each_endpoint]), []
    if limits.requests_per_minute is not None:
        per_minute = limits.requests_per_minute
        bounds.append(Duration(60 * rows / per_minute, f"at {per_minute:,} requests a minute"))
    if limits.tokens_per_minute is not None:
        tokens = _counted_tokens(limits, estimate) * rows / estimate.to_send
        bounds.append(
            Duration(60 * tokens / limits.tokens_per_minute, f"at {limits.tokens_per_minute:,} tokens a minute")
        )
    if estimate.latency_s is not None:
        seconds = max(1.0, rows / limits.max_at_once) * estimate.latency_s
        bounds.append(
            Duration(seconds, f"with {limits.max_at_once:,} requests at once that take {estimate.latency_s:.2g} s each")
        )
    return max(bounds, default=None)


def _counted_tokens(limits: LimitSettings, estimate: Estimate) -> int:
    if limits.count_output == "reserved":
        return estimate.reserved_tokens
    return estimate.prompt_tokens + (0 if estimate.is_worst_case else estimate.completion_tokens_expected)
