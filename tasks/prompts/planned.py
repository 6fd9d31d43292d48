"""The rows of a plan that are to be sent, as a pilot needs them: their places and their lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from parquill.tasks.money.sample import Pick
from parquill.tasks.prompts.run import Run
from parquill.tasks.records import ShardRef


class PlannedPart(NamedTuple):
    """The rows of one shard that are to be sent, in order: their numbers in the shard and their prompt tokens."""

    shard: ShardRef
    numbers: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]


class Located(NamedTuple):
    """One row of a plan that is to be sent."""

    shard: ShardRef
    number: int
    prompt_tokens: int


def planned_parts(run: Run) -> Iterator[PlannedPart]:
    """Yield the rows to be sent, shard by shard. Raises DiskFailed."""
    for shard in run.shards:
        if shard.to_send:
            with run.open_shard(shard) as rows:
                yield PlannedPart(shard, *rows.lengths())


def count_lengths(tokens: npt.NDArray[np.int64]) -> Counter[int]:
    """Return prompt tokens -> number of rows."""
    lengths, rows = np.unique(tokens, return_counts=True)
    return Counter(dict(zip(lengths.tolist(), rows.tolist(), strict=True)))


def locate(run: Run, picks: Sequence[Pick]) -> list[Located]:
    """Find the chosen rows, in the order in which they were chosen."""
    wanted = set(picks)
    lengths = np.array(sorted({pick.prompt_tokens for pick in picks}), dtype=np.int64)
    passed: Counter[int] = Counter()
    found: dict[Pick, Located] = {}
    for shard, numbers, tokens in planned_parts(run):
        here = np.isin(tokens, lengths)
        for number, length in zip(numbers[here].tolist(), tokens[here].tolist(), strict=True):
            pick = Pick(length, passed[length])
            passed[length] += 1
            if pick in wanted:
                found[pick] = Located(shard, number, length)
    return [found[pick] for pick in picks]
