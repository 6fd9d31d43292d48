"""Finds prompts that the server cut without a word, as Ollama does with those longer than its context (4,096 tokens).

Such a server answers with HTTP 200 and a good finish reason; only its usage shows it: every longer prompt is reported
with the same round figure, far below what was counted, and no prompt with more. So a reply counts as cut when

- its prompt tokens are at most FAR_BELOW of what was expected of the prompt,
- no reply before reported more, and
- the figure is a power of two (with one token or the output limit left free, too), or any other round figure that came
  CERTAIN_ROWS times, for prompts of different lengths: a context length that a person has set.

A figure that is no power of two is certain from the third row on, so up to two rows stay `ok`. By chance a prompt whose
count is a fifth too high has just such a length once in thousands of rows, and only among the longest of its run.
"""

from __future__ import annotations

FAR_BELOW = 0.8
MIN_TOKENS = 256  # no server has a smaller context
ROUND = (256, 500)
CERTAIN_ROWS = 3
DIFFERENT = 1.02  # prompts of one length may well have the same figure
MAX_FIGURES = 1_000


class PromptCuts:
    """What the replies of one run, in one process, report of their prompts."""

    def __init__(self, max_output_tokens: int) -> None:
        self._free = (0, 1, max_output_tokens)  # tokens of the context that a server may leave out of the prompt
        self._most = 0
        self._rows: dict[int, tuple[int, float, float]] = {}  # figure -> rows, least and most that was expected

    def is_cut(self, expected: float, reported: int) -> bool:
        """Whether the server cut a prompt of which so many tokens were expected, and are reported."""
        is_longest = reported >= self._most
        self._most = max(self._most, reported)
        if not is_longest or reported < MIN_TOKENS or reported > FAR_BELOW * expected:
            return False
        windows = [reported + free for free in self._free]
        if any(window & (window - 1) == 0 for window in windows):
            return True
        if not any(window % size == 0 for window in windows for size in ROUND):
            return False
        if len(self._rows) >= MAX_FIGURES:
            self._rows.clear()
        rows, least, most = self._rows.get(reported, (0, expected, expected))
        rows, least, most = rows + 1, min(least, expected), max(most, expected)
        self._rows[reported] = rows, least, most
        return rows >= CERTAIN_ROWS and most >= DIFFERENT * least


def cut_sentence(expected: float, reported: int) -> str:
    """The message of a row whose prompt was cut."""
    return (
        f"the server read {reported:,} of about {expected:,.0f} prompt tokens and cut the rest: raise its context "
        "length (Ollama: OLLAMA_CONTEXT_LENGTH, or num_ctx in the Modelfile)"
    )
