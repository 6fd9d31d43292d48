"""An output folder inside the input is refused before the first run. The next run would read its results as input."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts.source import find_source


@pytest.mark.parametrize("location", ["{}", "{}/**/*.parquet"])
def test_an_output_inside_the_input_is_refused_before_the_first_run(tmp_path: Path, location: str) -> None:
    """The refusal comes before the first payment."""
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="inside the input"):
        find_source(location.format(tmp_path), str(tmp_path / "out"))


def test_also_with_dots_in_the_path(tmp_path: Path) -> None:
    """A path with dots is resolved first: `runs/../out` is `out`."""
    (tmp_path / "out" / "results").mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "out" / "results" / "a.parquet")
    with pytest.raises(BadInput, match="inside the input"):
        find_source(str(tmp_path), str(tmp_path / "runs" / ".." / "out"))
