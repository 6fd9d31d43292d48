"""Notices replies from a service tier that costs more than the one that was asked for.

A service, or a gateway in front of it, may ignore the tier that a request names. Then every reply costs more than was
reserved for its request. After the first such reply, requests reserve the price of its tier.
"""

from __future__ import annotations

from collections.abc import Callable

from parquill.tasks.llm.unit import Step
from parquill.tasks.money.model_price import ModelPrice


class TierCheck:
    """The tiers of the replies of one run, in one process."""

    def __init__(
        self, price: ModelPrice, max_output_tokens: int, sent_at: str | None = None, *, is_planned: bool = True
    ) -> None:
        """`sent_at` is the tier of the requests, if it is not the one of the run's price.

        `is_planned` is False if the worst cases of the plan are at another price, that of several endpoints.
        """
        self._price, self._room, self._is_planned = price, max_output_tokens, is_planned
        self.asked = price.asked if sent_at is None else sent_at
        self._seen: dict[str | None, bool] = {}  # whether a tier costs more than the one that was asked for
        self._tiers: list[str | None] = []  # those that do
        if sent_at is not None:
            self._seen = {sent_at: True, None: True, "default": True}
            self._tiers = [sent_at]
        self.warn: Callable[[str], None] = lambda _: None

    def observe(self, tier: str | None) -> None:
        """Note the tier that a reply names; None if it names none, which is the standard tier."""
        if tier in self._seen:
            return
        self._seen[tier] = self._price.exceeds_asked(tier)
        if self._seen[tier]:
            self._tiers.append(tier)
            asked = self._price.asked or "the standard tier"
            self.warn(
                f"the service answered at {f'the tier {tier}' if tier else 'the standard tier'}, which costs more than "
                f"{asked}, for which the requests ask; it is booked at its own price, and later requests reserve that "
                "price"
            )

    def reserve_nano(self, step: Step) -> int:
        """Return what to reserve for a step, in nano-dollars: its worst case at any tier that was seen."""
        worst_nano = step.worst_nano
        if not self._is_planned:
            # promise: M1 a request to one of several endpoints reserves at the price of that endpoint
            worst_nano = self._price.worst_nano(step.tokens - self._room, self._room)
        # promise: M1 requests reserve the price of a more expensive tier once a reply names it
        most = (self._price.worst_nano(step.tokens - self._room, self._room, tier or "") for tier in self._tiers)
        return max(worst_nano, *most) if self._tiers else worst_nano
