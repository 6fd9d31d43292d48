"""Statistics of the answers of a job, model and prompt, kept to predict the length of the next answers.

They are small. For each class of input length (eight per doubling) they hold the number of answers, the sums of their
output tokens and of the squares, and the sums of the logarithms of those that were not cut at max_output_tokens. They
also hold how many prompt tokens were counted, reported, read from a cache and written to one, since the reported tokens
are the ones that are paid, and how long the answers took, to predict how long a run takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from parquill.tasks.records import Usage

CLASSES_A_DOUBLING = 8
OUTPUT_BINS_A_DOUBLING = 4  # of output tokens, for the report's chart


def length_class(prompt_tokens: int) -> int:
    """The class of an input length; class 0 is one token."""
    return int(CLASSES_A_DOUBLING * math.log2(max(1, prompt_tokens)))


def output_bin(output_tokens: int) -> int:
    """The bin of an output length in a chart; bin 0 begins at one token."""
    return int(OUTPUT_BINS_A_DOUBLING * math.log2(max(1, output_tokens)) + 1e-9)


def middle_of(number: int) -> float:
    """The logarithm of the input length in the middle of a class."""
    return (number + 0.5) / CLASSES_A_DOUBLING * math.log(2.0)


@dataclass(slots=True)
class LengthStats:
    """Answers of one class: how many, sums over output tokens as billed, and over the logarithms of those not cut."""

    count: int = 0
    total: int = 0
    squares: int = 0
    cut: int = 0
    logs: float = 0.0
    log_squares: float = 0.0
    counted: int = 0  # prompt tokens: as counted, as reported, and of these read from and written to a cache
    prompt: int = 0
    cached: int = 0
    cache_write: int = 0
    timed: int = 0  # answers whose latency is known, and the sum of these latencies
    seconds: float = 0.0

    def add(self, usage: Usage, *, cut: bool, counted: int, latency_s: float | None = None) -> None:
        """Add one answer to a prompt of `counted` tokens; `cut` means that max_output_tokens ended the answer."""
        if latency_s is not None:
            self.timed += 1
            self.seconds += latency_s
        output_tokens = usage.completion
        self.count += 1
        self.counted += counted
        self.prompt += usage.prompt
        self.cached += usage.cached
        self.cache_write += usage.cache_write
        self.total += output_tokens
        self.squares += output_tokens * output_tokens
        if cut:
            self.cut += 1
        else:
            log = math.log(max(1, output_tokens))
            self.logs += log
            self.log_squares += log * log

    def merge(self, other: LengthStats) -> None:
        """Add the answers of another run."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class History:
    """Classes of answers; `runs` is the number of finished runs behind them, 0 for a pilot or a run under way."""

    classes: dict[int, LengthStats] = field(default_factory=dict)
    runs: int = 0

    def add(self, prompt_tokens: int, usage: Usage, max_output_tokens: int, latency_s: float | None = None) -> None:
        """Add one answer, with its prompt tokens as counted, its usage as the service reported it, and its latency."""
        seen = self.classes.setdefault(length_class(prompt_tokens), LengthStats())
        seen.add(usage, cut=usage.completion >= max_output_tokens, counted=prompt_tokens, latency_s=latency_s)

    @property
    def count(self) -> int:
        """The number of answers."""
        return sum(seen.count for seen in self.classes.values())


def merge(histories: Iterable[History]) -> History:
    """Return all answers of several runs together."""
    whole = History()
    for history in histories:
        whole.runs += history.runs
        for number, seen in history.classes.items():
            whole.classes.setdefault(number, LengthStats()).merge(seen)
    return whole
