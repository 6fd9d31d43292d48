"""An approval counts only for the plan that it was given for; if the run changes, a person is asked again."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

import pytest

from parquill.tasks.storage.folders import Folders, lock_folders
from tests.deployed.live_stack import LiveStack
from tests.fakes.losing_proxy import losing
from tests.tools.jobs import Jobs

pytestmark = pytest.mark.nightly

COMPLETE = "complete-prompts/complete"


def _costly(made: Jobs, name: str, rows: int = 3, **budget: Any) -> dict[str, Any]:
    return made.job([f"text {row}" for row in range(rows)], name=name, budget={"approval_usd": 1e-7, **budget})


def _asks(stack: LiveStack, run: str, but: str | None = None) -> str:
    """Wait until a run asks, and return the key of its question, which is not `but`."""

    def key() -> str | None:
        found = stack.run(run)
        assert found["state_type"] not in {"COMPLETED", "CRASHED"}, found["state"]["message"]
        return found["state"]["state_details"]["pause_key"] if found["state_type"] == "PAUSED" else None

    LiveStack.wait("a question", lambda: key() not in {None, but}, 90)
    LiveStack.wait(
        "its text", lambda: "budget.approval_usd" in stack.parquill("approve", "--json").stdout.partition(run)[2][:400]
    )
    return str(key())


def _retry(stack: LiveStack, run: str) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    state = {"type": "SCHEDULED", "name": "AwaitingRetry", "state_details": {"scheduled_time": now}}
    stack.ask("POST", f"/flow_runs/{run}/set_state", state=state, force=False)


def _held(settings: dict[str, Any]) -> AbstractContextManager[None]:
    folders = Folders.of(str(settings["output"]), None)
    return lock_folders(folders, "another")


def _answer(stack: LiveStack, run: str, *more: str) -> None:
    answered = stack.parquill("approve", run, *more)
    assert answered.returncode == 0, answered.stderr


def test_an_input_that_grows_while_it_waits(stack: LiveStack, made: Jobs) -> None:
    """If a run is approved for three rows but its input then has two hundred, it asks again before it pays."""
    run = stack.start_run(COMPLETE, {"job": _costly(made, "growing")})
    first = _asks(stack, run)
    _costly(made, "growing", rows=200)
    _answer(stack, run)
    _asks(stack, run, first)
    assert made.service.stats()["requests"] == 0
    _answer(stack, run)
    assert stack.ended(run)["state_type"] == "COMPLETED"
    assert made.service.stats()["billed"] == 200


def test_a_retry_asks_anew(stack: LiveStack, made: Jobs) -> None:
    """If a run was declined, or cancelled while it waited, a retry asks a new question and accepts its answer."""
    for name in ("declined", "cancelled-waiting"):
        made.service.reset()
        run = stack.start_run(COMPLETE, {"job": {**_costly(made, name), "output": str(made.folder / name)}})
        first = _asks(stack, run)
        if name == "declined":
            _answer(stack, run, "--decline")
        else:
            stack.ask("POST", f"/flow_runs/{run}/set_state", state={"type": "CANCELLED"}, force=False)
        assert stack.ended(run)["state_type"] in {"FAILED", "CANCELLED"}
        _retry(stack, run)
        assert _asks(stack, run, first) != first
        assert made.service.stats()["requests"] == 0
        _answer(stack, run)
        assert stack.ended(run)["state_type"] == "COMPLETED"
        assert made.service.stats()["billed"] == 3


def test_a_retry_after_the_approval(stack: LiveStack, made: Jobs) -> None:
    """If an approved run could not start because of another run, a retry starts it without a question."""
    settings = _costly(made, "refused-then")
    run = stack.start_run(COMPLETE, {"job": settings})
    _asks(stack, run)
    with _held(settings):
        _answer(stack, run)
        assert stack.ended(run)["state_name"] == "Refused: folder in use"
    _retry(stack, run)
    LiveStack.wait("its end", lambda: stack.run(run)["state_type"] == "COMPLETED", 90)
    assert made.service.stats()["billed"] == 3


def test_each_of_two_that_wait_takes_its_answer(stack: LiveStack, made: Jobs) -> None:
    """If two runs wait for the same plan, each gets its own answer.
    The approved one completes it, and the declined one is not approved.
    """
    settings = _costly(made, "twice")
    first = stack.start_run(COMPLETE, {"job": settings})
    _asks(stack, first)
    second = stack.start_run(COMPLETE, {"job": settings})
    _asks(stack, second)
    _answer(stack, second, "--decline")
    assert stack.ended(second)["state_name"] == "Not approved"
    assert made.service.stats()["requests"] == 0
    _answer(stack, first)
    assert stack.ended(first)["state_type"] == "COMPLETED"
    assert made.service.stats()["billed"] == 3


def test_a_deployed_run_whose_pause_was_not_answered(stack: LiveStack, made: Jobs) -> None:
    """If the server suspends a run but its reply is lost, the run can still be approved.
    A repeated request finds it already suspended.
    """
    with losing(stack.api, lambda _method, path, body: path.endswith("/set_state") and b'"PAUSED"' in body) as proxy:
        address, asked = proxy
        run = stack.start_run(COMPLETE, {"job": _costly(made, "unheard")}, env={"PREFECT_API_URL": address})
        _asks(stack, run)
        LiveStack.wait("the same to be asked again", lambda: len(asked) > 1)
        assert stack.run(run)["state_name"] == "Suspended"
        _answer(stack, run)
        assert stack.ended(run)["state_type"] == "COMPLETED"
    assert made.service.stats()["billed"] == 3


def test_a_retry_of_what_was_done_anew(stack: LiveStack, made: Jobs) -> None:
    """If a `redo` run has finished, a retry in the UI does not redo its rows again; a new run does."""
    settings = made.job(["a", "b"], name="anew")
    redo = {"job": settings, "redo": ["ok"]}
    assert stack.ended(stack.start_run(COMPLETE, {"job": settings}))["state_type"] == "COMPLETED"
    run = stack.start_run(COMPLETE, redo)
    assert stack.ended(run)["state_type"] == "COMPLETED"
    assert made.service.stats()["requests"] == 4
    _retry(stack, run)
    LiveStack.wait("the retry", lambda: stack.run(run)["run_count"] == 2, 90)
    assert stack.ended(run)["state_type"] == "COMPLETED"
    assert made.service.stats()["requests"] == 4
    assert stack.ended(stack.start_run(COMPLETE, redo))["state_type"] == "COMPLETED"
    assert made.service.stats()["requests"] == 6
