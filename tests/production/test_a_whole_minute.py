"""Limits over real minutes."""

from __future__ import annotations

from pathlib import Path

from tests.tasks.wire.test_limits_llmock import hold_limits


def test_a_bucket_that_holds_a_minute(tmp_path: Path) -> None:
    """At a service's limits no request is answered 429 after the first second, over more than a whole minute: llmock's bucket holds one, so only a longer run can empty it."""
    hold_limits(tmp_path, 1_200, 400_000, 70)
