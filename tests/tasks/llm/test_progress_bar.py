"""What a terminal and a notebook show while a run is under way."""

from __future__ import annotations

import pytest

from parquill.tasks.llm.progress_bar import format_rate


@pytest.mark.parametrize(
    ("per_second", "shown"),
    [(0.0, "0 rows/min"), (0.27, "16 rows/min"), (9.9, "594 rows/min"), (10.0, "10 rows/s"), (2321.4, "2,321 rows/s")],
)
def test_a_slow_rate_is_shown_by_the_minute(per_second: float, shown: str) -> None:
    """If a model completes a row every few seconds, its rate is shown per minute and not as 0 rows/s."""
    assert format_rate(per_second) == shown
