"""Predicting the length of answers from those of an earlier night."""

from __future__ import annotations

import math
import random

import pytest

from parquill.tasks.money.lengths import History, LengthModel, merge


def _night(draw: random.Random, rows: int, sigma: float, most: int) -> list[tuple[int, int]]:
    """Input and output tokens of a night: log-normal output that grows with the input, cut at `most`."""
    night = []
    for _ in range(rows):
        prompt = max(1, int(draw.lognormvariate(5.5, 0.6)))
        output = int(math.exp(0.8 + 0.7 * math.log(prompt) + draw.gauss(0, sigma)))
        night.append((prompt, max(1, min(most, output))))
    return night


def _learn(night: list[tuple[int, int]]) -> History:
    history = History(runs=1)
    for prompt, output in night:
        history.add(prompt, output)
    return history


@pytest.mark.parametrize("sigma", [0.3, 0.5, 0.8])
def test_one_night_predicts_the_next(sigma: float) -> None:
    """After one night the expected output of the next is within 3 % of the actual in 95 of 100 seeds."""
    good = 0
    for seed in range(100):
        draw = random.Random(seed)
        model = LengthModel(_learn(_night(draw, 4_000, sigma, 300)), 300)
        night = _night(draw, 4_000, sigma, 300)
        expected = sum(model.expected(prompt) for prompt, _ in night)
        actual = sum(output for _, output in night)
        good += abs(expected / actual - 1) <= 0.03
    assert good >= 95


def test_other_lengths_than_were_seen() -> None:
    """A night with inputs twice as long is predicted along the line, not by last night's mean."""
    draw = random.Random(1)
    model = LengthModel(_learn(_night(draw, 4_000, 0.3, 10_000)), 10_000)
    longer = [math.exp(0.8 + 0.7 * math.log(prompt) + 0.3**2 / 2) for prompt in (2_000, 4_000, 8_000)]
    for prompt, mean in zip((2_000, 4_000, 8_000), longer, strict=True):
        assert model.expected(prompt) == pytest.approx(mean, rel=0.25)


def test_never_more_than_the_most() -> None:
    """No prediction exceeds max_output_tokens, which bounds what a request can cost."""
    history = History()
    history.add(100, 900)
    assert LengthModel(history, 50).expected(100_000) == 50


def test_few_answers_are_enough_for_a_number() -> None:
    """One answer gives a level line, and nothing divides by zero."""
    history = History()
    history.add(10, 7)
    model = LengthModel(history, 100)
    assert model.expected(10) == pytest.approx(7)
    assert model.expected(1_000) == pytest.approx(7)
    assert model.deviation(10, 70) > 0


def test_histories_add_up() -> None:
    """Two runs together say the same as one run over all their answers."""
    draw = random.Random(2)
    first, second = _night(draw, 500, 0.5, 300), _night(draw, 700, 0.5, 300)
    both = merge([_learn(first), _learn(second)])
    assert both.count == 1_200
    assert both.runs == 2
    assert LengthModel(both, 300).expected(200) == pytest.approx(LengthModel(_learn(first + second), 300).expected(200))
