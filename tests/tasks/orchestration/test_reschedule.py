"""A run that waits for its batches is started again: often at first, at last every quarter of an hour."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Self
from uuid import uuid4

import pytest
from prefect.exceptions import Pause
from prefect.states import Cancelled

from parquill.tasks.errors import WaitsForBatch
from parquill.tasks.orchestration import reschedule as module
from parquill.tasks.orchestration.reschedule import WAITING, away_s, reschedule


def test_the_time_between_two_starts_grows() -> None:
    """The first batches are often done soon; a whole day costs about a hundred starts."""
    times = [away_s(starts) for starts in range(1, 200)]
    assert times == sorted(times)
    assert 10 < times[0] < 60
    assert times[-1] == 900
    day = count = 0.0
    for seconds in times:
        day += seconds
        count += day < 86_400
    assert count < 120


class _Client:
    """A client of Prefect whose server takes a state, or answers with another one."""

    def __init__(self, answer: Any = None) -> None:
        self.proposed: list[Any] = []
        self.requests: list[Any] = []
        self._answer = answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def request(self, method: str, path: str, **more: Any) -> None:
        self.requests.append((method, path, more["json"]))

    def set_flow_run_state(self, _: Any, state: Any) -> Any:
        self.proposed.append(state)
        return SimpleNamespace(state=self._answer or state)


@pytest.fixture
def _flow_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "flow_run", SimpleNamespace(id=str(uuid4()), run_count=1))


@pytest.mark.usefixtures("_flow_run")
def test_the_state_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow run is Scheduled under its own name, with the sentence of what it waits for, and its process ends."""
    client = _Client()
    monkeypatch.setattr(module, "get_client", lambda **_: client)
    with pytest.raises(Pause):
        reschedule(WaitsForBatch("waiting for 1 batch"))
    (state,) = client.proposed
    assert (state.type.value, state.name, state.message) == ("SCHEDULED", WAITING, "waiting for 1 batch")
    # with the pid of a process, Prefect would wait five minutes for it when the run is cancelled
    assert client.requests == [("PATCH", "/flow_runs/{id}", {"infrastructure_pid": None})]


@pytest.mark.usefixtures("_flow_run")
def test_a_run_that_is_being_cancelled_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the server keeps another state, since a person has cancelled the run, it ends as interrupted."""
    client = _Client(Cancelled())
    monkeypatch.setattr(module, "get_client", lambda **_: client)
    assert "starts once more and cancels them" in str(reschedule(WaitsForBatch("waiting for 1 batch")))


@pytest.mark.usefixtures("_flow_run")
@pytest.mark.parametrize(("due_in_s", "away"), [(-60, 10), (5, 10), (12, 12), (3_600, 15)])
def test_a_run_with_a_deadline_is_started_in_time(
    monkeypatch: pytest.MonkeyPatch, due_in_s: float, away: float
) -> None:
    """A run that must look at its batches by some time is started again by then, but not at once."""
    client = _Client()
    monkeypatch.setattr(module, "get_client", lambda **_: client)
    began = datetime.now(UTC)
    with pytest.raises(Pause):
        reschedule(WaitsForBatch("waiting for 1 batch", began.timestamp() + due_in_s))
    (state,) = client.proposed
    waits_s = (state.state_details.scheduled_time - began).total_seconds()
    assert away - 0.1 <= waits_s < away + 60
