"""Parameters that canonical JSON cannot hold (2**60, NaN, a date, integer keys) are refused with a clear message."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from parquill.tasks.errors import BadJob, RowFault
from parquill.tasks.prompts.request import KeyMaker
from tests.tools.small_jobs import LEAST, resolved_job


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": {"seed": 2**60}},
        {"parameters": {"temperature": float("nan")}},
        {"parameters": {"metadata": {"day": dt.date(2026, 1, 1)}}},
        {"parameters": {"logit_bias": {50256: -100}}},
        {"parameters": {"stop": "\ud800"}},
        {"response_format": {"type": "object", "properties": {"a": {"type": "integer", "maximum": 2**63 - 1}}}},
    ],
    ids=str,
)
def test_settings_that_json_cannot_hold_are_refused(changes: dict[str, Any]) -> None:
    """A setting that JSON cannot hold exactly is refused with a BadJob that names it, never with a traceback."""
    (setting,) = changes
    with pytest.raises(BadJob, match=f"`{setting}`: "):
        KeyMaker(resolved_job({**LEAST, **changes}))


def test_a_rows_parameters_have_the_code_of_parameters() -> None:
    """A row whose parameters cannot be written as JSON is rejected as bad_parameters, not as bad_messages."""
    with pytest.raises(RowFault) as caught:
        KeyMaker(resolved_job(LEAST)).key([{"role": "user", "content": "a"}], {"seed": 2**60}, [])
    assert caught.value.code == "bad_parameters"
