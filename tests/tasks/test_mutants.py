"""The list of mutants fits the code: checked on every change, so that the nightly run of the mutants can be believed."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache

import pytest

from tests.tools.mutants import ROOT, Mutant, read_mutants

MUTANTS = read_mutants()


@cache
def _text(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


@cache
def _tests_of(file: str) -> frozenset[str]:
    """Names of the tests that a file defines or assigns (a Hypothesis state machine's TestCase)."""
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
    """Each mutant's text stands exactly once in its file, differs from its replacement, and has tests that exist."""
    assert _text(mutant.file).count(mutant.text) == 1, mutant.file
    assert mutant.text != mutant.replacement
    assert mutant.tests
    assert [test for test in mutant.tests if not _is_there(test)] == []


def test_no_mutant_is_listed_twice() -> None:
    """Two entries with the same text and replacement would try the same mutant twice."""
    listed = Counter((mutant.file, mutant.text, mutant.replacement) for mutant in MUTANTS)
    assert [each for each, times in listed.items() if times > 1] == []
