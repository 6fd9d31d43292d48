"""data/README.md describes the contents of data/."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT

DATA = ROOT / "data"


def test_everything_in_data_is_told() -> None:
    """The page names each file and folder of data/ that users may look for, and only existing ones."""
    named = {name.rstrip("/") for name in re.findall(r"^\| `([^`]+)`", (DATA / "README.md").read_text(), re.MULTILINE)}
    assert [name for name in named if not (DATA / name).exists()] == []
    present = {path.name for path in DATA.iterdir()} - {"__init__.py", "__pycache__", "README.md", "production.md"}
    present -= {"samples", "jobs"}
    present |= {f"jobs/{path.name}" for path in (DATA / "jobs").iterdir()}
    present |= {f"samples/{path.name}" for path in (DATA / "samples").glob("*.parquet")}
    assert named == present
