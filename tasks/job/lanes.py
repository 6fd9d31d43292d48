"""Lanes: the ways to buy a completion, and what differs between them before anything is sent."""

from __future__ import annotations

from typing import Final, Literal

LaneName = Literal["live", "flex", "batch"]

# The tier at whose price a lane buys; "" is the standard tier.
TIERS: Final[dict[LaneName, str]] = {"live": "", "flex": "flex", "batch": "batch"}
# The lanes of each `endpoint.api`.
LANES_OF_API: Final[dict[str, tuple[LaneName, ...]]] = {
    "chat": ("live", "flex", "batch"),
    "responses": ("live", "flex", "batch"),
    "completions": ("live", "batch"),
}
# The names that replies use for a tier that is a lane of its own; every other reply came from the live lane.
_LANES_OF_TIERS: Final[dict[str, str]] = {"flex": "flex", "batch": "batch"}

# Settings of `retry` whose default depends on the lane. OpenAI advises 15 minutes for one flex request (guide "Flex
# processing"). Flex answers 429 while it lacks capacity, which may last for hours, and which costs nothing.
RETRY_DEFAULTS: Final[dict[LaneName, dict[str, float]]] = {
    "live": {},
    "flex": {"timeout_s": 900.0, "patience_s": 21_600.0},
    "batch": {},
}

# What to do if a lane has no capacity for too long.
ADVICE: Final[dict[LaneName, str]] = {
    "live": "",
    "flex": "; flex has no capacity: run again later, or set `lane: live`, which costs more",
    "batch": "",
}


def lane_of(service_tier: str | None) -> str:
    """Return the lane in which a reply was bought, by the service tier that it names."""
    return _LANES_OF_TIERS.get((service_tier or "").lower(), "live")
