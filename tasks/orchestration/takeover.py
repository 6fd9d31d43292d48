"""Which flow run leads a run on disk, and the end of one whose process could not tell it.

A process that dies says nothing, and one whose server is away is not heard: in the UI its flow run seems to run for
ever. The next start of the job knows better, since it holds the folders that the other one held.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Crashed

from parquill.tasks.errors import error_of
from parquill.tasks.orchestration.events import best_effort
from parquill.tasks.orchestration.states import state_of, state_of_summary
from parquill.tasks.prompts.run import Run
from parquill.tasks.storage.disk import DISK, read_json
from parquill.tasks.storage.folders import Folders

ENDED = frozenset({"finished", "stopped"})
DIED = "its process died without reporting its end; the next run of the job has taken over its work"


def register_flow_run(run: Run) -> None:
    """Note that this flow run leads the run now; one that led it before and seems to run or wait still is Crashed.

    Raises DiskFailed.
    """
    report_previous_end(run.folders, run.run_id)
    path, mine = run.folder.path / "flow_run.json", flow_run.id
    found = read_json(path) or {}
    before = found.get("flow_run_id")
    if mine is None or before == mine:
        return
    led = [*found.get("led_before", []), before] if before is not None else []
    DISK.write_own(path, {"flow_run_id": mine, "led_before": led})
    if before is not None:
        summary = _summary(run.folders)
        told = summary.get("run_id") == run.run_id and summary["state"] in ENDED
        with best_effort("the end of the previous flow run"), get_client(sync_client=True) as client:
            _end(client, before, _state_of(summary) if told else Crashed(message=DIED))


def redo_already_done(folders: Folders) -> bool:
    """Whether this flow run, which is retried then, has led a run of this output that is not under way any more.

    What it was to do anew is done, by it or by who took over: to do it again would pay for all of it again.
    """
    if flow_run.id is None:
        return False
    current = (read_json(folders.meta / "current.json") or {}).get("run_id")
    for run in folders.runs():
        found = read_json(run.path / "flow_run.json") or {}
        if run.run_id != current and flow_run.id in {found.get("flow_run_id"), *found.get("led_before", [])}:
            return True
    return False


def report_previous_end(folders: Folders, run_id: str | None = None) -> None:
    """Tell the server the end of the latest run of an output, unless it knows it, or it is this one."""
    summary = _summary(folders)
    if summary.get("state") not in ENDED or summary["run_id"] == run_id:
        return
    before = (read_json(folders.run(summary["run_id"]).path / "flow_run.json") or {}).get("flow_run_id")
    if before not in {None, flow_run.id}:
        with best_effort("the end of the previous run"), get_client(sync_client=True) as client:
            _end(client, before, _state_of(summary))


def _summary(folders: Folders) -> dict[str, Any]:
    return read_json(folders.output / "summary.json") or {}


def _state_of(summary: Mapping[str, Any]) -> State[Any]:
    """The state that the run would have ended with; its data is nobody's any more."""
    error = error_of(summary["exit_code"], summary["message"] or "")
    state = state_of(error) if error is not None else state_of_summary(dict(summary))
    state.data = None
    return state


def _end(client: SyncPrefectClient, flow_run_id: str, state: State[Any]) -> None:
    """End a flow run that seems to run, or to wait with a process of its own."""
    try:
        found = client.read_flow_run(UUID(flow_run_id)).state
    except ObjectNotFound:  # deleted, or of another server
        return
    # one that is suspended has no process: it waits for its answer
    waits = found is not None and found.is_paused() and not found.state_details.pause_reschedule
    if found is not None and (found.is_running() or waits):
        client.set_flow_run_state(UUID(flow_run_id), state)
