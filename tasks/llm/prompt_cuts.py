"""Finds prompts that the server cut silently, as Ollama does with prompts longer than its context (4,096 tokens).

Such a server answers with HTTP 200 and a good finish reason. Only its usage shows the cut: every longer prompt is
reported with the same round figure, far below our count, and no prompt with more. So a prompt counts as cut when

- the reported prompt tokens are at most FAR_BELOW of the expected ones,
- no earlier reply reported more, and
- the figure is a power of two (also with one token or the output limit left free), or another round figure that came
  CERTAIN_ROWS times for prompts of different lengths: a context length that a person has set.

A figure that is not a power of two is certain from the third row on, so up to two rows stay `ok`. A false alarm needs a
prompt whose count is a fifth too high and which has exactly such a length: once in thousands of rows, and only among
the longest of its run.
"""

from __future__ import annotations

FAR_BELOW = 0.8
MIN_TOKENS = 256  # no server has a smaller context
ROUND = (256, 500)
CERTAIN_ROWS = 3
DIFFERENT = 1.02  # prompts of one length have the same figure anyway
MAX_FIGURES = 1_000


class PromptCuts:
    """Compares the prompt tokens that the replies of one run report, in one process."""

    def __init__(self, max_output_tokens: int) -> None:
        self._free = (0, 1, max_output_tokens)  # tokens of the context that a server may leave out of the prompt
        self._most = 0
        self._rows: dict[int, tuple[int, float, float]] = {}  # figure -> rows, least and most expected tokens

    def is_cut(self, expected: float, reported: int) -> bool:
        """Whether the server cut a prompt, by its expected and its reported tokens."""
        is_longest = reported >= self._most
        self._most = max(self._most, reported)
        # promise: answers: a longer prompt that was read in full rules out truncation
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
    """Return the message of a row whose prompt was cut."""
    return (
        f"the server read {reported:,} of about {expected:,.0f} prompt tokens and cut the rest: raise its context "
        "length (Ollama: OLLAMA_CONTEXT_LENGTH, or num_ctx in the Modelfile)"
    )
