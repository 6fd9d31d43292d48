"""How often a pilot's interval holds, and how wide it is: `python -m tests.benchmarks.pilots [SEEDS]`.

The populations have 20,000 rows whose output is log-normal about a line over the logarithm of the input, some of it cut
at max_output_tokens. Of each population, 100 rows are completed as `--pilot 100` chooses them. The interval is compared
with what the other rows really took. Its width is compared with the best possible if the form of the law is known: the
bound of Cramer and Rao for the same rows (intercept, slope and sigma unknown), and the chance among the other rows.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from parquill.tasks.money.estimate import price_histogram
from parquill.tasks.money.length_law import CensoredLogNormal
from parquill.tasks.money.length_model import LengthModel
from parquill.tasks.money.length_stats import History
from parquill.tasks.money.model_price import ModelPrice, PriceBand
from parquill.tasks.money.sample import choose
from parquill.tasks.money.tokens import TokenCounter
from parquill.tasks.records import Usage

ROWS, PILOT = 20_000, 100
NORMAL_P95 = 1.6449
PRICE = ModelPrice("a-model", (PriceBand(0, 0, 0, 0, 1_000_000_000),), None, "a study", "today")  # only output costs


@dataclass(frozen=True)
class Population:
    """A law of inputs and outputs; `most` is max_output_tokens."""

    sigma: float
    most: int
    slope: float = 0.7
    spread: float = 0.6  # of the logarithm of the input

    def draw(self, seed: int, rows: int = ROWS) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return input and output tokens, the shortest input first."""
        random = np.random.default_rng(seed)
        prompts = np.sort(np.maximum(1, np.exp(random.normal(5.5, self.spread, rows)).astype(np.int64)))
        logs = self.intercept + self.slope * np.log(prompts) + random.normal(0.0, self.sigma, rows)
        return prompts, np.clip(np.exp(logs).astype(np.int64), 1, self.most)

    @property
    def intercept(self) -> float:
        """Return the intercept that gives the median input about 100 output tokens, whatever the slope."""
        return math.log(100.0) - self.slope * 5.5


POPULATIONS = [
    Population(sigma, most, slope, spread)
    for sigma in (0.3, 0.5, 0.8)
    for most, slope, spread in ((100_000, 0.7, 0.6), (150, 0.7, 0.6), (300, 1.0, 1.0), (100_000, 0.0, 0.6))
]


def trial(population: Population, seed: int) -> tuple[bool, float]:
    """Run one pilot; return whether its interval held the cost of the other rows, and its width over the best."""
    prompts, outputs = population.draw(seed)
    counts = Counter(prompts.tolist())
    start = {tokens: int(np.searchsorted(prompts, tokens)) for tokens in counts}
    picks = choose(counts, PILOT, (seed * 0.7548776662466927) % 1.0)
    history = History()
    rest = Counter(counts)
    chosen = [start[pick.prompt_tokens] + pick.place for pick in picks]
    for index in chosen:
        prompt, output = int(prompts[index]), int(outputs[index])
        history.add(prompt, Usage(prompt=prompt, completion=output), population.most)
        rest[prompt] -= 1
    model = LengthModel(history, population.most)
    figures = price_histogram(+rest, population.most, PRICE, TokenCounter("gpt-4o-mini"), model)
    actual = (int(outputs.sum()) - int(outputs[chosen].sum())) * 1_000  # nano-dollars
    best = best_width(population, prompts[chosen], prompts)
    return figures.low <= actual <= figures.high, (figures.high - figures.low) / actual / best


def best_width(population: Population, sample: npt.NDArray[np.int64], prompts: npt.NDArray[np.int64]) -> float:
    """Return the least relative width of a 90 % interval for the total."""
    theta = np.array([population.intercept, population.slope, population.sigma])

    def means(at: npt.NDArray[np.float64], lengths: list[int]) -> npt.NDArray[np.float64]:
        law = CensoredLogNormal(float(at[0]), float(at[1]), float(at[2]), population.most)
        return np.array([law.mean(math.log(length)) for length in lengths])

    lengths, counts = np.unique(prompts, return_counts=True)
    total = float(means(theta, lengths.tolist()) @ counts)
    gradient = np.array(
        [
            float((means(theta + step, lengths.tolist()) - means(theta - step, lengths.tolist())) @ counts) / 2e-5
            for step in np.eye(3) * 1e-5
        ]
    )
    learned = float(gradient @ np.linalg.solve(_information(population, sample), gradient))
    chance = float(_variances(population, lengths) @ counts)  # the pilot's own rows are too few to matter
    return 2 * NORMAL_P95 * math.sqrt(learned + chance) / total


Grid = npt.NDArray[np.float64]


def _grid(population: Population, lengths: npt.NDArray[np.int64]) -> tuple[Grid, Grid, Grid, Grid]:
    """Return per length: log(length), mean of log(output), standard scores up to the cut, their probabilities."""
    x = np.log(lengths)
    mu = population.intercept + population.slope * x
    top = np.clip((math.log(population.most) - mu) / population.sigma, -8.0, 8.0)
    z = -8.0 + (top[:, None] + 8.0) * (np.arange(400) + 0.5) / 400
    return x, mu, z, np.exp(-z * z / 2) / math.sqrt(2 * math.pi) * ((top + 8.0) / 400)[:, None]


def _information(population: Population, lengths: npt.NDArray[np.int64]) -> Grid:
    """Return Fisher's information about intercept, slope and sigma, summed over one answer of each length."""
    x, mu, z, mass = _grid(population, lengths)
    scores = np.stack([z, x[:, None] * z, z * z - 1]) / population.sigma
    whole: Grid = np.einsum("irg,jrg,rg->ij", scores, scores, mass)
    limit = (math.log(population.most) - mu) / population.sigma
    for index in np.flatnonzero(limit < 7.0):
        at = float(limit[index])
        tail = math.erfc(at / math.sqrt(2)) / 2
        hazard = math.exp(-at * at / 2) / math.sqrt(2 * math.pi) / tail
        score = np.array([hazard, float(x[index]) * hazard, at * hazard]) / population.sigma
        whole += tail * np.outer(score, score)
    return whole


def _variances(population: Population, lengths: npt.NDArray[np.int64]) -> Grid:
    """Return the variance of the output of one answer of each length."""
    _, mu, z, mass = _grid(population, lengths)
    output = np.exp(mu[:, None] + population.sigma * z)
    cut = 1.0 - mass.sum(axis=1)
    first = (output * mass).sum(axis=1) + cut * population.most
    variances: Grid = (output**2 * mass).sum(axis=1) + cut * population.most**2 - first**2
    return variances


def main(seeds: int = 100) -> None:
    """Print for each population how many seeds' intervals held, and their mean width relative to the best possible."""
    for population in POPULATIONS:
        trials = [trial(population, seed) for seed in range(seeds)]
        held, width = sum(held for held, _ in trials), sum(width for _, width in trials) / seeds
        sys.stdout.write(f"{population}: held {held} of {seeds}, {width:.2f} times the best width\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
