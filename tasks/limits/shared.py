"""The limits that a run shares with others, as `limits.shared` says."""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

from parquill.tasks.limits.leased_meter import LeasedMeter
from parquill.tasks.limits.leases import Lessee, LimitDimension, LogFn, find_limit
from parquill.tasks.limits.lending import Lender
from parquill.tasks.prompts.run import Run


class Sharing(NamedTuple):
    """Who keeps the limits, None without a server; and where it is said how they are kept."""

    lender: Lender | None
    say: LogFn


ALONE = Sharing(None, logging.getLogger("parquill").log)


class SharedLimits:
    """The leases of one run, if its job shares limits and there is a lender; lives on the sender's loop.

    A limit that the job does not set, but that others share under the same name, holds for it too: what it sends counts
    for the service as well. `told` is what was said about them, for those who see no log.
    """

    def __init__(self, run: Run, sharing: Sharing) -> None:
        self._lender, self._log = sharing
        self._name = run.job.limits.shared
        self._largest = {"requests": 1, "tokens": run.estimate.largest_request}
        self.per_minute: dict[str, int | None] = {
            "requests": run.job.limits.requests_per_minute,
            "tokens": run.job.limits.tokens_per_minute,
        }
        self.told: list[str] = []
        self._lessees: list[Lessee] = []

    @property
    def meters(self) -> list[LeasedMeter]:
        """One meter for each limit that is shared, once they are leased."""
        return [lessee.meter for lessee in self._lessees]

    async def begin(self) -> None:
        """Begin to lease; `per_minute` is what holds for this run by itself from then on, in requests and in tokens.

        Raises BadJob when a request is too large for a limit that is shared.
        """
        if self._name is None:
            return
        if self._lender is None:
            text = "there is no Prefect server to share them by; this run keeps to its own limits"
            self.say(logging.WARNING, f"limits.shared: {text}")
            return
        # its own first: they wait for a lender that is busy, before it is asked what others share
        for name in sorted(self.per_minute, key=lambda name: self.per_minute[name] is None):
            if self.per_minute[name] is None:
                self.per_minute[name] = await find_limit(name, self._lender)
                self._tell_of_others(name)
            if (limit := self.per_minute[name]) is not None:
                kind = LimitDimension(name, limit, self._largest[name])
                self._lessees.append(Lessee(kind, self._lender, say=self.say, clock=time.monotonic))
                await self._lessees[-1].begin()

    async def end(self) -> None:
        """Lease nothing more."""
        for lessee in self._lessees:
            await lessee.end()
        if self._lender is not None:
            await self._lender.close()

    def say(self, level: int, text: str) -> None:
        """Say how limits are kept, in the log of the flow run and to those who see none."""
        self.told.append(text)
        self._log(level, text)

    def _tell_of_others(self, name: str) -> None:
        told, limit = f"limits.shared, {name}: the job sets no {name}_per_minute", self.per_minute[name]
        if limit is None:
            self.say(logging.INFO, f"{told}, and nobody is known to share one, so its {name} are not limited")
        else:
            self.say(logging.WARNING, f"{told}, but others that name it do: {limit:,} hold for this run too")
