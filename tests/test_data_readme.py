"""data/README.md is wrong when the summary is not what it says."""

from __future__ import annotations

import re
from pathlib import Path

import orjson

from parquill.tasks.llm.outcomes import NOT_SENT_CODES, ROW_CODES, TABLE
from tests.end_to_end.jobs import Jobs

TEXT = (Path(__file__).parents[1] / "data" / "README.md").read_text(encoding="utf-8")


def test_every_key_is_told(jobs: Jobs) -> None:
    """The page names every key of summary.json and of `estimate --json`, and no key that is not there."""
    settings = jobs.job(["a", "b"], price_as="gpt-4o")
    estimate = orjson.loads(jobs.run(settings, "--json", command="estimate").stdout)
    summary = jobs.run(settings).summary
    table = TEXT.split("## Summary")[1].split("\n\nA row that")[0]
    told = {name for line in table.splitlines() if line.startswith("| `") for name in _names(line.split("|")[1])}
    assert told == set(summary)
    assert set(summary["counted"]) <= _names(TEXT.split("`counted` has")[1].split("\n\n")[0])
    words = _names(TEXT.split("`estimate --json` has")[1].split("\n\n")[0])
    assert set(estimate) - set(summary["estimate"]) <= words


def test_every_error_code_is_told() -> None:
    """The page has each code of the table of outcomes with its money and status, and every code of rows not sent."""
    page = TEXT.split("### Error codes")[1].split("\n**When")[0]
    told: dict[str, tuple[str, str]] = {}
    for line in page.splitlines():
        if line.startswith("| `"):
            codes, money, status = line.split("|")[1:4]
            told |= {code: (money.strip(), status.strip()) for code in _names(codes)}
    assert told == {rule.code: (rule.money.value, rule.status) for rule in TABLE.values() if rule.code}
    assert _names(page.split("Rejected rows have")[1].split("`error_message`")[0]) == ROW_CODES | NOT_SENT_CODES.keys()


def _names(text: str) -> set[str]:
    return set(re.findall(r"`([a-z_0-9]+)`", text))
