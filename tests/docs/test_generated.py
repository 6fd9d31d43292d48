"""The reference is the generator's output for the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from parquill.tasks import errors
from parquill.tasks.errors import EXIT_CODES, ParquillError
from parquill.tasks.llm.outcomes import NEXT_STEPS, Retry
from parquill.tasks.storage.columns import MEANINGS, result_fields
from tests.docs.generate import FOLDER, MAKERS, error_states, fill, parts_of, table
from tests.docs.pages import ROOT, name_of

PAGES = sorted(FOLDER.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_is_up_to_date(page: Path) -> None:
    """Each generated part matches the code; `make docs` updates it."""
    text = page.read_text(encoding="utf-8")
    assert fill(text) == text


def test_every_part_is_shown_once() -> None:
    """Each table that can be generated is in the reference once."""
    shown = [name for page in PAGES for name in parts_of(page.read_text(encoding="utf-8"))]
    assert sorted(shown) == sorted(MAKERS)


def test_a_changed_part_is_found() -> None:
    """A generated part that was edited is replaced, and the text around it is kept."""
    page = "before\n<!-- generated: labels -->\nedited\n<!-- end -->\nafter\n"
    made = fill(page)
    assert made != page
    assert made == f"before\n<!-- generated: labels -->\n\n{MAKERS['labels']()}\n<!-- end -->\nafter\n"


def test_a_bar_in_a_cell_is_escaped() -> None:
    """A cell with a bar stays one cell."""
    assert table(["a"], [["x|y"]]) == "| a |\n| --- |\n| x\\|y |\n"


def _kinds(kind: type[ParquillError]) -> Iterator[type[ParquillError]]:
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield each
            yield from _kinds(each)


def test_every_error_is_told() -> None:
    """Each error has a line with its exit code, and each exit code has its meaning."""
    rows = [line.split(" | ") for line in error_states().splitlines()[2:]]
    kinds = list(_kinds(ParquillError))
    assert len(rows) == len(kinds)
    assert {int(row[1]) for row in rows} | {0} == EXIT_CODES.keys()
    tree = {name: int(code) for name, code in re.findall(r"── (\w+) +exit (\d+)", errors.__doc__ or "")}
    assert tree == {kind.__name__: kind.exit_code for kind in kinds}


def test_every_meaning_is_of_something() -> None:
    """Each column and each next step has a meaning, and no meaning is left over."""
    assert list(MEANINGS) == [field.name for field in result_fields(result_fields(None)[0].type)]
    assert NEXT_STEPS.keys() == set(Retry)


def test_every_variable_is_told() -> None:
    """The environment page has each variable that the code names, and no other variable of Parquill."""
    page = (FOLDER / "environment.md").read_text(encoding="utf-8")
    code = "".join(
        path.read_text(encoding="utf-8") for top in ("tasks", "flows") for path in (ROOT / top).rglob("*.py")
    )
    names = r"(?:PARQUILL|PREFECT|AWS|AZURE_STORAGE|XDG|TIKTOKEN|GOOGLE_APPLICATION|OMP|UVICORN|SSL|DO_NOT)_[A-Z0-9_]+"
    read = set(re.findall(rf"\"({names})\"", code)) | set(re.findall(r"\b(PARQUILL_[A-Z_]+)\b", code))
    documented = set(re.findall(rf"`({names})", page))
    assert {
        name for name in read - documented if not name.startswith("PREFECT__")
    } == set()  # two underscores: internal
    assert {name for name in documented if name.startswith("PARQUILL_")} <= read
