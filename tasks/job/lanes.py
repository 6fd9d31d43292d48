"""Lanes: the ways to buy a completion, and what differs between them before anything is sent.

`lane: auto` is a choice and no lane: the cheapest lane, and the live lane for what would not be done by `finish_by`.
"""

from __future__ import annotations

from typing import Final, Literal

LaneName = Literal["live", "flex", "batch"]
LaneSetting = Literal["live", "flex", "batch", "auto"]

# The tier at whose price a lane buys; "" is the standard tier.
TIERS: Final[dict[str, str]] = {"live": "", "flex": "flex", "batch": "batch"}
# The lanes of each `endpoint.api`.
LANES_OF_API: Final[dict[str, tuple[LaneName, ...]]] = {
    "chat": ("live", "flex", "batch"),
    "responses": ("live", "flex", "batch"),
    "completions": ("live", "batch"),
}
# What `lane: auto` buys, the first that is sold: flex has no deadline of a day, and its answers come one by one.
CHEAP_LANES: Final[tuple[LaneName, ...]] = ("flex", "batch")
# The names that replies use for a tier that is a lane of its own; every other reply came from the live lane.
_LANES_OF_TIERS: Final[dict[str, LaneName]] = {"flex": "flex", "batch": "batch"}

# Settings of `retry` whose default depends on the lane. OpenAI advises 15 minutes for one flex request (guide "Flex
# processing"). Flex answers 429 while it lacks capacity, which may last for hours, and which costs nothing.
RETRY_DEFAULTS: Final[dict[str, dict[str, float]]] = {"flex": {"timeout_s": 900.0, "patience_s": 21_600.0}}

# What to do if a lane has no capacity for too long.
ADVICE: Final[dict[str, str]] = {
    "flex": "; flex has no capacity: run again later, or set `lane: live`, which costs more"
}


def lane_of(service_tier: str | None) -> LaneName:
    """Return the lane in which a reply was bought, by the service tier that it names."""
    return _LANES_OF_TIERS.get((service_tier or "").lower(), "live")
