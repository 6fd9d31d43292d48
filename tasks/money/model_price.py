"""The price of a model: exact arithmetic on the tokens of a request, by band, service tier and endpoint.

Money is exact. Prices are whole femto-dollars (1e-15 $) per token: $1 for a million tokens is 1e9 of them, and no price
has more than nine decimals. Sums are integers, and a row's cost is rounded once, to nano-dollars (1e-9 $).

Every kind of token has its price: input, cached input, input that is written to a cache, output (which includes
reasoning). Some services also charge a fee for each request. A price applies to a whole request: the number of its
prompt tokens selects the band, and the service tier that the reply names selects the tier.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from parquill.tasks.errors import BadJob
from parquill.tasks.money.amounts import FEMTO_PER_NANO
from parquill.tasks.records import Usage

# The names of the usual tier: OpenAI `default` (and `auto` if a project has no other), Anthropic and Google `standard`,
# Groq `on_demand`.
STANDARD_TIERS = frozenset({"", "default", "standard", "auto", "on_demand"})
_ALSO = {"fast": "priority", "priority": "fast"}  # OpenAI answers `priority` to a request for `fast`
_NEVER_ABOVE_STANDARD = frozenset({"flex", "batch"})


@dataclass(frozen=True, slots=True)
class PriceBand:
    """Prices in femto-dollars per token for requests whose prompt has more than `above` tokens."""

    above: int
    input: int
    cached: int
    cache_write: int
    output: int

    def femto(self, prompt: int, cached: int, cache_write: int, completion: int) -> int:
        """Cost of these tokens in femto-dollars; `prompt` includes `cached` and `cache_write`."""
        return (
            (prompt - cached - cache_write) * self.input
            + cached * self.cached
            + cache_write * self.cache_write
            + completion * self.output
        )


@dataclass(frozen=True, slots=True)
class ServiceTier:
    """The prices of a service tier other than the standard one; `name` is what replies call it."""

    name: str
    bands: tuple[PriceBand, ...]


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """The price of one model on one day; `window` is its context in tokens, None if unknown.

    `request` is a fee in femto-dollars for each billed reply. `asked` is the service tier that requests ask for, ""
    for the standard one: expectations and worst cases are at its price. `parts` are the prices at several endpoints
    (see `mix_prices`), in the job's order.
    """

    model: str
    bands: tuple[PriceBand, ...]
    window: int | None
    source: str
    version: str
    request: int = 0
    tiers: tuple[ServiceTier, ...] = ()
    asked: str = ""
    parts: tuple[PricePart, ...] = ()

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Read a price that `dataclasses.asdict` and JSON wrote. Raises LookupError, TypeError."""
        tiers = tuple(ServiceTier(tier["name"], _bands_from_json(tier["bands"])) for tier in found["tiers"])
        parts = tuple(PricePart(part["weight"], cls.from_json(part["price"])) for part in found.get("parts", ()))
        # promise: M6 a resumed run reads the prices of service tiers from its plan
        return cls(**{**found, "bands": _bands_from_json(found["bands"]), "tiers": tiers, "parts": parts})

    def at_endpoint(self, index: int) -> ModelPrice:
        """Return the price at one of the job's endpoints, by its place in their list."""
        return self.parts[index].price if self.parts else self

    def femto(self, usage: Usage, tier: str | None = None) -> int:
        """Exact cost in femto-dollars of one billed reply, at the tier that it names.

        A tier without a known price (see `knows_tier`) is priced as the most expensive known tier.
        """
        prompt, cached, cache_write, completion, _ = usage
        # promise: M6 the booked cost includes the fee per request
        return self.request + max(
            _band_for(bands, prompt).femto(prompt, cached, cache_write, completion) for bands in self._choices(tier)
        )

    def knows_tier(self, tier: str | None) -> bool:
        """Whether the price of a tier is known; that of the standard tier, under any of its names, always is."""
        name = (tier or "").lower()
        return (
            name in STANDARD_TIERS
            or name == self.asked
            or any(other.name in {name, _ALSO.get(name)} for other in self.tiers)
        )

    def _bands_of(self, tier: str | None) -> tuple[PriceBand, ...] | None:
        name = (tier or "").lower()
        if name in STANDARD_TIERS:
            return self.bands
        for wanted in (name, _ALSO.get(name)):
            for other in self.tiers:
                if other.name == wanted:
                    return other.bands
        return self.bands if name in _NEVER_ABOVE_STANDARD else None

    def exceeds_asked(self, tier: str | None) -> bool:
        """Whether a reply at this tier may cost more than one at the tier that was asked for."""
        return self.worst_nano(1_000_000, 1_000_000, tier or "") > self.worst_nano(1_000_000, 1_000_000)

    @property
    def asked_bands(self) -> tuple[PriceBand, ...]:
        """The prices of the tier that requests ask for."""
        (bands,) = self._choices(self.asked)
        return bands

    def _choices(self, tier: str | None) -> tuple[tuple[PriceBand, ...], ...]:
        """Return the prices of a tier; for a tier without a known price those of all tiers."""
        named = self._bands_of(tier)
        return (self.bands, *(other.bands for other in self.tiers)) if named is None else (named,)

    def expected_femto(self, prompt: float, cached: float, cache_write: float, completion: float) -> int:
        """Cost in femto-dollars of a request with expected tokens, which need not be whole numbers.

        With several endpoints, the mean by their weights.
        """
        if self.parts:
            # promise: endpoints: the expected cost follows the weights
            sums = [
                part.weight * part.price.expected_femto(prompt, cached, cache_write, completion) for part in self.parts
            ]
            return round(sum(sums) / sum(part.weight for part in self.parts))
        tokens = (round(count * 1000) for count in (prompt, cached, cache_write, completion))
        return self.request + _band_for(self.asked_bands, prompt).femto(*tokens) // 1000

    def worst_nano(self, prompt_tokens: int, max_output_tokens: int, tier: str | None = None) -> int:
        """The most that a request can cost at a tier, by default the asked one, in nano-dollars, rounded up.

        Takes all input at the most expensive input price, all output used, and the request's fee; of the bands that a
        prompt of at most `prompt_tokens` can fall into, the most expensive.
        """
        choices = self._choices(self.asked if tier is None else tier)
        most = max(_worst_femto(bands, prompt_tokens, max_output_tokens) for bands in choices)
        # promise: M1 a reservation includes the fee per request
        return -(-(self.request + most) // FEMTO_PER_NANO)

    def at_tier(self, tier: str) -> Self:
        """Return the price for requests that ask for a tier. Raises BadJob if that tier has no price of its own."""
        # promise: M2 a lane without a known price is refused
        if tier and not any(other.name == tier for other in self.tiers):
            raise BadJob(
                f"{self.model} has no {tier} price ({self.source}): use `lane: live`, a model with a {tier} price, or "
                f"set `price` to what you pay for {tier}"
            )
        return replace(self, asked=tier, source=f"{self.source}, {tier}") if tier else self


@dataclass(frozen=True, slots=True)
class PricePart:
    """The price at one of several endpoints, and the endpoint's weight."""

    weight: float
    price: ModelPrice


def mix_prices(model: str, prices: Sequence[ModelPrice], weights: Sequence[float]) -> ModelPrice:
    """Return the price of requests that go to several endpoints, each at its own price in the lane of the job.

    At worst, each kind of token costs what it costs at the most expensive endpoint for it: all rows may go there, if
    the others are down. The expected cost is the mean by the endpoints' weights.
    """
    asked = prices[0].asked
    # promise: M1 with several endpoints, a planned row reserves the price of the most expensive one
    bands = _highest([price.bands for price in prices])
    tiers = (ServiceTier(asked, _highest([price.asked_bands for price in prices])),) if asked else ()
    windows = [price.window for price in prices if price.window is not None]
    return ModelPrice(
        model,
        bands,
        min(windows, default=None),
        "; ".join(dict.fromkeys(price.source for price in prices)),
        "; ".join(dict.fromkeys(price.version for price in prices)),
        request=max(price.request for price in prices),
        tiers=tiers,
        asked=asked,
        parts=tuple(PricePart(weight, price) for weight, price in zip(weights, prices, strict=True)),
    )


def _highest(each: Sequence[Sequence[PriceBand]]) -> tuple[PriceBand, ...]:
    """Return bands with the highest price of each kind of token in several lists of bands."""
    starts = sorted({band.above for bands in each for band in bands})
    found = []
    for start in starts:
        bands = [_band_for(own, start + 1) for own in each]  # prices change above a start
        found.append(PriceBand(start, *(max(getattr(band, kind) for band in bands) for kind in _KINDS)))
    return tuple(found)


_KINDS = ("input", "cached", "cache_write", "output")


def _worst_femto(bands: Sequence[PriceBand], prompt_tokens: int, max_output_tokens: int) -> int:
    most = 0
    for index, band in enumerate(bands):
        # promise: M1 a reservation covers every price band that may apply
        if index and band.above >= prompt_tokens:
            break
        last = bands[index + 1].above if index + 1 < len(bands) else prompt_tokens
        prompt = min(prompt_tokens, last)
        # promise: M1 a reservation covers the price of cache writes
        highest = max(band.input, band.cached, band.cache_write)
        most = max(most, prompt * highest + max_output_tokens * band.output)
    return most


def _band_for(bands: Sequence[PriceBand], prompt_tokens: float) -> PriceBand:
    band = bands[0]
    for other in bands[1:]:
        if prompt_tokens > other.above:
            band = other
    return band


def _bands_from_json(found: Iterable[Mapping[str, int]]) -> tuple[PriceBand, ...]:
    return tuple(PriceBand(**band) for band in found)
