"""The limits that a run shares with others, as `limits.shared` says."""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

from parquill.tasks.disk.run import Run
from parquill.tasks.wire.leased_meter import LeasedMeter
from parquill.tasks.wire.leases import Kind, Lessee, Say
from parquill.tasks.wire.lending import Lender


class Sharing(NamedTuple):
    """Who keeps the limits, None without a server; and where it is said how they are kept."""

    lender: Lender | None
    say: Say


ALONE = Sharing(None, logging.getLogger("parquill").log)


class SharedLimits:
    """The leases of one run, if its job shares limits and there is a lender; lives on the sender's loop.

    `told` is what was said about them, for those who see no log.
    """

    def __init__(self, run: Run, sharing: Sharing) -> None:
        limits, (lender, log) = run.job.limits, sharing
        self.told: list[str] = []
        self._lender = lender
        self._lessees: list[Lessee] = []
        if limits.shared is None:
            return

        def say(level: int, text: str) -> None:
            self.told.append(text)
            log(level, text)

        if lender is None:
            say(
                logging.WARNING,
                "limits.shared: there is no Prefect server to share them by; this run keeps to its own limits",
            )
            return
        for name, limit, largest in (
            ("requests", limits.requests_per_minute, 1),
            ("tokens", limits.tokens_per_minute, run.estimate.largest_request),
        ):
            if limit is not None:
                self._lessees.append(Lessee(Kind(name, limit, largest), lender, say=say, clock=time.monotonic))

    @property
    def meters(self) -> list[LeasedMeter]:
        """One meter for each limit that is shared."""
        return [lessee.meter for lessee in self._lessees]

    async def begin(self) -> None:
        """Begin to lease. Raises BadJob when a request is too large for a limit that is shared."""
        for lessee in self._lessees:
            await lessee.begin()

    async def end(self) -> None:
        """Lease nothing more."""
        for lessee in self._lessees:
            await lessee.end()
        if self._lender is not None:
            await self._lender.close()
