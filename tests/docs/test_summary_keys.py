"""The reference has the keys that a run and an estimate write."""

from __future__ import annotations

import re

import orjson
import pytest

from parquill.tasks.llm.dry_run import ERROR_KEYS, PILOT_KEYS
from parquill.tasks.money.estimate import ESTIMATE_KEYS, FLAT_KEYS
from parquill.tasks.results.summary import SUMMARY_KEYS
from tests.docs.generate import FOLDER
from tests.tools.jobs import Jobs

pytestmark = pytest.mark.integration


def test_every_key_has_its_meaning(jobs: Jobs) -> None:
    """The reference has exactly the keys of summary.json and of `estimate --json`."""
    settings = jobs.job(["a", "b"], price_as="gpt-4o")
    estimate = orjson.loads(jobs.run(settings, "--json", command="estimate").stdout)
    pilot = orjson.loads(jobs.run(settings, "--json", "--pilot", "1", command="estimate").stdout)
    summary = jobs.run(settings).summary
    assert summary.keys() == SUMMARY_KEYS.keys()
    assert summary["estimate"].keys() == ESTIMATE_KEYS.keys()
    assert estimate.keys() == FLAT_KEYS.keys() | ESTIMATE_KEYS.keys()
    assert pilot.keys() == estimate.keys() | PILOT_KEYS.keys()
    failed = orjson.loads(jobs.run({**settings, "max_output_tokens": 10_000_000}, "--json", command="estimate").stdout)
    assert failed.keys() - estimate.keys() == ERROR_KEYS.keys()
    page = (FOLDER / "summary.md").read_text(encoding="utf-8")
    counted = page.split("## counted")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", counted, re.MULTILINE)) == summary["counted"].keys()
