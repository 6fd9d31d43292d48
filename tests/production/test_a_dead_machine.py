"""A machine dies in the middle of a run: nobody is left to say so, and the work is taken over all the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from parquill.tasks.orchestration.slot_lease import LEASE_EXPIRY_S
from tests.end_to_end.jobs import Jobs
from tests.production.house import LEASES, ROOT, House, opened_house
from tests.production.slow_jobs import check_settled, nightly, slow_job

pytestmark = pytest.mark.nightly

MISSED_S = 45  # a heartbeat comes every 30 seconds
LOOKS_S = 15 + 30 + 15  # how often Prefect looks for ended leases, how long a run waits before it asks again; a margin
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
NIGHTLY = "summarize/summarize-nightly"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house whose server remembers its leases, as docs/production.md has it."""
    assert LEASES in (ROOT / "docs" / "production.md").read_text()
    leases = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES}
    with opened_house(tmp_path_factory.mktemp("house"), **leases) as opened:
        yield opened


@pytest.fixture
def watched(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The house with data/silent-runs.yaml, but for the ten minutes that it gives a run."""
    text = (ROOT / "data" / "silent-runs.yaml").read_text()
    assert text.count("within: 600") == 1
    path = tmp_path_factory.mktemp("automation") / "silent-runs.yaml"
    path.write_text(text.replace("within: 600", f"within: {MISSED_S}"))
    house.command("automation", "create", "--from-file", str(path))
    yield house
    for each in house.ask("POST", "/automations/filter", limit=50):
        house.ask("DELETE", f"/automations/{each['id']}")


def _start_and_kill(house: House, made: Jobs, settings: dict[str, Any], *, with_server: bool = False) -> str:
    """Kill worker and run together, the server too if it is on that machine, and start anew; gives the flow run."""
    run = house.start_run(NIGHTLY, nightly(settings))
    house.wait("requests", lambda: made.service.stats()["requests"] > 30)
    house.kill_worker()
    if with_server:
        house.stop_server()
        house.start_server()
    house.start_worker()
    assert house.run(run)["state_type"] == "RUNNING"
    return run


def test_a_dead_machine_is_taken_over(house: House, made: Jobs) -> None:
    """After a reboot of a machine with server and worker the next run waits for the slot of the dead one, about three minutes, takes over its work, and says of it that it is Crashed."""
    settings = slow_job(made, 400, name="unwatched")
    run, died = _start_and_kill(house, made, settings, with_server=True), time.monotonic()
    again = house.start_run(NIGHTLY, nightly(settings))
    house.wait("the next run", lambda: house.run(again)["state_type"] == "RUNNING", LEASE_EXPIRY_S + LOOKS_S)
    assert time.monotonic() - died > LEASE_EXPIRY_S / 2, "the slot was not waited for"
    house.wait("its end", lambda: house.run(again)["state_type"] in FINAL)
    assert house.run(again)["state_type"] == "COMPLETED", house.run(again)["state"]
    assert house.run(run)["state_type"] == "CRASHED"
    assert "taken over its work" in house.run(run)["state"]["message"]
    check_settled(made, settings, 400)


def test_a_dead_machine_is_missed(watched: House, made: Jobs) -> None:
    """The run is Crashed once its heartbeat is missed, which frees its slot; a run that lives is left alone, and so is one that ended under a name of its own."""
    poor = made.job(["a"], name="refused", output=str(made.folder / "refused"), budget={"run_usd": 0.0000001})
    assert watched.ended(watched.start_run("complete-prompts/complete", {"job": poor}))["state_type"] == "FAILED"
    settings = slow_job(made, 800, name="dead")
    run = _start_and_kill(watched, made, settings)
    sent = made.service.stats()["requests"]
    watched.wait("somebody to miss it", lambda: watched.run(run)["state_type"] == "CRASHED", MISSED_S + 60)
    assert "no heartbeat" in watched.run(run)["state"]["message"]
    assert made.service.stats()["requests"] == sent
    # slow enough to live for longer than a run may be silent
    made.service.configure(latency_ms=600)
    again = watched.start_run(NIGHTLY, nightly(settings))
    watched.wait("the next run", lambda: watched.run(again)["state_type"] in FINAL, 200)
    assert watched.run(again)["state_type"] == "COMPLETED", watched.run(again)["state"]
    check_settled(made, settings, 800)
    failed = {"event": {"name": ["prefect.automation.action.failed"]}}
    assert watched.ask("POST", "/events/filter", filter=failed)["events"] == []
