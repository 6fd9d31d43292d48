"""Choose the rows that a pilot completes: a sample that is stratified by input length, at whatever size it stops.

The rows lie on a line, ordered by their tokens, each as long as the square root of its tokens. Long rows decide the
cost, so they are chosen more often, but not so often that an output that does not depend on the input is badly sampled.
Points are set a golden section of the line apart, each in the widest gap that the earlier ones left (as in the
low-discrepancy sequence of H. Weyl, 1916), so that a pilot can be enlarged without starting over.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class Pick(NamedTuple):
    """A row, identified without reading it: its prompt tokens, and the number of rows of that length before it."""

    prompt_tokens: int
    place: int


def choose(rows: Mapping[int, int], most: int, start: float) -> list[Pick]:
    """Choose up to `most` of the rows (prompt tokens -> rows), in the order in which to complete them.

    `start`, from 0 to 1, is the first point on the line. It is fixed for a run, so that it chooses the same rows again.
    """
    lengths = sorted(rows)
    ends = list(itertools.accumulate(rows[tokens] * math.sqrt(max(1, tokens)) for tokens in lengths))
    total = sum(rows.values())
    chosen: dict[Pick, None] = {}
    for point in _points(start, 20 * min(most, total)):
        at = point * ends[-1]
        number = min(len(lengths) - 1, bisect.bisect(ends, at))
        tokens = lengths[number]
        before = ends[number - 1] if number else 0.0
        chosen.setdefault(Pick(tokens, min(rows[tokens] - 1, int((at - before) / math.sqrt(max(1, tokens))))))
        if len(chosen) >= min(most, total):
            return list(chosen)
    # nearly every row is wanted: the rows that no point met come last
    rest = (Pick(tokens, index) for tokens in lengths for index in range(rows[tokens]))
    for pick in rest:
        if len(chosen) >= min(most, total):
            break
        chosen.setdefault(pick)
    return list(chosen)


def _points(start: float, count: int) -> Iterator[float]:
    return ((start + number * GOLDEN) % 1.0 for number in range(count))
