"""The JSON schema of a job file accepts what the loader accepts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from parquill.flows.cli.starter import STARTER, starter_for
from parquill.tasks.job.json_schema import job_schema
from parquill.tasks.job.load import make_job, parse_yaml
from parquill.tasks.job.settings import Job

ROOT = Path(__file__).parents[3]
SWITCHED = re.sub(r"^( *)# (?=[a-z_]+: )", r"\1", STARTER, flags=re.MULTILINE).replace("# A Parquill job.", "#")
MINIMAL: dict[str, Any] = {
    "name": "x",
    "input": "x",
    "output": "y",
    "model": "m",
    "max_output_tokens": 1,
    "prompt": "{{ text }}",
}


def faults(schema: dict[str, Any], value: Any) -> list[str]:
    """Return the faults that a schema finds in a value that was read from YAML; a date is text there."""
    plain = json.loads(json.dumps(value, default=str))
    return [error.message for error in Draft202012Validator(schema).iter_errors(plain)]


@pytest.mark.parametrize("text", [STARTER, SWITCHED, *(p.read_text() for p in sorted(ROOT.glob("data/jobs/*-*.yaml")))])
def test_a_job_is_valid(text: str) -> None:
    """The starter, the starter with every commented setting switched on, and the sample jobs match the schema."""
    job = parse_yaml(text, "the job")
    make_job(job)
    assert faults(job_schema(), job) == []


def test_settings_of_deployments_are_valid() -> None:
    """The settings in prefect.yaml for the ready flows match the schema, except for those that the flow adds."""
    schema = {**job_schema(), "required": []}
    document = parse_yaml((ROOT / "prefect.yaml").read_text(encoding="utf-8"), "prefect.yaml")
    settings = [each["parameters"]["settings"] for each in document["deployments"] if "parameters" in each]
    assert len(settings) == 2
    assert [fault for each in settings for fault in faults(schema, each)] == []


@pytest.mark.parametrize(
    "change",
    [
        {"bugdet": {"run_usd": 1}},
        {"budget": {"run_us": 1}},
        {"budget": {"run_usd": 0}},
        {"budget": {"run_usd": "$5"}},
        {"max_output_tokens": "ten"},
        {"endpoint": {"api": "chats"}},
        {"prompt": 5},
        {"name": None},
    ],
    ids=str,
)
def test_a_mistake_is_found(change: dict[str, Any]) -> None:
    """An unknown setting, a value out of range, a wrong word or a missing setting does not match the schema."""
    assert faults(job_schema(), MINIMAL) == []
    assert faults(job_schema(), {**MINIMAL, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": {"user": "{{ text }}"}},
        {"budget": {"run_usd": "5.00"}},
        {"endpoint": {"query": {"api-version": 2}}},
        {"response_format": "schema.json"},
        {"vars": "vars.yaml"},
    ],
    ids=str,
)
def test_short_and_long_forms_are_valid(change: dict[str, Any]) -> None:
    """Each form of a setting that the loader accepts also matches the schema."""
    make_job({**MINIMAL, **change})
    assert faults(job_schema(), {**MINIMAL, **change}) == []


def test_the_schema_helps_an_editor() -> None:
    """The schema is valid, has a title, and describes every setting."""
    schema = job_schema()
    Draft202012Validator.check_schema(schema)
    assert schema["title"] == "Parquill job"
    assert schema["properties"].keys() == Job.model_fields.keys()
    for group in (schema, *schema["$defs"].values()):
        assert all(each["description"] for each in group["properties"].values())


def test_the_starter_names_a_schema_that_is_there(tmp_path: Path) -> None:
    """The starter names job.schema.json if that file is in the same folder, and is a valid job either way."""
    path = tmp_path / "job.yaml"
    assert starter_for(path) == STARTER
    (tmp_path / "job.schema.json").write_text("{}")
    text = starter_for(path)
    assert text == f"# yaml-language-server: $schema=job.schema.json\n{STARTER}"
    make_job(parse_yaml(text, "the starter"))
