"""An odd setting, folder or date is read as text or refused with a clear message (exit 2), never with a traceback."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import make_job, parse_yaml
from parquill.tasks.job.resolved import expand_dates, resolve
from parquill.tasks.money.prices import price_of
from parquill.tasks.prompts.planner import Planner
from parquill.tasks.prompts.source import find_source

LEAST = {
    "name": "x",
    "input": "i",
    "output": "o",
    "prompt": {"user": "x"},
    "model": "gpt-4o-mini",
    "max_output_tokens": 5,
}


def test_a_folder_with_two_signs(tmp_path: Path) -> None:
    """A partition value such as --5 is read as text."""
    (tmp_path / "k=--5").mkdir()
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "k=--5" / "a.parquet")
    assert find_source(str(tmp_path)).files[0].partitions == (("k", "--5"),)


def test_a_home_that_is_not_there() -> None:
    """A path in the home folder of a user who does not exist is refused."""
    with pytest.raises(BadJob):
        resolve(make_job({**LEAST, "input": "~nobody-of-that-name/x"}), date(2026, 11, 23))


@pytest.mark.parametrize("text", ["{date-1}", "{date+1}"])
def test_a_day_beyond_the_calendar(text: str) -> None:
    """A date that no calendar has is refused."""
    with pytest.raises(BadJob):
        expand_dates(text, date.min if "-" in text else date.max)


@pytest.mark.parametrize("text", ['a: !!int ""', "a: !!bool x"])
def test_a_tag_that_does_not_fit(text: str) -> None:
    """YAML with a tag that does not fit its value is refused."""
    with pytest.raises(BadJob):
        parse_yaml(text, "here")


def test_a_for_each_beyond_64_bits(tmp_path: Path) -> None:
    """A for_each value that no column can hold is refused."""
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(BadJob):
        job = resolve(
            make_job({**LEAST, "input": str(tmp_path / "a.parquet"), "for_each": {"n": [10**30]}}), date(2026, 11, 23)
        )

        class Rows:
            def write(self, batch: object, to_send: int) -> None: ...

        Planner(job, find_source(job.input), price_of(job, date(2026, 11, 23)), tmp_path).plan(Rows())
