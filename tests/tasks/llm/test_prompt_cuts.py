"""Parquill finds prompts that the server cut by a run's usage, and never marks a row whose count is only high."""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

import pytest

from parquill.tasks.llm.outcomes import TABLE
from parquill.tasks.llm.progress import Progress
from parquill.tasks.llm.prompt_cuts import CERTAIN_ROWS, PromptCuts
from parquill.tasks.llm.replies import Reply
from parquill.tasks.llm.settlement import Settlement
from parquill.tasks.llm.tier_check import TierCheck
from parquill.tasks.llm.unit import OpenShard, Step
from parquill.tasks.money.budget import Budget
from parquill.tasks.money.model_price import ModelPrice, PriceBand
from parquill.tasks.records import Outcome, Usage
from parquill.tasks.results.reply_warnings import reply_sentences
from parquill.tasks.results.totals import ResultTotals
from parquill.tasks.storage.journal import Journal
from parquill.tasks.storage.replay import ShardState


def _cut(figures: list[tuple[int, int]], max_output_tokens: int = 50) -> list[bool]:
    cuts = PromptCuts(max_output_tokens)
    return [cuts.is_cut(expected, reported) for expected, reported in figures]


@pytest.mark.parametrize("window", [2_048, 4_096, 8_192, 32_768, 4_095, 4_096 - 50])
def test_a_context_of_a_power_of_two_is_found_at_once(window: int) -> None:
    """If the context is a power of two, every cut prompt of any length is marked, even the first.

    Short ones are not.
    """
    chance = random.Random(3)
    lengths = [chance.randint(20, 9 * window) for _ in range(300)]
    found = _cut([(length, min(length, window)) for length in lengths])
    assert found == [length * 0.8 >= window for length in lengths]


@pytest.mark.parametrize("window", [6_000, 10_000, 12_288, 5_120])
def test_another_round_context_is_found_from_the_third_row_on(window: int) -> None:
    """If the context is another round number, it is certain after the figure has come three times."""
    found = _cut([(2 * window + 1_000 * n, window) for n in range(10)])
    assert found == [False] * (CERTAIN_ROWS - 1) + [True] * (10 - CERTAIN_ROWS + 1)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75, 0.9, 1.0, 1.3, 2.0])
def test_a_count_that_is_off_is_no_cut(ratio: float) -> None:
    """A tokenizer that counts fewer tokens marks at most 2 of 100,000 rows of all lengths."""
    chance = random.Random(5)
    cuts = PromptCuts(50)
    lengths = [chance.randint(1, 20_000) for _ in range(100_000)]
    assert sum(cuts.is_cut(length, round(ratio * length)) for length in lengths) <= 2


def test_equal_prompts_of_equal_length_are_no_cut() -> None:
    """The same figure in every row does not prove a cut, because prompts can have the same length."""
    assert not any(_cut([(7_512, 4_099)] * 100))
    assert not any(_cut([(7_512, 5_000)] * 100))
    assert not any(_cut([(4_200, 4_096)] * 100))  # slightly fewer than counted


def test_a_longer_prompt_that_was_read_shows_that_none_was_cut() -> None:
    """If any reply reports a higher figure, the lower figure is not a limit."""
    assert _cut([(9_000, 9_000), (7_512, 4_096), (7_512, 4_096)]) == [False, False, False]


class _Records:
    """A journal that accepts every record."""

    def append(self, _record: Any) -> asyncio.Future[None]:
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


def _settle(code: str, prompt_tokens: int, expected: float) -> Outcome:
    price = ModelPrice("m", (PriceBand(0, 1, 1, 1, 1),), None, "a test", "today")
    settlement = Settlement(price, Budget(None), Progress(), None, PromptCuts(50), TierCheck(price, 50))
    state = ShardState()
    row = Step(OpenShard(cast("Journal", _Records()), state), 0, "0", "[]", None, 10, 5, expected)
    reply = Reply(code, "A summary", "stop", None, None, Usage(prompt_tokens, 0, 0, 5, 0))

    async def settle() -> None:
        await settlement.settle(row, TABLE[code], reply, 1.0)

    asyncio.run(settle())
    return state.outcomes[0]


@pytest.mark.parametrize("code", ["ok", "max_output_tokens", "context_window"])
def test_the_row_is_marked_and_its_answer_kept(code: str) -> None:
    """A row with a cut prompt is truncated and says how much was read and what to do. Its usage is not learned from."""
    found = _settle(code, 4_096, 7_512.0)
    assert (found.status, found.error_code, found.completion) == ("truncated", "prompt_cut", "A summary")
    assert found.error_message is not None
    assert "read 4,096 of about 7,512 prompt tokens" in found.error_message
    assert "num_ctx" in found.error_message
    assert found.lesson is None
    assert found.usage == Usage(4_096, 0, 0, 5, 0)


@pytest.mark.parametrize(("code", "status"), [("refusal", "refused"), ("empty", "failed")])
def test_what_is_no_answer_stays_what_it_is(code: str, status: str) -> None:
    """A refused or empty answer to a cut prompt keeps its status."""
    assert _settle(code, 4_096, 7_512.0).status == status


def test_other_rows_teach() -> None:
    """Parquill learns from the usage of a whole prompt."""
    found = _settle("ok", 4_100, 4_096.0)
    assert (found.status, found.lesson) == ("ok", found.usage)


def test_the_warning_says_how_many_rows_and_what_to_do() -> None:
    """The warning names the number of rows, the figure, and the setting that raises the context."""
    sums = ResultTotals()
    tokens = dict.fromkeys((f"{kind}_tokens" for kind in Usage._fields), 0)
    for number in range(40):
        line = {
            **tokens, "status": "truncated", "error_code": "prompt_cut", "run_id": "r", "reused": number > 30,
            "read_tokens": 4_096 if number <= 30 else None, "cost_nano": 0, "in_doubt_nano": 0, "latency_s": None,
            "source_file": "a", "row_number": number, "error_message": "x", "finish_reason": "stop",
        }  # fmt: skip
        sums.add(line, (), (), "r")
    assert sums.prompts_cut_at == {"4096": 31}
    (sentence,) = reply_sentences({"errors": sums.errors, "prompts_cut_at": sums.prompts_cut_at})
    assert sentence.startswith("warning: the server cut the prompts of 40 rows after 4,096 tokens")
    assert "OLLAMA_CONTEXT_LENGTH" in sentence
    assert "--redo truncated" in sentence
