"""A run that is cancelled while it waits for batches: who cancels them, and who does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import State
from prefect.events.schemas.automations import AutomationCore
from prefect.states import Cancelled, Running, Scheduled

from parquill.tasks.errors import Interrupted
from parquill.tasks.job.load import make_job
from parquill.tasks.orchestration import batch_cancellation as module
from parquill.tasks.orchestration import takeover
from parquill.tasks.orchestration.flow_run import retry_while_unavailable
from parquill.tasks.orchestration.reschedule import WAITING
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.storage.disk import DISK
from parquill.tasks.storage.folders import Folders, lock_folders
from tests.tools.direct import job_of, summary_of


class _Server:
    """A Prefect server's automations and the states of one flow run; `rival` creates the automation meanwhile."""

    def __init__(self, states: list[State[Any]] | None = None, *, rival: bool = False) -> None:
        self.automations: list[SimpleNamespace] = []
        self.looks = 0
        self._states, self._rival = states or [], rival

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read_automations_by_name(self, name: str) -> list[SimpleNamespace]:
        return [each for each in self.automations if each.name == name]

    def create_automation(self, automation: AutomationCore) -> None:
        for _ in range(2 if self._rival else 1):
            self.automations.append(SimpleNamespace(id=uuid4(), name=automation.name))

    def delete_automation(self, automation_id: Any) -> None:
        self.automations = [each for each in self.automations if each.id != automation_id]

    def read_flow_run_states(self, _: Any) -> list[State[Any]]:
        self.looks += 1
        return self._states


@pytest.mark.parametrize("rival", [False, True], ids=["alone", "with a rival"])
def test_the_automation_exists_once(*, rival: bool) -> None:
    """However many runs make batches, and if two create it at the same time, the server keeps one automation."""
    server: Any = _Server(rival=rival)
    for _ in range(3):
        module.ensure_automation(server)
    (found,) = server.automations
    assert found.name == "parquill-cancelled-batches"


def test_an_automation_that_a_person_disabled_stays() -> None:
    """An automation with the name is neither replaced nor changed."""
    server: Any = _Server()
    kept = SimpleNamespace(id=uuid4(), name=module.AUTOMATION.name, enabled=False)
    server.automations = [kept]
    module.ensure_automation(server)
    assert server.automations == [kept]


def _history(*names: str) -> list[State[Any]]:
    """Return states of these names, the latest first: the server promises no order."""
    kinds: dict[str, Any] = {"Running": Running, "Cancelled": Cancelled}
    began = datetime.now(UTC)
    made = [kinds.get(name, Scheduled)(name=name) for name in names]
    times = [began + timedelta(seconds=number) for number in range(len(made))]
    return [state.model_copy(update={"timestamp": at}) for state, at in zip(made, times, strict=True)][::-1]


@pytest.mark.parametrize(
    ("supervised", "run_count", "states", "is_cancelling"),
    [
        (True, 2, ("Scheduled", "Running", WAITING, "Cancelled", module.CANCELLING, "Running"), True),
        (True, 2, ("Scheduled", "Running", WAITING, "Running"), False),
        # a person pressed Retry after the batches were cancelled
        (True, 3, (WAITING, "Cancelled", module.CANCELLING, "Running", "Cancelled", "AwaitingRetry", "Running"), False),
        (True, 1, (module.CANCELLING,), False),
        (False, 2, (module.CANCELLING,), False),
    ],
    ids=["cancelled", "waited", "retried", "first start", "a command"],
)
def test_which_process_cancels(
    monkeypatch: pytest.MonkeyPatch, *, supervised: bool, run_count: int, states: tuple[str, ...], is_cancelling: bool
) -> None:
    """Only a process that was started for it cancels the batches. A first start does not ask the server."""
    server = _Server(_history(*states))
    monkeypatch.setattr(module, "get_client", lambda **_: server)
    monkeypatch.setattr(module, "is_supervised", lambda: supervised)
    monkeypatch.setattr(module, "flow_run", SimpleNamespace(id=str(uuid4()), run_count=run_count))
    assert module.is_cancelling_batches() == is_cancelling
    assert server.looks == (supervised and run_count > 1)


def test_a_server_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """P5: A run that is started again while the server restarts asks again; it does not fail."""
    server = _Server(_history(WAITING, "Running"))
    read = server.read_flow_run_states

    def away_at_first(run: Any) -> list[State[Any]]:
        found = read(run)
        if server.looks == 1:
            raise httpx.ConnectError("away")
        return found

    monkeypatch.setattr(server, "read_flow_run_states", away_at_first)
    monkeypatch.setattr(module, "get_client", lambda **_: server)
    monkeypatch.setattr(module, "is_supervised", lambda: True)
    monkeypatch.setattr(module, "retry_while_unavailable", partial(retry_while_unavailable, sleep=lambda _: None))
    monkeypatch.setattr(module, "flow_run", SimpleNamespace(id=str(uuid4()), run_count=2))
    assert not module.is_cancelling_batches()
    assert server.looks == 2


def test_the_batches_of_another_run_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another flow run of the job leads the run now, or holds its folders, nothing is cancelled, and the sentence
    says so. A run that has no batch left ends as cancelled, with what is left to do.
    """
    settings = job_of(
        tmp_path,
        ["one", "two"],
        "http://127.0.0.1:1/v1",
        endpoint={"base_url": "http://127.0.0.1:1/v1", "allow_http": True, "api_key_env": None},
    )
    job, options = resolve_job(make_job(settings), None, None, ())
    folders = Folders.of(job.output, job.state)
    folders.create()
    with lock_folders(folders, "a test"):
        run = prepare_run(job, options)
    assert run is not None
    for each in (module, takeover):
        monkeypatch.setattr(each, "flow_run", SimpleNamespace(id="mine"))
    DISK.write_own(run.folder.path / "flow_run.json", {"flow_run_id": "another"})
    with pytest.raises(Interrupted, match="another run of the job has taken over"):
        module.cancel_batches(job)
    assert not (folders.output / "summary.json").exists()
    DISK.write_own(run.folder.path / "flow_run.json", {"flow_run_id": "mine"})
    with pytest.raises(Interrupted, match=r"^cancelled; its batches are collected; 2 rows are left; run again"):
        module.cancel_batches(job)
    assert summary_of(settings)["state"] == "stopped"
