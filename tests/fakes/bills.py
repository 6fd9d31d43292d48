"""What was billed, in tokens and money, by minute, model, lane and key; the rows of batches also one by one.

The counters of `accounting.py` know a content and no money. These know when, in which lane and at which price, so a
test can compare the product's own figures with them, and the organization's endpoints can be computed from them.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .admin_options import AdminOptions
    from .answers import Usage

MINUTE_S = 60
KINDS = ("input", "cached", "cache_write", "output")
_TIERS = {"flex": Decimal("0.5"), "priority": Decimal(2), "fast": Decimal(2)}
_HALF = Decimal("0.5")
_MILLION = Decimal(1_000_000)


class Line(NamedTuple):
    """What bills are summed by."""

    minute: int
    model: str
    batch: bool
    tier: str
    key_id: str
    project_id: str | None = None  # None: the project of this service
    user_id: str = "user_fake"

    @property
    def lane(self) -> str:
        """Return live, batch or the tier."""
        return "batch" if self.batch else {"default": "live"}.get(self.tier, self.tier)


class Tokens(NamedTuple):
    """Sums; cached and cache_write are parts of prompt, reasoning is part of completion."""

    requests: int
    prompt: int
    cached: int
    cache_write: int
    completion: int
    reasoning: int

    def plus(self, other: Tokens) -> Tokens:
        """Return the sum of both."""
        return Tokens(*(mine + its for mine, its in zip(self, other, strict=True)))

    def parts(self) -> dict[str, int]:
        """Return the tokens that have prices of their own."""
        uncached = self.prompt - self.cached - self.cache_write
        counts = (uncached, self.cached, self.cache_write, self.completion)
        return dict(zip(KINDS, counts, strict=True))


NOTHING = Tokens(0, 0, 0, 0, 0, 0)


class Bills:
    """All bills of one service since its start or reset."""

    def __init__(self) -> None:
        # plain tuples and lists, in the order of Line and Tokens: every live answer passes here
        self._sums: dict[tuple[int, str, bool, str, str], list[int]] = {}
        self._rows: list[tuple[float, str, str, bytes, str, Usage]] = []

    def add(self, at: float, model: str, usage: Usage, *, key_id: str, tier: str, batch: bool = False) -> None:
        """Bill one answer."""
        key = (int(at // MINUTE_S) * MINUTE_S, model, batch, tier, key_id)
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = [0] * len(NOTHING)
        sums[0] += 1
        sums[1] += usage.prompt
        sums[2] += usage.cached
        sums[3] += usage.cache_write
        sums[4] += usage.completion
        sums[5] += usage.reasoning

    def add_row(
        self, at: float, model: str, usage: Usage, *, key_id: str, batch_id: str, custom_id: str, digest: bytes
    ) -> None:
        """Bill one row of a batch."""
        self.add(at, model, usage, key_id=key_id, tier="default", batch=True)
        self._rows.append((at, batch_id, custom_id, digest, model, usage))

    def sums(self, options: AdminOptions) -> Iterator[tuple[Line, Tokens]]:
        """Yield all sums, and what others used."""
        yield from self._own()
        for each in options.foreign:
            tokens = Tokens(
                each.get("num_model_requests", 1), each.get("input_tokens", 0), each.get("input_cached_tokens", 0),
                each.get("input_cache_write_tokens", 0), each.get("output_tokens", 0), 0,
            )  # fmt: skip
            yield (
                Line(
                    int(each["at"] // MINUTE_S) * MINUTE_S, each["model"], each.get("batch", False),
                    each.get("service_tier", "default"), each.get("api_key_id", "key_foreign"),
                    each.get("project_id"), each.get("user_id", "user_foreign"),
                ),
                tokens,
            )  # fmt: skip

    def _own(self) -> Iterator[tuple[Line, Tokens]]:
        return ((Line(*key), Tokens(*sums)) for key, sums in self._sums.items())

    def spent_cents(self, options: AdminOptions) -> Decimal:
        """Return what everything cost, in cents."""
        return 100 * sum(
            (usd for line, tokens in self.sums(options) for usd in costs(line, tokens, options).values()), Decimal(0)
        )

    def figures(self, options: AdminOptions) -> dict[str, Any]:
        """Return the sums of each lane and the bill of each row of a batch, as JSON; money is in USD, as text."""
        lanes: dict[str, Any] = {}
        for line, tokens in self._own():
            before, usd = lanes.get(line.lane, (NOTHING, Decimal(0)))
            lanes[line.lane] = (before.plus(tokens), usd + sum(costs(line, tokens, options).values()))
        return {
            "lanes": {lane: tokens._asdict() | {"usd": plain(usd)} for lane, (tokens, usd) in lanes.items()},
            "rows": [_row(each, options) for each in self._rows],
        }


def _row(row: tuple[float, str, str, bytes, str, Usage], options: AdminOptions) -> dict[str, Any]:
    at, batch_id, custom_id, digest, model, usage = row
    tokens = Tokens(1, usage.prompt, usage.cached, usage.cache_write, usage.completion, usage.reasoning)
    usd = sum(costs(Line(0, model, True, "default", ""), tokens, options).values(), Decimal(0))
    document = {"at": at, "batch_id": batch_id, "custom_id": custom_id, "content": digest.hex(), "model": model}
    return document | tokens._asdict() | {"usd": plain(usd)}


def costs(line: Line, tokens: Tokens, options: AdminOptions) -> dict[str, Decimal]:
    """Return what each kind of token costs, in USD, exactly."""
    prices = _prices(line.model, options)
    factor = _HALF if line.batch else _TIERS.get(line.tier, Decimal(1))
    found = {}
    for kind, count in tokens.parts().items():
        price = Decimal(str(prices[kind])) * factor
        if line.batch and kind == "cached" and "batch_cached" in prices:
            price = Decimal(str(prices["batch_cached"]))
        found[kind] = count * price / _MILLION
    return found


def _prices(model: str, options: AdminOptions) -> dict[str, float]:
    """Return the prices of a model; one with a date at its end has those of its name."""
    named = [name for name in options.prices if model.startswith(name)]
    return options.prices[max(named, key=len, default="*")]


def plain(usd: Decimal) -> str:
    """Return an amount without an exponent and without zeros at its end."""
    text = f"{usd:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
