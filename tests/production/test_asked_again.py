"""An approval counts for the plan that it was given for; whatever else a run has become, a person is asked again."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

import pytest

from parquill.tasks.storage.folders import Folders, lock_folders
from tests.end_to_end.jobs import Jobs
from tests.production.house import House
from tests.services.losing_proxy import losing

pytestmark = pytest.mark.nightly

COMPLETE = "complete-prompts/complete"


def _costly(made: Jobs, name: str, rows: int = 3, **budget: Any) -> dict[str, Any]:
    return made.job([f"text {row}" for row in range(rows)], name=name, budget={"approval_usd": 1e-7, **budget})


def _asks(house: House, run: str, but: str | None = None) -> str:
    """Wait until a run asks; gives the key of its question, which is another than `but`."""

    def key() -> str | None:
        found = house.run(run)
        assert found["state_type"] not in {"COMPLETED", "CRASHED"}, found["state"]["message"]
        return found["state"]["state_details"]["pause_key"] if found["state_type"] == "PAUSED" else None

    House.wait("a question", lambda: key() not in {None, but}, 90)
    House.wait(
        "its text", lambda: "budget.approval_usd" in house.parquill("approve", "--json").stdout.partition(run)[2][:400]
    )
    return str(key())


def _retry(house: House, run: str) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    state = {"type": "SCHEDULED", "name": "AwaitingRetry", "state_details": {"scheduled_time": now}}
    house.ask("POST", f"/flow_runs/{run}/set_state", state=state, force=False)


def _held(settings: dict[str, Any]) -> AbstractContextManager[None]:
    folders = Folders.of(str(settings["output"]), None)
    return lock_folders(folders, "another")


def _answer(house: House, run: str, *more: str) -> None:
    answered = house.parquill("approve", run, *more)
    assert answered.returncode == 0, answered.stderr


def test_an_input_that_grows_while_it_waits(house: House, made: Jobs) -> None:
    """Approved for three rows, a run whose input has two hundred by then asks for these, and pays for none before."""
    run = house.start_run(COMPLETE, {"job": _costly(made, "growing")})
    first = _asks(house, run)
    _costly(made, "growing", rows=200)
    _answer(house, run)
    _asks(house, run, first)
    assert made.service.stats()["requests"] == 0
    _answer(house, run)
    assert house.ended(run)["state_type"] == "COMPLETED"
    assert made.service.stats()["billed"] == 200


def test_a_retry_asks_anew(house: House, made: Jobs) -> None:
    """A run that was declined, or cancelled while it waited, asks a question of its own when it is retried, and takes its answer."""
    for name in ("declined", "cancelled-waiting"):
        made.service.reset()
        run = house.start_run(COMPLETE, {"job": {**_costly(made, name), "output": str(made.folder / name)}})
        first = _asks(house, run)
        if name == "declined":
            _answer(house, run, "--decline")
        else:
            house.ask("POST", f"/flow_runs/{run}/set_state", state={"type": "CANCELLED"}, force=False)
        assert house.ended(run)["state_type"] in {"FAILED", "CANCELLED"}
        _retry(house, run)
        assert _asks(house, run, first) != first
        assert made.service.stats()["requests"] == 0
        _answer(house, run)
        assert house.ended(run)["state_type"] == "COMPLETED"
        assert made.service.stats()["billed"] == 3


def test_a_retry_after_the_approval(house: House, made: Jobs) -> None:
    """A run that was approved, and could not start because of another, goes on without a question when it is retried."""
    settings = _costly(made, "refused-then")
    run = house.start_run(COMPLETE, {"job": settings})
    _asks(house, run)
    with _held(settings):
        _answer(house, run)
        assert house.ended(run)["state_name"] == "Refused: folder in use"
    _retry(house, run)
    House.wait("its end", lambda: house.run(run)["state_type"] == "COMPLETED", 90)
    assert made.service.stats()["billed"] == 3


def test_each_of_two_that_wait_takes_its_answer(house: House, made: Jobs) -> None:
    """Of two runs that wait for the same plan the first that is approved completes it; the other, declined, is not approved."""
    settings = _costly(made, "twice")
    first = house.start_run(COMPLETE, {"job": settings})
    _asks(house, first)
    second = house.start_run(COMPLETE, {"job": settings})
    _asks(house, second)
    _answer(house, second, "--decline")
    assert house.ended(second)["state_name"] == "Not approved"
    assert made.service.stats()["requests"] == 0
    _answer(house, first)
    assert house.ended(first)["state_type"] == "COMPLETED"
    assert made.service.stats()["billed"] == 3


def test_a_deployed_run_whose_pause_was_not_answered(house: House, made: Jobs) -> None:
    """A server that suspends a run, and is cut off before it says so, leaves a run that can be approved; one that is suspended already says so when it is asked again."""
    with losing(house.api, lambda _method, path, body: path.endswith("/set_state") and b'"PAUSED"' in body) as proxy:
        address, asked = proxy
        run = house.start_run(COMPLETE, {"job": _costly(made, "unheard")}, env={"PREFECT_API_URL": address})
        _asks(house, run)
        House.wait("the same to be asked again", lambda: len(asked) > 1)
        assert house.run(run)["state_name"] == "Suspended"
        _answer(house, run)
        assert house.ended(run)["state_type"] == "COMPLETED"
    assert made.service.stats()["billed"] == 3


def test_a_retry_of_what_was_done_anew(house: House, made: Jobs) -> None:
    """A run that was to do rows anew, and has, does not do them anew again when it is retried in the UI; a new run does."""
    settings = made.job(["a", "b"], name="anew")
    redo = {"job": settings, "redo": ["ok"]}
    assert house.ended(house.start_run(COMPLETE, {"job": settings}))["state_type"] == "COMPLETED"
    run = house.start_run(COMPLETE, redo)
    assert house.ended(run)["state_type"] == "COMPLETED"
    assert made.service.stats()["requests"] == 4
    _retry(house, run)
    House.wait("the retry", lambda: house.run(run)["run_count"] == 2, 90)
    assert house.ended(run)["state_type"] == "COMPLETED"
    assert made.service.stats()["requests"] == 4
    assert house.ended(house.start_run(COMPLETE, redo))["state_type"] == "COMPLETED"
    assert made.service.stats()["requests"] == 6
