"""The time bounds of tests are checked by `make nightly`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.tools.timing import within

ROOT = Path(__file__).parents[2]


STOPWATCHES = {"within", "timeit", "perf_counter", "process_time", "thread_time"}


def _bounds_time(node: ast.AST) -> bool:
    calls = (each.func for each in ast.walk(node) if isinstance(each, ast.Call))
    return any(STOPWATCHES & set(ast.unparse(each).split(".")) for each in calls)


def test_a_bound_is_checked_at_night_only() -> None:
    """A block that takes too long fails a timed run, and no other run."""
    for is_timed, moments in ((True, [0.0, 1.9]), (False, [0.0, 9.0])):
        with within(2, iter(moments).__next__, is_timed=is_timed):
            pass
    with pytest.raises(AssertionError, match=r"took 2\.5 s"), within(2, iter([0.0, 2.5]).__next__, is_timed=True):
        pass


def test_each_bound_is_selected_at_night() -> None:
    """Each test with a stopwatch is marked `timed` or `nightly`; otherwise no run would check its bound."""
    checked = 0
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if path == Path(__file__):
            continue
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and _bounds_time(node):
                marks = " ".join(ast.unparse(each) for each in node.decorator_list)
                assert "mark.timed" in marks or "mark.nightly" in marks, f"{path.name}: {node.name}"
                checked += 1
    assert checked >= 8
