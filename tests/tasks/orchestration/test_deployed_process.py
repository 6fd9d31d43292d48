"""Prefect's engines log a traceback only for an error that was not foreseen."""

from __future__ import annotations

import logging

import pytest

from parquill.tasks.errors import BadJob, Interrupted, RefusedByBudget, Unforeseen
from parquill.tasks.orchestration import deployed_process as process

ON_PURPOSE: list[type[Exception]] = [BadJob, RefusedByBudget, Interrupted]
UNFORESEEN: list[type[Exception]] = [Unforeseen, ValueError]


@pytest.mark.parametrize("name", ["flow_runs", "task_runs"])
@pytest.mark.parametrize("kind", ON_PURPOSE + UNFORESEEN)
def test_a_traceback_is_of_what_nobody_foresaw(name: str, kind: type[Exception]) -> None:
    """A run that ends on purpose logs the sentence of its state alone; only an unforeseen error logs a traceback."""
    process.on_flow_start()
    logger = logging.getLogger(f"prefect.{name}")

    def passes(error: Exception | None) -> bool:
        exc_info = (type(error), error, None) if error is not None else None
        return bool(logger.filter(logger.makeRecord(logger.name, logging.ERROR, __file__, 1, "x", (), exc_info)))

    assert passes(kind("x")) == (kind in UNFORESEEN)
    assert passes(None)
