"""The table of promises in tests/README.md: each test of it exists, and runs for the ways to buy in whose column it is."""

from __future__ import annotations

import re
from pathlib import Path

from tests.tools.interfaces import KINDS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
SECTION = TEXT.split("## Promises on each way to buy completions")[1].split("\n## ")[0]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in SECTION.splitlines() if line.startswith("| ")]
NAMED = dict(re.findall(r"^- `([a-z-]+)`: `(tests/[\w/]+\.py::\w+)`$", SECTION, re.MULTILINE))
WAYS = [*KINDS, "llama.cpp"]
# What a test without a parameter is about, and what the fixtures run for.
BATCHES = {"batch", "azure batch"}
OF_ONE_KIND = {
    "kill-chat": {"chat"},
    "kill-batch": {"batch"},
    "kill-endpoints": {"endpoints"},
    "lost-batch": BATCHES,
    "quota": BATCHES,
    "calls-fail": BATCHES,
}
ALL, LIVE = set(WAYS), {name for name in KINDS if "batch" not in name}


def _source(name: str) -> str:
    """Return a test with its decorators."""
    file, _, test = NAMED[name].partition("::")
    text = (ROOT / file).read_text(encoding="utf-8")
    found = re.search(rf"(?:^@.*\n|^    .*\n|^\)\n)*^def {test}\((?:.*\n)+?(?=\n\n|\Z)", text, re.MULTILINE)
    assert found is not None, NAMED[name]
    return found[0]


def test_the_columns_are_all_ways_to_buy() -> None:
    """The table has a column for each way that the tests know, and a cell for each promise."""
    assert ROWS[0][0] == "promise"
    assert sorted(ROWS[0][1:]) == sorted(WAYS)
    assert {len(row) for row in ROWS} == {len(WAYS) + 1}
    assert len(ROWS) > 8


def test_every_cell_is_a_test() -> None:
    """Each cell names a test in the list; only the local model's limits and outages have none; no name is left over."""
    cells = {(row[0], way): cell for row in ROWS[1:] for way, cell in zip(ROWS[0][1:], row[1:], strict=True)}
    assert {way for (_, way), cell in cells.items() if cell == "-"} == {"llama.cpp"}
    assert {cell.strip("`") for cell in cells.values()} - {"-"} == set(NAMED)
    for name in NAMED:
        assert _source(name)


def test_a_test_runs_for_its_columns() -> None:
    """A test stands only in the columns of the ways for which it runs."""
    for row in ROWS[1:]:
        for way, cell in zip(ROWS[0][1:], row[1:], strict=True):
            if cell == "-":
                continue
            source = _source(cell.strip("`"))
            if '"make", [*LIVE, LOCAL]' in source:
                assert way in {*LIVE, "llama.cpp"}, (cell, way)
            elif "(make: Make" in source:
                assert way in ALL
            elif "LIVE, indirect=True" in source:
                assert way in LIVE, (cell, way)
            elif 'parametrize("name", [' in source:
                assert f'"{way}"' in source, (cell, way)
            else:
                assert way in OF_ONE_KIND[cell.strip("`")]
