"""The distribution of answer lengths: log-normal about a line, cut at max_output_tokens.

The logarithm of the output is normal about a straight line over the logarithm of the input (a censored regression:
J. Tobin, Econometrica 26, 1958). It is fitted to class sums only, so history and pilot are handled alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from parquill.tasks.money.length_stats import LengthStats, middle_of

CLOSE = 1e-9
_ROUNDS = 300
_MIN_SIGMA = 1e-3


@dataclass(frozen=True, slots=True)
class CensoredLogNormal:
    """The log of the output is normal: mean `intercept + slope * log(input)`, deviation `sigma`, cut at `most`."""

    intercept: float
    slope: float
    sigma: float
    most: int

    def mean(self, log_input: float) -> float:
        """Mean output tokens of one answer: E[min(Y, most)] of a log-normal Y."""
        mu, sigma, limit = self.intercept + self.slope * log_input, self.sigma, math.log(self.most)
        within = _below((limit - mu - sigma * sigma) / sigma)
        whole = mu + sigma * sigma / 2
        tokens = math.exp(min(whole, 700.0)) * within if within > 0 else 0.0
        return max(1.0, min(float(self.most), tokens + self.most * (1.0 - _below((limit - mu) / sigma))))

    def share_below(self, tokens: float, log_input: float) -> float:
        """The share of answers that are shorter than `tokens`."""
        if tokens > self.most:
            return 1.0
        return _below((math.log(max(tokens, 1e-9)) - self.intercept - self.slope * log_input) / self.sigma)


def fit_log_normal(classes: Mapping[int, LengthStats], most: int) -> CensoredLogNormal:
    """Fit the most likely distribution to answers, some of them cut, by expectation-maximization.

    Each round replaces a cut answer by its expectation under the previous round's distribution (mean and square of a
    normal variable above a limit), and then fits by least squares.
    """
    limit = math.log(most)
    x = {number: middle_of(number) for number in classes}
    weight = sum(seen.count for seen in classes.values())
    x_mean = sum(seen.count * x[number] for number, seen in classes.items()) / weight
    x_spread = sum(seen.count * (x[number] - x_mean) ** 2 for number, seen in classes.items())
    uncut = sum(seen.count - seen.cut for seen in classes.values())
    law = CensoredLogNormal(limit if not uncut else 0.0, 0.0, 1.0, most)
    if not uncut:
        return CensoredLogNormal(limit + 1.0, 0.0, _MIN_SIGMA, most)
    for turn in range(_ROUNDS):
        sums: dict[int, float] = {}
        squares = 0.0
        for number, seen in classes.items():
            mean, square = limit, limit * limit
            if seen.cut and turn:
                mean, square = _above(law.intercept + law.slope * x[number], law.sigma, limit)
            sums[number] = seen.logs + seen.cut * mean
            squares += seen.log_squares + seen.cut * square
        y_mean = sum(sums.values()) / weight
        both = sum(total * (x[number] - x_mean) for number, total in sums.items())
        slope = both / x_spread if x_spread > CLOSE else 0.0
        left = squares - weight * y_mean**2 - slope * both
        sigma = math.sqrt(max(_MIN_SIGMA**2, left / max(1, weight - (2 if weight > 2 else 0))))
        new = CensoredLogNormal(y_mean - slope * x_mean, slope, sigma, most)
        moved = abs(new.intercept - law.intercept) + abs(new.slope - law.slope) + abs(new.sigma - law.sigma)
        law = new
        if moved < CLOSE or uncut == weight:
            break
    return law


def _below(z: float) -> float:
    return math.erfc(-z / math.sqrt(2.0)) / 2.0


def _above(mu: float, sigma: float, limit: float) -> tuple[float, float]:
    """Mean of a normal variable and of its square, given that it is above a limit."""
    z = (limit - mu) / sigma
    tail = _below(-z)
    # far out the ratio of density and tail tends to z + 1/z
    hazard = math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / tail if tail > 1e-280 else z + 1 / z
    return mu + sigma * hazard, mu * mu + sigma * sigma + sigma * hazard * (limit + mu)
