"""CONTRIBUTING.md names only files, targets and rooms that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.tasks.test_rooms import ROOMS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:\.?[\w]+/)+[\w.]+|\w+\.toml)`", TEXT))))
def test_every_file_exists(name: str) -> None:
    """Every file that CONTRIBUTING.md names exists."""
    assert (ROOT / name).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`make (\w+)`", TEXT))))
def test_every_target_exists(name: str) -> None:
    """Every `make` target that CONTRIBUTING.md names exists."""
    assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_map_has_every_room() -> None:
    """The map shows the existing rooms, in the order that `test_rooms` enforces."""
    shown = re.findall(r"<- tasks/(\w+)", TEXT)
    assert shown == [room for room in ROOMS if (ROOT / "tasks" / room).is_dir()]


def test_the_example_is_true() -> None:
    """The names that the examples say to change are in the files that they name."""
    assert "_NAMES = {" in (ROOT / "tasks/llm/usage.py").read_text(encoding="utf-8")
    for file, name in (
        ("doctor.py", "def examine("),
        ("doctor_job.py", "def examine_job("),
        ("checks.py", "class Hint("),
    ):
        assert name in (ROOT / "flows" / "cli" / file).read_text(encoding="utf-8")
