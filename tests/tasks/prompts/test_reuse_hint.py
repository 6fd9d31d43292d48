"""If almost no row can be reused, a hint names the settings that changed, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from parquill.tasks.job.load import make_job
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.money.estimate import EstimateSum
from parquill.tasks.money.prices import price_of
from parquill.tasks.money.tokens import TokenCounter
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.prompts.reuse_hint import explain_reuse
from parquill.tasks.storage.folders import RunFolder


def _job(**changes: Any) -> ResolvedJob:
    least = {
        "name": "nightly",
        "input": "in",
        "output": "out",
        "prompt": {"system": "Be brief.", "user": "{{ text }}"},
        "model": "gpt-4o-mini",
        "max_output_tokens": 50,
        **changes,
    }
    return resolve_job(make_job(least), None, None, ())[0]


def _sum(job: ResolvedJob, rows: int = 20_000, reused: int = 12, rejected: int = 0) -> EstimateSum:
    _, options = resolve_job(job, None, None, ())
    total = EstimateSum(job, [price_of(job, options.day)], TokenCounter(job.model))
    total.rows, total.reused = rows, reused
    if rejected:
        total.rejected["null_value"] = rejected
    return total


class Runs:
    """The runs of a state folder, oldest first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.all: list[RunFolder] = []

    def add(self, job: ResolvedJob, sent: int = 20_000, *, journal: bool = True) -> str:
        index = len(self.all)
        run_id = f"20261123-000000-{'zyx'[index]}aaa"  # the same second, so that the names do not show the order
        folder = RunFolder(self._folder / run_id)
        folder.create()
        (folder.path / "job.json").write_bytes(orjson.dumps(job.model_dump(mode="json")))
        folder.plan.write_bytes(
            orjson.dumps({"shards": [{"to_send": sent}], "started_at": f"2026-11-23T00:00:00.{index}+00:00"})
        )
        if journal:
            folder.journal(0).touch()
        self.all.append(folder)
        return run_id


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_output_tokens": 60}, "max_output_tokens changed from 50 to 60"),
        ({"model": "gpt-4o"}, "model changed from gpt-4o-mini to gpt-4o"),
        ({"parameters": {"temperature": 0.5}}, "parameters.temperature changed from none to 0.5"),
        ({"parameters": {"stop": ["a", "b"]}}, "parameters.stop changed from none to [a, b]"),
        (
            {"endpoint": {"base_url": "https://llm.example/v1"}},
            "endpoint.base_url changed from https://api.openai.com/v1 to https://llm.example/v1",
        ),
        ({"endpoint": {"name": "main"}}, "endpoint.name changed from https://api.openai.com/v1 to main"),
        ({"endpoint": {"api": "responses"}}, "endpoint.api changed from chat to responses"),
        ({"dedupe": False}, "dedupe changed from true to false"),
        ({"for_each": {"language": ["fr", "de"]}}, "for_each.language changed from none to [fr, de]"),
        ({"parameters_column": "p"}, "parameters_column changed from none to p"),
    ],
)
def test_the_setting_is_named_with_both_values(runs: Runs, changes: dict[str, Any], words: str) -> None:
    """The hint shows a changed setting with its old and new value and the run since which it changed."""
    run_id = runs.add(_job())
    job = _job(**changes)
    assert explain_reuse(job, _sum(job), runs.all) == (
        f"only 12 of 20,000 rows can be reused: {words} since run {run_id}"
    )


