"""Waits for batches without holding a worker: the flow run is scheduled again, and its process ends.

A batch may take a day. A deployed run whose batches are not done soon sets its own state to Scheduled, under the name
"Waiting for batch", with since when and until when it waits. Its process ends. A worker starts the run again at that
time, with the same parameters and the same scheduled day. It finds its batches by its journals. `batch_cancellation`
handles a run that is cancelled in the meantime.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Pause
from prefect.runtime import flow_run
from prefect.states import Scheduled

from parquill.tasks.errors import Interrupted, WaitsForBatch
from parquill.tasks.orchestration.deployed_process import is_supervised
from parquill.tasks.orchestration.events import best_effort
from parquill.tasks.orchestration.flow_run import retry_while_unavailable

WAITING: Final = "Waiting for batch"
# A process stays this long: small batches are often done by then.
STAY_S: Final = 20.0
FIRST_AWAY_S, MAX_AWAY_S, AWAY_GROWS_BY = 10.0, 900.0, 1.5


def stay_s() -> float | None:
    """Return how long this process waits for batches, in seconds; None for as long as it takes."""
    return STAY_S if is_supervised() else None


def away_s(starts: int) -> float:
    """Return the seconds until a run that has started so many times is started again."""
    return min(MAX_AWAY_S, FIRST_AWAY_S * AWAY_GROWS_BY ** min(starts, 50))


def reschedule(waits: WaitsForBatch) -> Interrupted:
    """Have the flow run started again later; raises Pause, which ends this process.

    Returns an error if the server does not take the state, since the run is being cancelled.
    """
    now = datetime.now(UTC)
    at = now + timedelta(seconds=away_s(flow_run.run_count or 0))
    if waits.due_at is not None:
        # promise: lanes: a run that waits without a process starts again in time for finish_by
        at = min(at, max(now + timedelta(seconds=FIRST_AWAY_S), datetime.fromtimestamp(waits.due_at, UTC)))
    state: State[Any] = Scheduled(name=WAITING, message=str(waits), scheduled_time=at)
    run = UUID(flow_run.id)
    with get_client(sync_client=True) as client:
        with best_effort("the end of its process"):
            # promise: worker: a run that waits is cancelled at once
            _forget_process(client, run)
        accepted = retry_while_unavailable(lambda: client.set_flow_run_state(run, state))
    if accepted.state is None or not accepted.state.is_scheduled():
        return Interrupted("cancelled while it waited for its batches; this run starts once more and cancels them")
    raise Pause(state=state)


def _forget_process(client: SyncPrefectClient, run: UUID) -> None:
    """Have the server know that the run has no process: else a cancelled run is Cancelling for five minutes."""
    client.request("PATCH", "/flow_runs/{id}", path_params={"id": run}, json={"infrastructure_pid": None})
