"""The concurrency slot of a deployed run: a lease from Prefect's server, renewed while the run lives.

A deployment's concurrency limit gives each run a lease of a slot. Prefect 3.9.1 renews it every four minutes for five
minutes, gives up after three failures in a row, and then ends the run: after the run has paid for all its rows, since
no exception can be raised in a waiting thread. This module changes that:

- A run outlives its slot: the lock on the job's folders keeps two runs of one job apart, whatever Prefect knows.
- The run tries to renew the lease as long as it lives. A server that was away for two minutes still knows the lease, so
  no second run starts meanwhile. A restarted server does not know it, unless it keeps leases on its disk.
- The slot of a machine that died is free after three minutes.
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
RENEW_INTERVAL_S = 30.0  # so at least two and a half minutes of a lease are left when the server goes away
GONE = 410


@contextmanager
def maintain_slot_lease(lease_id: UUID, _lease_duration: float = LEASE_EXPIRY_S, **_: Any) -> Iterator[None]:
    """Renew the lease of a slot in a separate thread; a lost lease is a warning in the run's log."""
    over = threading.Event()
    # in the run's context, so that the warning is in the run's log
    work = contextvars.copy_context().run
    thread = threading.Thread(target=work, args=(_hold, lease_id, over.wait), name="parquill-slot", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()  # not joined: the thread may be waiting for a server that is away


def _hold(lease_id: UUID, wait: Callable[[float], bool]) -> None:
    with get_client(sync_client=True) as client:
        is_lost = not keep_lease(lambda: client.renew_concurrency_lease(lease_id, LEASE_EXPIRY_S), wait)
    if is_lost:
        get_run_logger().warning(
            "Prefect's server no longer knows the concurrency slot of this run. The run continues without it; "
            "the lock on its folders refuses a second run of the same job"
        )


def keep_lease(renew: Callable[[], object], wait: Callable[[float], bool]) -> bool:
    """Renew a lease until `wait(seconds)` returns True; return False once the server no longer knows the lease."""
    while True:
        try:
            renew()
        except PrefectHTTPStatusError as error:
            if error.response.status_code == GONE:
                return False
        except Exception:  # noqa: BLE001, S110 - whatever the error is, the next interval tries again
            # promise: P5 the lease of a concurrency slot is still renewed after a server outage
            pass
        if wait(RENEW_INTERVAL_S):
            return True


def outlive_slots() -> None:
    """Have Prefect's engine renew slots as this module does. It has no setting for that.

    The engine looks the name up when a run begins, which is after the flow's file was imported.
    """
    # promise: P5 a run continues when its concurrency slot is lost
    vars(flow_engine)["maintain_concurrency_lease"] = maintain_slot_lease
