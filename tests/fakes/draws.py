"""Draws that look random but are functions of the seed, the request's content and a purpose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import sha256
from statistics import NormalDist

_NORMAL = NormalDist()
_SCALE = 2.0**-53


def uniform(seed: int, digest: bytes, purpose: str) -> float:
    """Return a number strictly between 0 and 1."""
    mixed = sha256(b"%d/%b/%b" % (seed, purpose.encode(), digest)).digest()
    return ((int.from_bytes(mixed[:7]) >> 3) + 0.5) * _SCALE


def normal(seed: int, digest: bytes, purpose: str) -> float:
    """Return a number from the standard normal distribution."""
    return _NORMAL.inv_cdf(uniform(seed, digest, purpose))


@dataclass(frozen=True)
class OutputLaw:
    """How many completion tokens a request gets before its own maximum cuts them."""

    kind: str
    center: float
    sigma: float

    @classmethod
    def read(cls, text: str) -> OutputLaw:
        """Read `fixed:N`, `lognormal:MEDIAN:SIGMA` or `proportional:RATIO:SIGMA`."""
        kind, *rest = text.split(":")
        wanted = {"fixed": 1, "lognormal": 2, "proportional": 2}.get(kind)
        problem = f"fixed:N, lognormal:MEDIAN:SIGMA or proportional:RATIO:SIGMA is wanted, not {text!r}"
        if wanted is None or len(rest) != wanted:
            raise ValueError(problem)
        try:
            numbers = [float(part) for part in rest]
        except ValueError:
            raise ValueError(problem) from None
        if not all(0 <= number < math.inf for number in numbers):
            raise ValueError(problem)
        return cls(kind, numbers[0], numbers[1] if wanted == 2 else 0.0)

    def draw(self, seed: int, digest: bytes, prompt_tokens: int) -> int:
        """Return at least one token; the center is the median of the two laws with a spread."""
        center = self.center * prompt_tokens if self.kind == "proportional" else self.center
        if self.sigma:
            # A limit of 50 on the exponent keeps an absurd sigma from overflowing; every maximum is far lower.
            center *= math.exp(min(50.0, self.sigma * normal(seed, digest, "output")))
        return max(1, round(center))


def latency_s(seed: int, digest: bytes, mean_ms: float, sigma: float) -> float:
    """Return the seconds before the answer: lognormal, with `mean_ms` as its mean and not its median."""
    if not mean_ms or not sigma:
        return mean_ms / 1000
    spread = sigma * normal(seed, digest, "latency") - sigma * sigma / 2
    return mean_ms / 1000 * math.exp(min(50.0, spread))
