"""The setting `engine`: where a run is completed."""

from __future__ import annotations

import os
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from parquill.tasks.job.base import Number, Settings

Workers = Annotated[int, Field(ge=1, le=256), Number]


class EngineSettings(Settings, title="Engine"):
    """Where a run is completed."""

    kind: Literal["threads", "processes"] = Field(
        "threads",
        description="threads: in the process of the run, enough for most services; processes: in several processes of "
        "this machine, for services that answer faster than one core can send",
    )
    workers: Workers | None = Field(
        None, description="With kind: processes, how many processes; default: one for each core"
    )

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if self.kind == "threads" and self.workers is not None:
            raise ValueError("`workers` needs `kind: processes`")
        return self

    def parts(self, max_at_once: int) -> int:
        """Return in how many parts a run is completed at the same time; each has a place for at least one request."""
        if self.kind == "threads":
            return 1
        return min(self.workers or len(os.sched_getaffinity(0)), max_at_once)
