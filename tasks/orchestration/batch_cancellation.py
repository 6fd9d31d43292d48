"""Cancels the batches of a deployed run that is cancelled while it has no process.

A run that waits for its batches has no process (`reschedule`), so Prefect's cancel changes its state and nothing else:
the batches would go on, and their rows would be paid. Therefore:

1. The first run that makes batches creates an automation on Prefect's server. It reacts to the state Cancelled of a run
   that was "Waiting for batch" before: it schedules the run once more, under the name "Cancelling batches".
2. A worker starts the run. It cancels the batches, collects what they have completed, and ends as Cancelled.

The trigger looks for the earlier state, since Prefect's events carry the tags that a run had minutes ago (3.9.1).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final, NoReturn
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.runtime import flow_run

from parquill.tasks.errors import FolderInUse, Interrupted
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.llm.abandoned import collect_abandoned
from parquill.tasks.orchestration.deployed_process import is_supervised
from parquill.tasks.orchestration.events import best_effort
from parquill.tasks.orchestration.flow_run import retry_while_unavailable
from parquill.tasks.orchestration.reschedule import WAITING
from parquill.tasks.orchestration.run_log import run_log
from parquill.tasks.orchestration.takeover import leads
from parquill.tasks.prompts.run import Run, current_run
from parquill.tasks.results.finish import summary_while_running
from parquill.tasks.storage.folders import Folders, lock_folders

CANCELLING: Final = "Cancelling batches"
AUTOMATION: Final = AutomationCore(
    name="parquill-cancelled-batches",
    description="A run that is cancelled while it waits for batches starts once more, and cancels them.",
    trigger=EventTrigger(
        posture=Posture.Reactive,
        after={f"prefect.flow-run.{WAITING}"},
        expect={"prefect.flow-run.Cancelled"},
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        for_each={"prefect.resource.id"},
        threshold=1,
        within=timedelta(days=30),  # from the first wait: longer than any run
    ),
    actions=[
        ChangeFlowRunState(
            state=StateType.SCHEDULED,
            force=False,
            name=CANCELLING,
            message="a worker starts this run once more: it cancels its batches, and collects what they have completed",
        )
    ],
)
OTHER_LEADS: Final = "cancelled; another run of the job has taken over its batches, and they go on"


def ensure_cancellable(run: Run) -> None:
    """Have Prefect's server cancel the batches of a run that is cancelled while it waits, if the run is deployed."""
    if run.lane == "batch" and is_supervised():
        with best_effort("the automation that cancels batches"), get_client(sync_client=True) as client:
            ensure_automation(client)


def ensure_automation(client: SyncPrefectClient) -> None:
    """Create the automation, unless the server has it; one that a person has changed or disabled stays as it is."""
    if client.read_automations_by_name(AUTOMATION.name):
        return
    client.create_automation(AUTOMATION)
    # two runs may have created it at the same time
    found = client.read_automations_by_name(AUTOMATION.name)
    for extra in sorted(found, key=lambda each: str(each.id))[1:]:
        client.delete_automation(extra.id)


def is_cancelling_batches() -> bool:
    """Whether this process was started to cancel the batches of its flow run, which was cancelled before."""
    if not is_supervised() or flow_run.run_count < 2:
        return False
    run = UUID(flow_run.id)
    with get_client(sync_client=True) as client:
        # promise: P5 a run that is started again waits for a server that is away
        states = retry_while_unavailable(lambda: client.read_flow_run_states(run))
    scheduled = [state for state in states if state.is_scheduled()]
    return bool(scheduled) and max(scheduled, key=lambda state: state.timestamp).name == CANCELLING


def cancel_batches(job: ResolvedJob) -> NoReturn:
    """Cancel and collect the batches that this flow run has left at the service.

    Raises Interrupted, which says what is left; BadJob if the service does not let them be collected; DamagedJournal,
    DiskFailed.
    """
    folders = Folders.of(job.output, job.state)
    folders.create()
    try:
        with lock_folders(folders, f"the job {job.name}"):
            run = current_run(folders)
            if run is not None and leads(run):
                _collect(run)
    except FolderInUse:
        pass
    raise Interrupted(OTHER_LEADS)


def _collect(run: Run) -> NoReturn:
    """Cancel and collect the batches of a run. Raises Interrupted, which its summary then has as the reason."""
    count = run.open_batches
    with summary_while_running(run):
        if count:
            collect_abandoned(run, log=run_log())
        left = sum(shard.to_send for shard in run.shards) - sum(run.totals().statuses.values())
        raise Interrupted(_sentence(count, left))


def _sentence(batches: int, left: int) -> str:
    rows = "1 row is left" if left == 1 else f"{left:,} rows are left"
    if not batches:
        return f"cancelled; its batches are collected; {rows}; run again to resume"
    what = "its batch was cancelled" if batches == 1 else f"its {batches:,} batches were cancelled"
    return f"{what}, and what was completed is collected; {rows}; run again to resume"