@pytest.mark.parametrize("output", ["out", "elsewhere"])
def test_another_input_is_told(runs: Runs, output: str) -> None:
    """The hint names another input as the reason, and says if its results replace the earlier ones."""
    run_id = runs.add(_job())
    job = _job(input="other.parquet", output=output, max_output_tokens=60)
    hint = explain_reuse(job, _sum(job, reused=0), runs.all)
    assert hint is not None
    assert "rows can be reused: input changed" in hint
    assert "max_output_tokens changed from 50 to 60" in hint
    assert hint.endswith(f"since run {run_id}" + ", whose results this run replaces" * (output == "out"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": {"system": "SECRET", "user": "{{ text }}"}}, "prompt.system changed since"),
        ({"vars": {"glossary": {"cat": "SECRET"}}}, "vars.glossary changed since"),
        (
            {"response_format": {"type": "object", "properties": {"SECRET": {"type": "string"}}}},
            "response_format changed since",
        ),
        ({"parameters": {"logit_bias": {"SECRET": 1}}}, "parameters.logit_bias changed since"),
        ({"parameters": {"user": "SECRET" * 20}}, "parameters.user changed since"),
    ],
)
def test_texts_are_not_told(runs: Runs, changes: dict[str, Any], words: str) -> None:
    """For prompts, variables, schemas and long values, the hint says that they changed and never shows them."""
    runs.add(_job())
    job = _job(**changes)
    hint = explain_reuse(job, _sum(job, reused=0), runs.all)
    assert hint is not None
    assert hint.startswith("none of 20,000 rows can be reused: ")
    assert words in hint
    assert "SECRET" not in hint


def test_several_changes_are_all_told(runs: Runs) -> None:
    """The hint names all settings that changed, not only the first."""
    runs.add(_job())
    job = _job(model="gpt-4o", max_output_tokens=51)
    hint = explain_reuse(job, _sum(job), runs.all)
    assert hint is not None
    assert "model changed from gpt-4o-mini to gpt-4o, max_output_tokens changed from 50 to 51 since" in hint


def test_other_rows_are_told_as_such(runs: Runs) -> None:
    """If no setting of a request changed, the hint says that the earlier run has no answers to these rows.

    Budget and labels are not such settings.
    """
    runs.add(_job())
    job = _job(budget={"run_usd": 5}, labels={"a": "b"}, retry={"attempts": 2}, output="elsewhere")
    hint = explain_reuse(job, _sum(job), runs.all)
    assert hint is not None
    assert "no setting that goes into a request changed since run" in hint
    assert hint.endswith("which has no answers to these rows")
    single = _job(dedupe=False)
    runs.add(single)
    assert "identified by its file and number" in str(explain_reuse(single, _sum(single), runs.all))


def test_a_name_stands_for_the_address(runs: Runs) -> None:
    """An endpoint with the same name and another address is not a change."""
    runs.add(_job(endpoint={"name": "main", "base_url": "https://one.example/v1"}))
    job = _job(endpoint={"name": "main", "base_url": "https://two.example/v1"})
    assert "no setting that goes into a request changed" in str(explain_reuse(job, _sum(job), runs.all))


@pytest.mark.parametrize(("rows", "reused", "rejected"), [(20, 1, 0), (0, 0, 0), (5, 0, 5), (30, 1, 10)])
def test_nothing_is_told_where_enough_is_reused(runs: Runs, rows: int, reused: int, rejected: int) -> None:
    """If one row in twenty can be reused, or no row is left to send, there is no hint."""
    runs.add(_job())
    job = _job(max_output_tokens=60)
    assert explain_reuse(job, _sum(job, rows, reused, rejected), runs.all) is None


def test_nothing_is_told_without_an_earlier_run(runs: Runs) -> None:
    """A first run, or one after runs that sent nothing or lost their settings, gets no hint."""
    job = _job(max_output_tokens=60)
    assert explain_reuse(job, _sum(job), []) is None
    runs.add(_job(), journal=False)
    runs.add(_job())
    (runs.all[1].path / "job.json").unlink()
    assert explain_reuse(job, _sum(job), runs.all) is None


def test_the_run_that_matters_is_compared(runs: Runs) -> None:
    """The hint compares the latest run of this job that sent more than a few rows, before other jobs' runs."""
    large = runs.add(_job())
    runs.add(_job(max_output_tokens=60), sent=3)
    runs.add(_job(name="other", model="gpt-4o"))
    job = _job(max_output_tokens=60)
    hint = str(explain_reuse(job, _sum(job), runs.all))
    assert hint.endswith(f"max_output_tokens changed from 50 to 60 since run {large}")


def test_another_job_is_named(runs: Runs) -> None:
    """Without a run of this job, the hint compares the latest run of the shared state and names its job."""
    other = runs.add(_job(name="other"))
    job = _job(model="gpt-4o")
    hint = str(explain_reuse(job, _sum(job), runs.all))
    assert hint.endswith(f"model changed from gpt-4o-mini to gpt-4o since run {other} of the job other")
