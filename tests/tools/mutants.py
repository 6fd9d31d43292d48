"""Changes each line that keeps a promise, one at a time, and requires a failing test: `make mutants`.

A comment in the code, `# promise: C2 a torn end is cut`, is above each line that keeps a promise. The list is
mutants.json: for each such comment the file, what is replaced in the lines below the comment and by what, and the tests
that must fail then. Each mutant is tried in a copy of the tree. Prints survivors; exit 1 if there is one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import orjson

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("mutants.json")
AT_ONCE = 2
TIMEOUT_S = 900.0  # a test of a real worker fails only after its own generous timeouts
ANCHOR = "# promise: "
# A statement that spans many lines, such as an SQL text, has its comment above its first line.
MAX_LINES_BELOW = 40
_PARTS = ("flows", "tasks", "data", "tests", "pyproject.toml", "prefect.yaml", "README.md", "Makefile")
_PACKAGE = ("flows", "tasks", "data")  # what the package `parquill` consists of
_START = """
import pathlib, sys
import pytest
import parquill.tasks
assert pathlib.Path(parquill.tasks.__file__).is_relative_to(pathlib.Path.cwd()), "not the copy's code is tested"
sys.exit(pytest.main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Mutant:
    """One piece of code that keeps a promise, and the tests that fail without it."""

    promise: str
    file: str
    text: str
    replacement: str
    tests: list[str]

    def changed(self, whole: str) -> str:
        """Return the text of the file with the mutant in it.

        Raises ValueError unless the comment of the promise is there exactly once and the text is below it.
        """
        anchor = f"{ANCHOR}{self.promise}\n"
        if whole.count(anchor) != 1:
            raise ValueError(f"the comment {anchor.strip()!r} is {whole.count(anchor)} times in {self.file}")
        start = whole.index(anchor) + len(anchor)
        at = whole.find(self.text, start)
        if at < 0 or whole.count("\n", start, at) > MAX_LINES_BELOW:
            raise ValueError(f"the text of {self.promise!r} is not below its comment in {self.file}")
        return whole[:at] + self.replacement + whole[at + len(self.text) :]

    def apply(self, tree: Path) -> None:
        """Put the mutant into a copy of the tree. Raises ValueError as `changed` does."""
        path = tree / self.file
        path.write_text(self.changed(path.read_text(encoding="utf-8")), encoding="utf-8")


def read_mutants(path: Path = LIST) -> list[Mutant]:
    """Return the list. Raises TypeError if an entry lacks a field or has an unknown one."""
    return [Mutant(**entry) for entry in orjson.loads(path.read_bytes())]


def verdict_of(code: int) -> str:
    """Return what pytest's exit code means.

    Only 1, failed tests, is a kill: a test that is not collected proves nothing.
    """
    return {0: "SURVIVED", 1: "killed"}.get(code, f"BROKEN (pytest ended with {code})")


def _copy(tree: Path) -> None:
    """Copy the tree, with the package under its name, so that commands of a test import the copy too."""
    for part in _PARTS:
        source = ROOT / part
        if source.is_dir():
            # with its compiled files: they hold for every file but the changed one, whose time and size differ
            shutil.copytree(source, tree / part)
        elif source.exists():
            shutil.copy2(source, tree / part)
    (tree / "parquill").mkdir()
    (tree / "parquill" / "__init__.py").touch()
    for part in _PACKAGE:
        (tree / "parquill" / part).symlink_to(tree / part)


def try_mutant(mutant: Mutant | None, tests: list[str]) -> str:
    """Run tests in a copy of the tree, with a mutant or (None) without: killed, SURVIVED or BROKEN."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = Path(folder).resolve()
        _copy(tree)
        try:
            if mutant is not None:
                mutant.apply(tree)
            command = [sys.executable, "-c", _START, "-x", "-q", "-p", "no:cacheprovider", *tests]
            environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
            ended = subprocess.run(
                command, cwd=tree, env=environment, capture_output=True, timeout=TIMEOUT_S, check=False
            )
        except ValueError as error:
            return f"BROKEN ({error})"
        except subprocess.TimeoutExpired:
            return "BROKEN (no end within its time)"
    return verdict_of(ended.returncode)


def _unsound(mutants: list[Mutant], threads: ThreadPoolExecutor) -> list[str]:
    """Return the test files that fail without any mutant: they would kill every mutant."""
    files: dict[str, set[str]] = {}
    for test in {test for mutant in mutants for test in mutant.tests}:
        files.setdefault(test.partition("::")[0], set()).add(test)
    verdicts = threads.map(lambda tests: try_mutant(None, sorted(tests)), files.values())
    return [file for file, verdict in zip(files, verdicts, strict=True) if verdict != "SURVIVED"]


def _try_and_print(mutant: Mutant) -> str:
    verdict = try_mutant(mutant, mutant.tests)
    line = f"{verdict:10} {mutant.promise}: {mutant.file}"
    print(line, flush=True)  # noqa: T201 - the output of a command
    return verdict


def main() -> int:
    """Try all mutants, or those whose promise is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("promises", nargs="*", help="only these, such as S1 or service")
    chosen = parser.parse_args().promises
    mutants = [each for each in read_mutants() if not chosen or each.promise.split()[0].strip(":") in chosen]
    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        # printed first, and the others are tried all the same: the list takes most of an hour
        if unsound := _unsound(mutants, threads):
            print(f"not green without a mutant: {', '.join(unsound)}", flush=True)  # noqa: T201 - the output of a command
        verdicts = list(threads.map(_try_and_print, mutants))
    killed = verdicts.count("killed")
    print(f"{killed} of {len(mutants)} killed in {time.monotonic() - began:.0f} s")  # noqa: T201 - the output of a command
    return 0 if killed == len(mutants) and not unsound else 1


if __name__ == "__main__":
    sys.exit(main())
