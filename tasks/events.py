"""Prefect events with stable names and payloads, for automations; data/README.md lists them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from prefect.events import emit_event
from prefect.runtime import flow_run

from parquill.tasks.job import Job

_log = logging.getLogger("parquill")


@contextlib.contextmanager
def bearable(what: str) -> Iterator[None]:
    """Go on whatever the server does: what is shown must never cost a row."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever the server does, the run goes on
        _log.warning("%s could not be shown in Prefect (%s)", what, type(error).__name__)


def tell(name: str, job: Job, **payload: Any) -> None:
    """Emit `parquill.NAME` for a job; the payload holds figures and sentences, never a cell or a key."""
    related = []
    if flow_run.id:
        related = [{"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}]
    with bearable("an event"):
        emit_event(
            f"parquill.{name}",
            resource={"prefect.resource.id": f"parquill.job.{job.name}", "prefect.resource.name": job.name},
            related=related,
            payload={"job": job.name, "model": job.model, "labels": job.labels, **payload},
        )
