"""The quota of enqueued tokens, set or learned."""

from __future__ import annotations

from pathlib import Path

import pytest

from parquill.tasks.llm.token_quota import TokenQuota

MESSAGE = "Enqueued token limit reached for m. Limit: 2,000 enqueued tokens. Please try again."


@pytest.mark.parametrize(
    ("waiting", "tokens", "message", "room"),
    [
        (0, 5_000, MESSAGE, 2_000),
        (0, 5_000, "Too many tokens", 2_500),
        (0, 1_500, MESSAGE, 750),  # another program uses the quota, too
        (3_000, 1_000, "Too many tokens", 0),  # wait for the own batches
        (1_500, 1_000, MESSAGE, 500),
    ],
)
def test_a_refusal_teaches(tmp_path: Path, waiting: int, tokens: int, message: str, room: int) -> None:
    """After a refusal, as many tokens may wait as the service names, or half of what was tried."""
    quota = TokenQuota(None, tmp_path / "quota.json")
    assert quota.has_room(10**12, is_first=False)
    if waiting:
        quota.open("a", waiting)
    quota.learn(tokens, message)
    again = TokenQuota(None, tmp_path / "quota.json")
    if waiting:
        again.open("a", waiting)
    for known in (quota, again):
        assert known.has_room(room, is_first=False)
        assert not known.has_room(room + 1, is_first=False)
        assert known.has_room(room + 1, is_first=True) == (not waiting)
    quota.close("a")
    assert quota.waiting == 0


def test_a_quota_that_is_set(tmp_path: Path) -> None:
    """The job's own limit holds, and a refusal does not change it."""
    quota = TokenQuota(100, tmp_path / "quota.json")
    quota.open("a", 40)
    quota.learn(60, MESSAGE)
    assert quota.has_room(60, is_first=False)
    assert not quota.has_room(61, is_first=True)
    assert not (tmp_path / "quota.json").exists()
