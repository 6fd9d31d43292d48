"""`budget.approval_usd`: a run whose expected cost is above it waits for a person."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from parquill.flows.approve import answer, waiting
from parquill.tasks.errors import ParquillError
from tests.end_to_end.jobs import Jobs, Spawned
from tests.end_to_end.test_prefect import Api

WAIT_S = 40


@pytest.fixture
def costly(jobs: Jobs, request: pytest.FixtureRequest) -> dict[str, Any]:
    """A job that asks, under a name of its own."""
    name = f"ask-{abs(hash(request.node.name)) % 10**8}"
    return jobs.job([f"text {row}" for row in range(10)], name=name, budget={"run_usd": 1, "approval_usd": 0.00001})


def _wait_for(name: str) -> None:
    until = time.monotonic() + WAIT_S
    while not any((each.name or "").startswith(name) for each in waiting()):
        assert time.monotonic() < until, "no run waits"
        time.sleep(0.2)


def _start(jobs: Jobs, settings: dict[str, Any]) -> Spawned:
    spawned = jobs.spawn(settings)
    _wait_for(settings["name"])
    assert jobs.service.stats()["requests"] == 0
    return spawned


def test_approved_it_goes_on(jobs: Jobs, costly: dict[str, Any], prefect_server: str) -> None:
    """A run that waits sends nothing and shows the estimate; approved by the command it goes on to its end."""
    spawned = _start(jobs, costly)
    (run,) = Api(prefect_server, costly["name"]).flow_runs()
    assert run["state_type"] == "PAUSED"
    done = jobs.run(costly, command="report")
    assert done.summary == {}  # nothing runs yet
    assert answer(costly["name"], approve=True).startswith(costly["name"])
    done = spawned.wait()
    assert done.exit_code == 0, done.stderr
    assert "waiting for approval" in done.stderr
    assert done.summary["rows"]["ok"] == 10
    with pytest.raises(ParquillError, match="waits for approval"):
        answer(costly["name"], approve=True)


def test_declined_it_ends(jobs: Jobs, costly: dict[str, Any], prefect_server: str) -> None:
    """Declined it ends with exit 3, nothing is sent, and its state says so; started again it asks again."""
    spawned = _start(jobs, costly)
    answer(costly["name"], approve=False)
    done = spawned.wait()
    assert done.exit_code == 3
    assert "declined: expected $" in done.stderr
    (run,) = Api(prefect_server, costly["name"]).flow_runs()
    assert (run["state_type"], run["state_name"]) == ("FAILED", "Not approved")
    assert jobs.service.stats()["requests"] == 0
    again = _start(jobs, costly)
    answer(costly["name"], approve=True)
    assert again.wait().exit_code == 0


def test_silence_times_out(jobs: Jobs, costly: dict[str, Any], prefect_server: str) -> None:
    """A run that nobody answers ends with exit 3 after its time, with nothing sent, and its state says why."""
    done = jobs.spawn(costly, environment={"PARQUILL_APPROVAL_TIMEOUT_S": "2"}).wait()
    assert done.exit_code == 3
    assert "nobody approved it within 2 seconds" in done.stderr
    (run,) = Api(prefect_server, costly["name"]).flow_runs()
    assert run["state_type"] == "FAILED"
    assert run["state"]["message"] == "The flow was not approved and never resumed."
    assert jobs.service.stats()["requests"] == 0


def test_an_answer_outlives_the_process_that_asked(jobs: Jobs, costly: dict[str, Any]) -> None:
    """When the process that asked is killed, the answer given after that holds for the run that takes over."""
    spawned = _start(jobs, costly)
    spawned.process.send_signal(signal.SIGKILL)
    spawned.process.wait()
    answer(costly["name"], approve=True)
    done = jobs.run(costly)
    assert done.exit_code == 0, done.stderr
    assert jobs.service.stats()["billed"] == 10


def test_what_is_cheap_asks_nobody(jobs: Jobs) -> None:
    """A run whose expected cost is not above the threshold goes on at once."""
    settings = jobs.job(["a"], budget={"run_usd": 1, "approval_usd": 0.5})
    assert jobs.run(settings).exit_code == 0


def test_nobody_to_ask(jobs: Jobs, costly: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal and without a server that others can reach, the run is refused and nothing is sent."""
    monkeypatch.delenv("PREFECT_API_URL")
    done = jobs.spawn(costly).wait()
    assert done.exit_code == 3
    assert "nobody can be asked here" in done.stderr
    assert jobs.service.stats()["requests"] == 0


def test_the_command_lists_and_answers(jobs: Jobs, costly: dict[str, Any]) -> None:
    """`parquill approve` lists what waits, and `parquill approve JOB` answers."""
    from parquill.flows.cli import main

    spawned = _start(jobs, costly)
    with pytest.raises(SystemExit) as ended:
        main(["approve", costly["name"], "--json"])
    assert not ended.value.code
    assert spawned.wait().exit_code == 0
