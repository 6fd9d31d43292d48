"""Which endpoint gets a request, decision by decision."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from parquill.tasks.llm.by_weight import MAX_CATCH_UP, MAX_REST_S, ByWeight
from parquill.tasks.llm.channel import Channel
from parquill.tasks.llm.outcomes import TABLE

AT_ONCE = 8


class _Limits:
    """Limits with a wait that the test sets."""

    def __init__(self) -> None:
        self.wait = self.head_wait_s = 0.0

    def wait_s(self, tokens: int) -> float:
        assert tokens == 10
        return self.wait


class _Breaker:
    """A breaker whose state the test sets."""

    def __init__(self) -> None:
        self.is_open = self.is_taken = False
        self.under_way, self.wait = 0, 0.0

    def is_full(self, _now: float) -> bool:
        return self.is_taken

    def wait_s(self, _now: float, _tokens: int) -> float:
        return self.wait


def _channel(label: str) -> Any:
    return SimpleNamespace(label=label, limits=_Limits(), breaker=_Breaker(), release_waiting=lambda: None)


class _Two:
    """A route to the endpoints a and b."""

    def __init__(self, *weights: float) -> None:
        self.a, self.b = _channel("a"), _channel("b")
        self.time = SimpleNamespace(now=1_000.0)
        channels = cast("list[Channel]", [self.a, self.b])
        self.route = ByWeight(channels, weights or (1, 1), AT_ONCE, lambda: self.time.now)
        self.warnings: list[str] = []
        self.route.warn = self.warnings.append

    def labels(self, count: int, failed: Any = None) -> str:
        return "".join(self.route.choose(10, failed).channel.label for _ in range(count))

    def refuse(self, channel: Any) -> bool:
        return self.route.give_up(channel, TABLE["not_authorized"], "bad key")


def test_shares_follow_the_weights() -> None:
    """Each endpoint gets its share, evenly spread."""
    assert _Two(3, 1).labels(8) == "aabaaaba"
    assert _Two(1, 1).labels(4) == "abab"


def test_an_endpoint_catches_up() -> None:
    """An endpoint that had no room for a while gets its share afterwards, but no more than a hundred requests."""
    two = _Two(1, 1)
    two.a.limits.wait = 1.0
    assert two.labels(10) == "b" * 10
    two.a.limits.wait = 0.0
    assert two.labels(12) == "a" * 10 + "ab"
    two.a.limits.wait = 1.0
    two.labels(1_000)
    two.a.limits.wait = 0.0
    assert two.labels(2 * MAX_CATCH_UP).index("b") in {MAX_CATCH_UP, MAX_CATCH_UP + 1}


def test_the_soonest_gets_the_request() -> None:
    """If no endpoint has room now, a request waits where it can leave first."""
    two = _Two(9, 1)
    two.a.limits.wait, two.b.limits.wait = 5.0, 2.0
    assert two.labels(3) == "bbb"


def test_requests_that_wait_leave_an_endpoint() -> None:
    """A waiting request chooses again once its endpoint is down, or another one can take it at once."""
    two = _Two()
    way = two.route.choose(10)
    assert way.channel.label == "a"
    assert way.is_rerouted is not None
    assert not way.is_rerouted()
    two.a.limits.wait = two.a.limits.head_wait_s = 3.0
    assert way.is_rerouted()
    two.b.limits.wait = 1.0
    assert not way.is_rerouted()
    two.a.breaker.is_open = True
    assert way.is_rerouted()
    two.a.breaker.is_open = False
    assert two.refuse(two.a)
    assert way.is_rerouted()
    two.b.breaker.is_open = True
    assert not way.is_rerouted()  # there is no better place


def test_each_endpoint_keeps_to_its_places_while_others_have_room() -> None:
    """An endpoint that has its share of the requests under way gets no more, unless the other one has no room."""
    two = _Two(3, 1)
    two.a.breaker.under_way = 5
    waiting = two.route.choose(10)
    assert (waiting.channel.label, waiting.is_rerouted is not None and waiting.is_rerouted()) == ("a", False)
    two.a.breaker.under_way = 6
    assert two.labels(4) == "bbbb"
    assert waiting.is_rerouted is not None
    assert waiting.is_rerouted()
    two.b.breaker.under_way = 2
    assert not waiting.is_rerouted()
    two.b.limits.wait = 1.0
    assert two.labels(4) == "aaaa"


def test_only_one_request_waits_for_an_endpoint_that_is_down() -> None:
    """A request that was to try an endpoint goes elsewhere if another request tries it, or it is too early."""
    two = _Two()
    two.a.breaker.is_open = True
    way = two.route.choose(10)
    assert (way.channel.label, way.is_rerouted is not None and way.is_rerouted()) == ("a", False)
    assert way.is_rerouted is not None
    two.a.breaker.is_taken = True
    assert way.is_rerouted()
    assert two.labels(2) == "bb"
    two.b.breaker.is_open = True
    assert not way.is_rerouted()  # there is no better place
    two.b.breaker.is_open, two.a.breaker.is_taken, two.a.breaker.wait = False, False, 2.0
    assert way.is_rerouted()
    assert two.labels(2) == "bb"


def test_a_request_leaves_only_for_an_endpoint_that_it_may_choose() -> None:
    """A request that failed at an endpoint, or is too expensive there, does not leave another one for it."""
    two = _Two()
    two.b.limits.wait = two.b.limits.head_wait_s = 3.0
    way = two.route.choose(10, cast("Channel", two.a))
    assert (way.channel.label, way.is_rerouted is not None and way.is_rerouted()) == ("b", False)
    two.route.cannot_pay(cast("Channel", two.a))
    way = two.route.choose(10)
    assert (way.channel.label, way.is_rerouted is not None and way.is_rerouted()) == ("b", False)


def test_a_failed_request_takes_another_endpoint() -> None:
    """A request does not go back to the endpoint where it failed, unless that is the only one that is up."""
    two = _Two()
    assert two.labels(4, failed=two.a) == "bbbb"
    assert two.refuse(two.b)
    assert two.labels(2, failed=two.a) == "aa"


def test_rests_grow() -> None:
    """An endpoint that refuses is tried by one request after a minute, then at intervals that double to a quarter hour."""
    two = _Two()
    assert two.refuse(two.a)
    assert (two.route.is_down, two.labels(3)) == (False, "bbb")
    tries = []
    for second in range(1, 4_000):
        two.time.now = 1_000.0 + second
        if "a" in two.labels(2):
            tries.append(second)
            two.refuse(two.a)
    assert tries == [60, 180, 420, 900, 1_800, 2_700, 3_600]
    assert MAX_REST_S == 900
    assert len(two.warnings) == 1
    two.time.now += 10
    two.route.answered(cast("Channel", two.a), latency_s=5.0)
    assert "a" in two.labels(2)
    assert two.warnings[1:] == ["the endpoint a answers again"]


def test_an_answer_from_before_the_rest_ends_nothing() -> None:
    """Only the answer to a request that left after an endpoint was left brings it back."""
    two = _Two()
    assert two.refuse(two.a)
    two.time.now += 5
    two.route.answered(cast("Channel", two.a), latency_s=6.0)
    assert two.labels(3) == "bbb"
    two.route.answered(cast("Channel", two.a), latency_s=4.0)
    assert "a" in two.labels(2)


def test_an_endpoint_that_fails_is_tried_when_its_breaker_lets_a_request_through() -> None:
    """While an endpoint fails at every request, it gets a request only when its limits have room for a try."""
    two = _Two()
    two.a.breaker.is_open = True
    two.a.limits.wait = 4.0
    assert two.labels(3) == "bbb"
    two.a.limits.wait = 0.0
    assert two.labels(1) == "a"
    assert two.labels(1, failed=two.a) == "b"
    two.b.breaker.is_open = True
    two.a.limits.wait = two.b.limits.wait = 4.0
    assert two.route.is_down
    assert two.labels(1) in "ab"


def test_the_last_endpoint_is_not_left() -> None:
    """The run stops when the last endpoint takes nothing more."""
    two = _Two()
    assert two.refuse(two.a)
    assert not two.refuse(two.b)
    assert len(two.warnings) == 1


@pytest.mark.parametrize("seconds", [0, 61])
def test_an_endpoint_that_is_too_expensive(seconds: float) -> None:
    """If the budget has no room for a request at one endpoint, requests go to another one for a minute."""
    two = _Two()
    assert two.route.cannot_pay(cast("Channel", two.a))
    two.time.now += seconds
    assert ("a" in two.labels(4)) == (seconds > 60)
    assert two.route.cannot_pay(cast("Channel", two.b)) == (seconds > 60)
