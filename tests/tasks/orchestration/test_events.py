"""A failure to show something in Prefect costs neither a row nor minutes."""

from __future__ import annotations

import logging

import pytest
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, PREFECT_HOME, temporary_settings

from parquill.tasks.orchestration.events import TRIES, best_effort


@pytest.mark.parametrize(("set_to", "within"), [(20, TRIES), (1, 1), (0, 0)])
def test_what_is_shown_is_tried_a_few_times(set_to: int, within: int) -> None:
    """Prefect's clients retry as often as they are set to, but twice at most.

    No other setting changes, and this one is restored afterward.
    """
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: set_to}):
        seen = []  # compared outside, since `best_effort` would swallow an AssertionError
        with best_effort("a thing"):
            seen += [PREFECT_CLIENT_MAX_RETRIES.value(), PREFECT_HOME.value()]
            with best_effort("a thing in it"):
                seen.append(PREFECT_CLIENT_MAX_RETRIES.value())
        assert seen == [within, PREFECT_HOME.value(), within]
        assert PREFECT_CLIENT_MAX_RETRIES.value() == set_to


def test_what_cannot_be_shown_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """If something cannot be shown, the run continues; its log says what is missing, but not the error's text."""

    def fail() -> None:
        raise RuntimeError("CANARY")

    with caplog.at_level(logging.WARNING, "parquill"), best_effort("the estimate"):
        fail()
    assert [record.message for record in caplog.records] == [
        "the estimate could not be shown in Prefect (RuntimeError)"
    ]
