"""What a refusal in a batch means for its row."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from parquill.tasks.llm.batch_collector import BatchCollector, Fate
from parquill.tasks.llm.outcomes import TABLE
from parquill.tasks.llm.reply_reader import NO_HEADERS, Result
from parquill.tasks.storage.replay import Sent


class _Settlement:
    """Notes what is recorded."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    async def record_failure(self, *_: object) -> None:
        pass

    async def fail(self, _: object, rule: Any, __: str) -> None:
        self.failed.append(rule.code)


@pytest.mark.parametrize(("sent_as", "renames"), [("max_tokens", True), ("max_completion_tokens", False)])
def test_the_other_name_is_tried_once(sent_as: str, renames: bool) -> None:  # noqa: FBT001 - parametrized
    """M7: A refusal of the first name of max_output_tokens leaves the row open; one of the other name refuses it."""
    settlement: Any = _Settlement()
    names: list[str] = []
    api: Any = SimpleNamespace(limit="max_tokens")
    attempts: Any = SimpleNamespace(holds=lambda _: False, are_used_up=lambda *_, **__: False)
    collector = BatchCollector(api, settlement, attempts, lambda *_: None, names.append)
    charged: list[bool] = []
    state = SimpleNamespace(requests=1, failures=0, throttled=0, settle=lambda _: Sent(5))
    step: Any = SimpleNamespace(reserve_nano=7, state=state, uncharge=lambda: charged.append(False))
    result = Result(TABLE["bad_request"], "refused", None, NO_HEADERS, None, limit_name="another")
    asyncio.run(collector.collect(step, result, Fate(sent_as, is_evidence=False, is_ours=False)))
    assert (names, charged, settlement.failed) == ((["another"], [False], []) if renames else ([], [], ["bad_request"]))
    assert step.reserve_nano == 7
