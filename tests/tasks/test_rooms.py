"""A file imports only from rooms to its left, and no two files import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
# From left to right. A step is a file in tasks/ outside the rooms; a flow is a file in flows/.
ROOMS = "data errors,records storage job money prompts limits llm results orchestration steps flows cli".split()


def _files() -> dict[str, Path]:
    """Return each module by its dotted name below `parquill`."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for top in ("data", "flows", "tasks")
        for path in (ROOT / top).rglob("*.py")
    }


def _room(module: str) -> int:
    parts = module.split(".")
    if parts[0] == "data":
        return 0
    if parts[0] == "flows":
        return ROOMS.index("cli" if parts[1:2] == ["cli"] else "flows")
    name = parts[1] if len(parts) > 1 else "errors"  # tasks/__init__.py has nothing to import
    return next((n for n, room in enumerate(ROOMS) if name in room.split(",")), ROOMS.index("steps"))


def _imports(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Yield the modules that a file imports, including imports inside functions and for types."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("parquill."):
            module = str(node.module).removeprefix("parquill.")
            yield from {inner if (inner := f"{module}.{name.name}") in modules else module for name in node.names}
        elif isinstance(node, ast.Import):
            yield from (name.name.removeprefix("parquill.") for name in node.names if name.name in modules)


def test_a_file_imports_only_from_its_left() -> None:
    """The rooms have one order, and no file imports from a room to its right."""
    modules = _files()
    wrong = [
        f"{module} imports {other}"
        for module, path in modules.items()
        for other in _imports(path, modules)
        if _room(other) > _room(module)
    ]
    assert wrong == []


def test_no_files_import_each_other() -> None:
    """The files can be read in an order in which each imports only earlier ones, also within a room."""
    modules = _files()
    graph = {module: set(_imports(path, modules)) for module, path in modules.items()}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(modules)


def test_every_file_has_a_room() -> None:
    """tasks/ holds the rooms, the six steps, errors and records; flows/ holds the command line and the four flows."""
    loose = {path.stem for path in (ROOT / "tasks").glob("*.py")} - {"__init__"}
    steps = {"read_prompts", "estimate_cost", "gate_budget", "complete_shard", "write_results", "summarize_run"}
    assert loose == {"errors", "records", *steps}
    assert {path.stem for path in (ROOT / "flows").glob("*.py")} - {"__init__"} == {
        "complete_prompts",
        "estimate_cost",
        "translate",
        "summarize",
    }
    rooms = {path.name for path in (ROOT / "tasks").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(ROOMS) - {"data", "errors,records", "steps", "flows", "cli"}


def test_the_law_sees_every_import() -> None:
    """The rule covers imports of modules, of names in them, inside functions and for types."""
    modules = _files()
    found = set(_imports(ROOT / "flows" / "cli" / "commands.py", modules))
    assert {"tasks.errors", "tasks.job.load", "tasks.prompts.prepare", "tasks.orchestration.events"} & found
