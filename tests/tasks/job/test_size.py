"""A job that is too large for Prefect to store is refused with a clear message, before anything is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefect._internal.schemas.validators import validate_parameter_size
from prefect.settings.models.server.api import ServerAPISettings

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import load_job, make_job
from parquill.tasks.job.size import MAX_PARAMETER_BYTES, SETTING, check_size

LEAST: dict[str, Any] = {"name": "x", "input": "i", "output": "o", "model": "m", "max_output_tokens": 1}


def _job(letters: int, letter: str = "x", **changes: Any) -> Any:
    given = {**LEAST, "prompt": {"user": "{{ x }}"}, "vars": {"words": letter * letters}}
    return make_job({**given, **changes})


def test_the_limit_is_prefects() -> None:
    """The limit is the default of Prefect's own setting."""
    assert ServerAPISettings.model_fields["max_parameter_size"].default == MAX_PARAMETER_BYTES


@pytest.mark.parametrize("letter", ["x", "é", "漢", "😀", '"', "\n"])
def test_what_passes_is_taken_by_prefect(letter: str) -> None:
    """The largest job that passes, in any script, also passes Prefect's own check with the other parameters."""
    low, high = 0, MAX_PARAMETER_BYTES
    while high - low > 1:
        middle = (low + high) // 2
        try:
            check_size(_job(middle, letter), {})
            low = middle
        except BadJob:
            high = middle
    statuses = ["ok", "truncated", "invalid", "refused", "failed", "rejected", "not_sent"]
    dumped = _job(low, letter).model_dump(mode="json")
    parameters = {"job": dumped, "date": "2026-11-29", "limit": 10**12, "redo": statuses}
    validate_parameter_size(parameters, MAX_PARAMETER_BYTES)
    size = len(json.dumps(parameters, separators=(",", ":")))
    assert MAX_PARAMETER_BYTES - size < 400  # hardly any job that Prefect accepts is refused


def test_the_refusal_says_what_to_do() -> None:
    """A refusal names the largest setting, its size and where to put it, and shows none of its content."""
    with pytest.raises(BadJob) as caught:
        check_size(_job(600_000, "q"), {})
    message = str(caught.value)
    assert "put `vars` (600,012 of them) into a file" in message
    assert "`vars: vars.json`" in message
    assert "at most 524,288" in message
    assert "qqq" not in message
    schema = {"type": "object", "description": "q" * 600_000}
    with pytest.raises(BadJob, match=r"`response_format: response_format.json`"):
        check_size(_job(1, response_format=schema), {})
    with pytest.raises(BadJob, match=r"`prompt` is .* of them; make it shorter"):
        check_size(_job(1, prompt={"user": "q" * 600_000}), {})


def test_another_limit_of_the_server() -> None:
    """A limit that the server gets from the environment is used; 0 means no limit."""
    check_size(_job(600_000), {SETTING: "0"})
    check_size(_job(600_000), {SETTING: "700000"})
    with pytest.raises(BadJob, match="at most 1,000"):
        check_size(_job(2_000), {SETTING: "1000"})


def test_every_command_refuses_it(tmp_path: Path) -> None:
    """A job file that is too large is refused when it is loaded; the same words in a file of their own are accepted."""
    words = {f"term{i}": "x" * 90 for i in range(6_000)}
    given = {**LEAST, "prompt": {"user": "{{ x }}"}}
    (tmp_path / "job.json").write_text(json.dumps({**given, "vars": {"glossary": words}}))
    with pytest.raises(BadJob, match="put `vars`"):
        load_job(tmp_path / "job.json")
    (tmp_path / "glossary.json").write_text(json.dumps(words))
    (tmp_path / "job.json").write_text(json.dumps({**given, "vars": {"glossary": str(tmp_path / "glossary.json")}}))
    load_job(tmp_path / "job.json")
