"""The list of mutants fits the code, so that the nightly run of the mutants can be trusted."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache

import pytest

from tests.tools.mutants import ANCHOR, ROOT, Mutant, read_mutants

MUTANTS = read_mutants()


@cache
def _text(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


@cache
def _tests_of(file: str) -> frozenset[str]:
    """Return the tests that a file defines or assigns (a Hypothesis state machine's TestCase)."""
    names = set()
    for node in ast.parse(_text(file)).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(names)


def _is_there(test: str) -> bool:
    file, _, name = test.partition("::")
    if not (ROOT / file).is_file():
        return False
    return not name or name.partition("[")[0].partition("::")[0] in _tests_of(file)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.promise)
def test_a_mutant_can_be_made_and_has_its_tests(mutant: Mutant) -> None:
    """Each mutant's comment is in its file once, with the text to change below it, and its tests exist."""
    changed = mutant.changed(_text(mutant.file))
    assert changed != _text(mutant.file)
    ast.parse(changed)
    assert mutant.tests
    assert [test for test in mutant.tests if not _is_there(test)] == []


def test_each_comment_has_its_mutant() -> None:
    """Every comment that names a promise has an entry in the list, so that a reader can rely on it."""
    found = {
        (str(path.relative_to(ROOT)), line.partition(ANCHOR)[2])
        for folder in ("tasks", "flows")
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip().startswith(ANCHOR)
    }
    assert found == {(mutant.file, mutant.promise) for mutant in MUTANTS if mutant.file.startswith(("tasks", "flows"))}


def test_no_mutant_is_listed_twice() -> None:
    """Each promise has one entry, and no two entries make the same change."""
    names = Counter(mutant.promise for mutant in MUTANTS)
    changes = Counter((mutant.file, mutant.text, mutant.replacement) for mutant in MUTANTS)
    assert [name for name, times in names.items() if times > 1] == []
    assert [change for change, times in changes.items() if times > 1] == []


def test_a_mutant_whose_line_moved_is_found() -> None:
    """A comment that is missing, appears twice, or has another line below it raises an error that names the promise."""
    mutant = Mutant("C2 a torn end is cut", "x.py", "cut()", "pass", ["tests/x.py"])
    anchor = f"{ANCHOR}C2 a torn end is cut\n"
    assert mutant.changed(f"cut()\n{anchor}cut()\n") == f"cut()\n{anchor}pass\n"
    for text in ("cut()\n", f"{anchor}{anchor}cut()\n", f"{anchor}other()\n", anchor + "x\n" * 50 + "cut()\n"):
        with pytest.raises(ValueError, match="C2 a torn end is cut"):
            mutant.changed(text)
