"""Approximate token counts are corrected by what answers report, and a reservation is never too low."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import asdict

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parquill.tasks.money.calibration import MIN_ANSWERS, Calibration, CountComparison, allowance
from parquill.tasks.money.tokens import TokenCounter
from parquill.tasks.results.count_figures import compared_json, counted_line, worst_line

LENGTHS = st.lists(st.integers(1, 20_000), min_size=1, max_size=60)


def _compare(counts: Iterable[int], law: Callable[[int], int]) -> CountComparison:
    found = CountComparison()
    for row_number, counted in enumerate(counts):
        found.add(counted, law(counted), "a.parquet", row_number)
    return found


def _learn(counts: Iterable[int], law: Callable[[int], int]) -> Calibration:
    learned = Calibration.learn(_compare(counts, law).classes)
    assert learned is not None
    return learned


@pytest.mark.parametrize(("ratio", "overhead"), [(1.17, 5), (0.8, 0), (2.4, 30), (1.0, 300), (1.3, -4)])
def test_an_affine_law_is_found(ratio: float, overhead: int) -> None:
    """Whatever overhead and ratio a tokenizer has, lengths that were not seen are predicted within a hundredth."""
    chance = random.Random(7)

    def law(counted: int) -> int:
        return max(1, round(ratio * counted + overhead))

    learned = _learn((chance.randint(20, 400) for _ in range(300)), law)
    others = [chance.randint(100, 3_000) for _ in range(300)]
    expected, reported = sum(map(learned.expected, others)), sum(map(law, others))
    assert expected == pytest.approx(reported, rel=0.01)


def test_equal_lengths_tell_a_ratio() -> None:
    """If all prompts are about equally long, a ratio without an overhead is learned and predicts the same prompts."""
    learned = _learn([100, 101, 102] * 20, lambda counted: counted + 17)
    assert learned.overhead == 0.0
    assert learned.expected(101) == pytest.approx(118, rel=0.001)


def test_few_answers_correct_nothing() -> None:
    """Fewer than ten answers leave the expectation as counted, but their excess is reserved from the first one on."""
    learned = _learn([50] * (MIN_ANSWERS - 1), lambda counted: 3 * counted)
    counter = TokenCounter("house-model", correction=learned)
    assert counter.expected(50) == 50
    assert counter.reserved(50) == 150
    assert counter.note(100, 100.0) == "approximate: the model's own tokenizer is not public"
    assert Calibration.learn({}) is None


@given(LENGTHS, st.integers(0, 3_000), st.floats(0.2, 7))
def test_what_was_seen_is_reserved(counts: list[int], overhead: int, ratio: float) -> None:
    """A prompt that was seen is never reserved below what was reported for it, nor below the allowance."""

    def law(counted: int) -> int:
        return int(ratio * counted) + overhead + counted % 7

    learned = _learn(counts, law)
    for counted in counts:
        assert learned.reserved(counted) >= max(law(counted), allowance(counted))


def test_longer_prompts_than_seen_are_reserved() -> None:
    """A tokenizer of twice the tokens is reserved for at lengths that were never seen, longer and shorter."""
    learned = _learn(range(100, 140), lambda counted: 2 * counted + 40)
    for counted in (1, 20, 60, 400, 5_000, 50_000):
        assert learned.reserved(counted) >= 2 * counted + 40 or counted < 60
        assert learned.reserved(counted) <= 3 * counted + 120


def test_an_absurd_reply_teaches_nothing() -> None:
    """A reply with a million prompt tokens is shown as the worst row, but raises no later reservation."""
    found = _compare([100] * 50, lambda counted: counted)
    found.add(100, 1_000_000, "b.parquet", 3)
    learned = Calibration.learn(found.classes)
    assert learned is not None
    assert learned.reserved(100) == allowance(100)
    assert learned.expected(100) == 100
    assert found.worst is not None
    assert (found.worst.source_file, found.worst.row_number, found.reported) == ("b.parquet", 3, 1_005_000)


def test_a_correction_survives_its_plan() -> None:
    """A correction that is written into a plan is read back unchanged."""
    learned = _learn(range(10, 900, 7), lambda counted: round(1.7 * counted) + 3)
    assert Calibration.from_json(orjson.loads(orjson.dumps(asdict(learned)))) == learned


def test_an_exact_count_is_never_corrected() -> None:
    """The counts of a model's own encoding are exact: what was learned changes no expectation and no reservation."""
    counter = TokenCounter("gpt-4o-mini", correction=_learn(range(10, 90), lambda counted: 3 * counted))
    assert (counter.expected(70), counter.reserved(70), counter.note(70, 70.0)) == (70, 70, "")


def test_the_correction_is_told() -> None:
    """An estimate with a correction shows the factor and the number of answers behind it."""
    counter = TokenCounter("house-model", correction=_learn(range(100, 1_300), lambda counted: round(1.08 * counted)))
    expected = counter.expected(1_000)
    assert counter.note(1_000, expected) == "approximate, corrected by 1.08 from 1,200 answers"


@pytest.mark.parametrize(
    ("law", "exact", "words"),
    [
        (lambda counted: counted + 1, True, None),
        (lambda counted: round(1.2 * counted), True, "20.0% more prompt tokens than counted by the encoding of m: it"),
        (lambda counted: round(0.9 * counted), True, "10.0% fewer prompt tokens"),
        (lambda counted: round(1.2 * counted), False, "cl100k_base only stands in for the tokenizer of m; the next"),
    ],
)
def test_a_difference_is_explained(law: Callable[[int], int], exact: bool, words: str | None) -> None:  # noqa: FBT001
    """A difference of more than one percent is shown with its meaning; a smaller one is not explained."""
    comparison = compared_json(_compare(range(200, 400), law), model="m", encoding="cl100k_base", exact=exact)
    if words is None:
        assert comparison["meaning"] is None
    else:
        assert words in comparison["meaning"]


def test_the_worst_row_is_named() -> None:
    """The comparison shows both sums, their difference and the row that was farthest off."""
    comparison = compared_json(_compare([100, 200, 1_000], lambda c: c + 10), model="m", encoding="e", exact=True)
    assert comparison["worst_row"] == {
        "source_file": "a.parquet",
        "row_number": 0,
        "prompt_tokens_counted": 100,
        "prompt_tokens_reported": 110,
        "deviation": 0.1,
    }
    assert counted_line(comparison) == "counted 1,300, reported 1,330 (+2.31%)"
    assert worst_line(comparison) == "a.parquet, row 0: counted 100, reported 110 (+10%)"
    empty = compared_json(CountComparison(), model="m", encoding="e", exact=True)
    assert (counted_line(empty), worst_line(empty)) == ("counted 0, reported 0 (+0.00%)", "")
