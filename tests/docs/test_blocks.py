"""The code on the pages works: jobs are valid, Python compiles, JSON and YAML parse."""

from __future__ import annotations

import ast
import importlib
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from parquill.tasks.job.json_schema import job_schema
from parquill.tasks.job.load import make_job, merge, parse_yaml
from parquill.tasks.job.settings import Job
from tests.docs.pages import Block, blocks, name_of, pages
from tests.tasks.job.test_json_schema import faults

MINIMAL = {"name": "x", "input": "x", "output": "y", "model": "m", "max_output_tokens": 1}


def _blocks(*languages: str) -> list[Any]:
    return [
        pytest.param(block, id=f"{name_of(page)}:{block.line}")
        for page in pages()
        for block in blocks(page.read_text(encoding="utf-8"))
        if block.language in languages
    ]


def jobs(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the jobs in a YAML document: the document itself, or its `job`; a part of a job is completed."""
    if isinstance(value, Mapping):
        if value and value.keys() <= Job.model_fields.keys():
            prompt = {} if {"prompt", "messages_column"} & value.keys() else {"prompt": "{{ x }}"}
            yield merge({**MINIMAL, **prompt}, value)
        elif isinstance(inner := value.get("job"), Mapping):
            yield dict(inner)
        else:
            for each in value.values():
                yield from jobs(each)
    elif isinstance(value, list):
        for each in value:
            yield from jobs(each)


def read(text: str) -> Any:
    """Read a block of YAML, in which `<<: *name` may refer to an anchor that is not shown."""
    return parse_yaml(re.sub(r"<<: \*\w+", "anchor: elsewhere", textwrap.dedent(text)), "the block")


@pytest.mark.parametrize("block", _blocks("yaml", "yml"))
def test_every_yaml_block_is_valid(block: Block) -> None:
    """A block of YAML parses, and the loader and the schema accept each job in it, whole or in part."""
    for job in jobs(read(block.text)):
        make_job(job)
        assert faults(job_schema(), job) == []


@pytest.mark.parametrize("block", _blocks("python", "py"))
def test_every_python_block_compiles(block: Block) -> None:
    """A block of Python compiles, and its imports from Parquill exist."""
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "parquill":
            module = importlib.import_module(str(node.module))
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.partition(".")[0] == "parquill":
                    importlib.import_module(name.name)


@pytest.mark.parametrize("block", [*_blocks("json"), pytest.param(Block("json", "{}", 0), id="none")])
def test_every_json_block_can_be_read(block: Block) -> None:
    """A block of JSON is JSON."""
    json.loads(block.text)


def test_jobs_are_found() -> None:
    """A whole job, a part of a job and the job of a deployment are found; other documents have none."""
    assert [job["model"] for job in jobs({"model": "a"})] == ["a"]
    assert [job["name"] for job in jobs([{"anchor": 1, "parameters": {"job": {"name": "b"}}}])] == ["b"]
    assert list(jobs({"services": {"db": {"image": "postgres"}}})) == []
