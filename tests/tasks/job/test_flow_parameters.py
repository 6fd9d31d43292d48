"""A flow's parameters are validated by its signature, and a refusal does not repeat a text that was given."""

from __future__ import annotations

from datetime import date as Date  # noqa: N812
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from parquill.tasks.errors import BadJob
from parquill.tasks.job.flow_parameters import Arguments
from parquill.tasks.job.load import make_job
from parquill.tasks.job.settings import Job, RowLimit, Status, Usd

CANARY = "CANARY-1234"
JOB = {
    "name": "a",
    "input": "in.parquet",
    "output": "out",
    "prompt": {"user": "{{ text }}"},
    "model": "gpt-4o-mini",
    "max_output_tokens": 5,
}


def _flow(
    job: Job,
    date: Date | None = None,
    limit: RowLimit | None = None,
    redo: list[Status] | None = None,
    pilot: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None,
    glossary: dict[str, dict[str, str]] | str | None = None,
    run_usd: Usd | None = None,
) -> None: ...


def _validate(**given: Any) -> dict[str, Any]:
    arguments = Arguments(_flow)
    bound = arguments.signature.bind(**{"job": JOB, **given})
    arguments.validate(bound)
    return dict(bound.arguments)


def test_values_become_true() -> None:
    """A mapping becomes a job, and a JSON text becomes its value; a job that is one already stays the same object."""
    found = _validate(date="2026-11-23", limit=3, run_usd="0.5", pilot="auto", redo=["failed"])
    assert found == {
        "job": make_job(JOB),
        "date": Date(2026, 11, 23),
        "limit": 3,
        "run_usd": Decimal("0.5"),
        "pilot": "auto",
        "redo": ["failed"],
    }
    job = make_job(JOB)
    assert _validate(job=job)["job"] is job


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"job": {**JOB, "messages_column": "m"}}, "set either `prompt` or `messages_column`"),
        ({"job": {**JOB, "modle": CANARY}}, "unknown setting `modle`; did you mean `model`?"),
        ({"job": {**JOB, "price": {"usd_per_mtok_input": 1}}}, "the setting `price.usd_per_mtok_output` is missing"),
        ({"job": {**JOB, "name": " "}}, "`name`: string should match pattern '\\S'"),
        ({"job": CANARY}, "a job is a mapping of settings"),
        (
            {"job": {**JOB, "vars": [CANARY]}},
            "`vars`: input should be a valid dictionary, or input should be a valid string",
        ),
        (
            {"job": {**JOB, "labels": {"str": [CANARY], "int": [CANARY]}}},
            "`labels.str`: input should be a valid string; `labels.int`: input should be a valid string",
        ),
        ({"date": "yesterday"}, "`date`: input should be a valid date or datetime, input is too short"),
        ({"limit": 0}, "`limit`: input should be greater than or equal to 1 (it is 0)"),
        (
            {"pilot": CANARY},
            "`pilot`: input should be a valid integer, unable to parse string as an integer, or input should be 'auto'",
        ),
        ({"glossary": [CANARY]}, "`glossary`: input should be a valid dictionary, or input should be a valid string"),
        ({"glossary": {"fr": {"a": [CANARY]}}}, "`glossary.fr.a`: input should be a valid string"),
        ({"run_usd": 1e-12}, "`run_usd`: decimal input should have no more than 9 decimal places (it is 1e-12)"),
        ({"run_usd": True}, "`run_usd`: a number is needed, not true or false"),
        (
            {"job": {**JOB, "model": 3, "max_output_tokens": 0}, "redo": [CANARY]},
            (
                "`model`: input should be a valid string (it is 3); `max_output_tokens`: input should be greater than or "
                "equal to 1 (it is 0); `redo.0`: input should be 'ok', 'truncated', 'invalid', 'refused', 'failed', "
                "'rejected' or 'not_sent'"
            ),
        ),
    ],
)
def test_a_fault_is_one_sentence(given: dict[str, Any], message: str) -> None:
    """A refusal names each wrong setting or parameter in one sentence, and never repeats a text that was given."""
    with pytest.raises(BadJob) as caught:
        _validate(**given)
    assert str(caught.value) == message
    assert CANARY not in repr(caught.value.__context__)
