"""What a run bought, by the names under which a service bills it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from parquill.tasks.money.ledger_uses import BilledUse
from parquill.tasks.prompts.run import Run
from parquill.tasks.prompts.run_uses import name_of_key, uses_of
from parquill.tasks.records import Totals, Use, UseKey
from tests.tasks.prompts.planned_run import plan_run

DAY = 20_000  # 2024-10-04
BILLED = Use(sent=3, billed=2, rows=2, settled_nano=7, prompt_tokens=5, completion_tokens=4)


def _run(folder: Path, **changes: Any) -> Run:
    run = plan_run(folder)
    began = datetime(2024, 10, 1, 23, tzinfo=UTC)
    return replace(run, started_at=began, job=run.job.model_copy(update=changes))


def test_what_no_record_says_is_the_run_s(tmp_path: Path) -> None:
    """A request in doubt after a kill has the day of the run's start, the run's lane and the job's model."""
    run = _run(tmp_path)
    doubt = Use(sent=1, in_doubt_nano=9)
    uses = {UseKey(DAY, "m-1", "flex"): BILLED, UseKey(): doubt, UseKey(DAY, None, "live"): Use(sent=4)}
    place = (run.job.endpoint.base_url, "OPENAI_API_KEY")
    assert uses_of(run, Totals(uses=uses)) == [
        BilledUse("2024-10-01", "gpt-4o-mini", "live", *place, 0, 0, 0, 0, 9),
        BilledUse("2024-10-04", "m-1", "flex", *place, 2, 5, 4, 7, 0),
    ]


def test_several_endpoints(tmp_path: Path) -> None:
    """Each of several endpoints has its own address, key and model; one that is no longer listed counts as the first."""
    run = _run(tmp_path)
    endpoints = [
        {"base_url": "https://a.example/v1", "api_key_env": "KEY_A"},
        {"base_url": "https://b.example/v1", "api_key_env": "KEY_B", "model": "b-model"},
    ]
    settings = run.job.model_dump(mode="json") | {"endpoints": endpoints}
    settings.pop("endpoint")
    run = replace(run, job=type(run.job).model_validate(settings))
    failed = Use(sent=1, billed=1, settled_nano=1)
    uses = {
        UseKey(DAY, None, "live", "a.example"): failed,
        UseKey(DAY, None, "live", "b.example"): failed,
        UseKey(DAY, None, "live", "gone.example"): failed,
    }
    found = [(use.model, use.service, use.key, use.settled_nano) for use in uses_of(run, Totals(uses=uses))]
    assert found == [
        ("b-model", "https://b.example/v1", "KEY_B", 1),
        ("gpt-4o-mini", "https://a.example/v1", "KEY_A", 2),
    ]


def test_the_name_of_a_key(tmp_path: Path) -> None:
    """A key is known by its variable or block, Azure's tokens by their kind; a service without a key has none."""
    endpoint = _run(tmp_path).job.endpoint
    local = endpoint.model_copy(update={"api_key_env": None})
    assert name_of_key(endpoint) == "OPENAI_API_KEY"
    assert name_of_key(local) == ""
    assert name_of_key(local.model_copy(update={"api_key_block": "night"})) == "night"
    assert name_of_key(local.model_copy(update={"auth": "azure"})) == "azure"
