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
        self._sums: dict[Line, Tokens] = {}
        self._rows: list[tuple[float, str, str, bytes, Line, Tokens]] = []

    def add(self, at: float, model: str, usage: Usage, *, key_id: str, tier: str, batch: bool = False) -> None:
        """Bill one answer."""
        self._book(_line(at, model, key_id, tier, batch=batch), _tokens(usage))

    def add_row(
        self, at: float, model: str, usage: Usage, *, key_id: str, batch_id: str, custom_id: str, digest: bytes
    ) -> None:
        """Bill one row of a batch."""
        line, tokens = _line(at, model, key_id, "default", batch=True), _tokens(usage)
        self._book(line, tokens)
        self._rows.append((at, batch_id, custom_id, digest, line, tokens))

    def _book(self, line: Line, tokens: Tokens) -> None:
        self._sums[line] = self._sums.get(line, NOTHING).plus(tokens)

    def sums(self, options: AdminOptions) -> Iterator[tuple[Line, Tokens]]:
        """Yield all sums, and what others used."""
        yield from self._sums.items()
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

    def figures(self, options: AdminOptions) -> dict[str, Any]:
        """Return the sums of each lane and the bill of each row of a batch, as JSON; money is in USD, as text."""
        lanes: dict[str, Any] = {}
        for line, tokens in self._sums.items():
            before, usd = lanes.get(line.lane, (NOTHING, Decimal(0)))
            lanes[line.lane] = (before.plus(tokens), usd + sum(costs(line, tokens, options).values()))
        return {
            "lanes": {lane: tokens._asdict() | {"usd": plain(usd)} for lane, (tokens, usd) in lanes.items()},
            "rows": [
                {
                    "at": at,
                    "batch_id": batch_id,
                    "custom_id": custom_id,
                    "content": digest.hex(),
                    "model": line.model,
                    "usd": plain(sum(costs(line, tokens, options).values(), Decimal(0))),
                }
                | tokens._asdict()
                for at, batch_id, custom_id, digest, line, tokens in self._rows
            ],
        }


def _line(at: float, model: str, key_id: str, tier: str, *, batch: bool) -> Line:
    return Line(int(at // MINUTE_S) * MINUTE_S, model, batch, tier, key_id)


def _tokens(usage: Usage) -> Tokens:
    return Tokens(1, usage.prompt, usage.cached, usage.cache_write, usage.completion, usage.reasoning)


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
