"""Which flow run leads a run on disk, and the final state of a flow run whose process could not report it.

A process that dies reports nothing, and one whose server is away cannot report: in the UI its flow run seems to run
forever. The next start of the job knows that it has ended, because it now holds the folders that the other one held.
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
    """Note that this flow run leads the run now; end the previous one if it still seems to run or wait.

    Its state is what its summary says, or Crashed if that does not say how it ended. Raises DiskFailed.
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
        has_ended = summary.get("run_id") == run.run_id and summary["state"] in ENDED
        with best_effort("the end of the previous flow run"), get_client(sync_client=True) as client:
            # promise: P5 the next start marks the flow run of a dead process as Crashed
            _end(client, before, _state_of(summary) if has_ended else Crashed(message=DIED))


def leads(run: Run) -> bool:
    """Whether no other flow run has taken over this run since this flow run led it."""
    found = read_json(run.folder.path / "flow_run.json") or {}
    return bool(found.get("flow_run_id") == flow_run.id)


def redo_already_done(folders: Folders) -> bool:
    """Whether this flow run is retried and its `--redo` is done: it led a run of this output that is not current now.

    That run was finished by this flow run or by another that took over; to redo the rows again would pay again.
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
    """Report the end of an output's latest run to the server, unless the server has it, or it is this run."""
    summary = _summary(folders)
    if summary.get("state") not in ENDED or summary["run_id"] == run_id:
        return
    before = (read_json(folders.run(summary["run_id"]).path / "flow_run.json") or {}).get("flow_run_id")
    if before not in {None, flow_run.id}:
        with best_effort("the end of the previous run"), get_client(sync_client=True) as client:
            # promise: P6 the next start reports an end that the server did not receive
            _end(client, before, _state_of(summary))


def _summary(folders: Folders) -> dict[str, Any]:
    return read_json(folders.output / "summary.json") or {}


def _state_of(summary: Mapping[str, Any]) -> State[Any]:
    """Return the state that the run would have ended with, without data: no caller is left to get it."""
    error = error_of(summary["exit_code"], summary["message"] or "")
    state = state_of(error) if error is not None else state_of_summary(dict(summary))
    state.data = None
    return state


def _end(client: SyncPrefectClient, flow_run_id: str, state: State[Any]) -> None:
    """End a flow run that seems to run, or to wait with its own process."""
    try:
        found = client.read_flow_run(UUID(flow_run_id)).state
    except ObjectNotFound:  # deleted, or on another server
        return
    # a suspended run has no process: it still waits for its answer
    waits = found is not None and found.is_paused() and not found.state_details.pause_reschedule
    # promise: P5 the next start ends a dead flow run that waited for approval
    if found is not None and (found.is_running() or waits):
        client.set_flow_run_state(UUID(flow_run_id), state)
