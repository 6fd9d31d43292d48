"""The concurrency slot of a deployed run: a lease from Prefect's server, renewed while the run lives.

A deployment's concurrency limit gives each run a lease of a slot. Prefect 3.9.1 renews it for five minutes every four,
gives up after three failures in a row, and ends the run then: after it has paid for all its rows, since nothing can be
thrown into a thread that waits. Here

- a run outlives its slot: two runs of one job are kept apart by the lock on its folders, whatever Prefect knows;
- a server that is away is asked again for as long as the run lives, and one that was away for two minutes still knows
  the lease, so no second run is let in meanwhile (one that was restarted does not, unless its leases are on its disk);
- the slot of a machine that died is free after three minutes.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from prefect import flow_engine
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_run_logger

LEASE_EXPIRY_S = 180.0
RENEW_INTERVAL_S = 30.0  # what is left of a lease when the server goes away: two minutes and a half
GONE = 410


@contextmanager
def maintain_slot_lease(lease_id: UUID, _lease_duration: float = LEASE_EXPIRY_S, **_: Any) -> Iterator[None]:
    """Renew the lease of a slot in a thread of its own; one that is lost is a warning in the run's log."""
    over = threading.Event()
    # in the run's context, so that its log has the warning
    work = contextvars.copy_context().run
    thread = threading.Thread(target=work, args=(_hold, lease_id, over.wait), name="parquill-slot", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()  # it may be in the midst of asking a server that is away: nobody waits for that


def _hold(lease_id: UUID, wait: Callable[[float], bool]) -> None:
    with get_client(sync_client=True) as client:
        is_lost = not keep_lease(lambda: client.renew_concurrency_lease(lease_id, LEASE_EXPIRY_S), wait)
    if is_lost:
        get_run_logger().warning(
            "Prefect's server no longer knows the concurrency slot of this run. The run continues without it; "
            "the lock on its folders refuses a second run of the same job"
        )


def keep_lease(renew: Callable[[], object], wait: Callable[[float], bool]) -> bool:
    """Renew a lease until `wait`, given seconds, says that it is over; False once the server no longer knows it."""
    while True:
        try:
            renew()
        except PrefectHTTPStatusError as error:
            if error.response.status_code == GONE:
                return False
        except Exception:  # noqa: BLE001, S110 - whatever keeps the server from answering, it is asked again
            pass
        if wait(RENEW_INTERVAL_S):
            return True


# the engine has no setting for it; it looks the name up when a run begins, after the flow's file was imported
vars(flow_engine)["maintain_concurrency_lease"] = maintain_slot_lease
