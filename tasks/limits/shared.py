"""The limits that a process shares: with other runs, as `limits.shared` says, and with other processes of its run."""

from __future__ import annotations

import logging
import secrets
import socket

from parquill.tasks.job.limit_settings import LimitSettings
from parquill.tasks.limits.lease_client import Caller, LeaseClient, LogFn
from parquill.tasks.limits.leased_meter import LeasedMeter
from parquill.tasks.limits.rate_ledger import RateHolder, RateLedger
from parquill.tasks.prompts.run import Run
from parquill.tasks.storage.boot_clock import seconds_since_boot

_log = logging.getLogger("parquill.limits")


class SharedLimits:
    """The leases of one process of a run whose job shares limits; lives on the sender's loop.

    A limit that the job does not set, but that others share under the same name, holds for it too: what it sends counts
    for the service as well. `messages` are what was said about them, for people who see no log.
    """

    def __init__(
        self, run: Run, limits: LimitSettings, call: Caller, log: LogFn | None = None, *, within_run: str | None = None
    ) -> None:
        """`limits` are the job's, or those of one of its endpoints.

        `within_run` is the name under which the processes of the run share limits that no other run shares.
        `call` runs a blocking call where it may block; `log` is that of the flow run.
        """
        self._log = log or _log.log
        is_limited = limits.requests_per_minute is not None or limits.tokens_per_minute is not None
        # promise: engines: the processes of a run keep its limits together
        self._name = limits.shared or (within_run if is_limited else None)
        self._call, self._run, self._is_of_run_alone = call, run, limits.shared is None
        self._largest = {"requests": 1, "tokens": run.estimate.largest_request}
        self.per_minute: dict[str, int | None] = {
            "requests": limits.requests_per_minute,
            "tokens": limits.tokens_per_minute,
        }
        self.messages: list[str] = []
        self._ledger: RateLedger | None = None
        self._clients: list[LeaseClient] = []

    @property
    def meters(self) -> list[LeasedMeter]:
        """One meter for each limit that is shared, once they are leased."""
        return [client.meter for client in self._clients]

    async def begin(self) -> None:
        """Begin to lease; `per_minute` is what holds for this process by itself from then on.

        Raises BadJob when a request is too large for a limit that is shared; LedgerFailed.
        """
        if self._name is None:
            return
        self._ledger = await self._call(RateLedger)
        run, me = self._run, f"{socket.gethostname()}-{secrets.token_hex(8)}"
        for dimension, own in self.per_minute.items():
            if own is None and self._is_of_run_alone:  # no other run can set it
                continue
            holder = RateHolder(
                self._name,
                dimension,
                me,
                run_id=run.run_id,
                job=run.job.name,
                host=socket.gethostname(),
                per_minute=own,
                largest=self._largest[dimension],
            )
            client = LeaseClient(holder, self._ledger, self._call, log=self.log, clock=seconds_since_boot)
            found = await client.begin()
            self._clients.append(client)
            self.per_minute[dimension] = found if own is None else own

    async def end(self) -> None:
        """Give back what is left, and lease nothing more."""
        for client in self._clients:
            await client.end()
        if self._ledger is not None:
            await self._call(self._ledger.close)

    def log(self, level: int, message: str) -> None:
        """Say how limits are kept, in the log of the flow run and to people who see none."""
        self.messages.append(message)
        self._log(level, message)
