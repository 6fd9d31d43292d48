"""The project's files without what builds and tests leave beside them, and the two packages that are built from them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOP = ("pyproject.toml", "requirements.lock", "README.md", "LICENSE", "prefect.yaml", "Dockerfile", ".dockerignore")
FOLDERS = ("flows", "tasks", "data", "tests")
UV = str(Path(sys.executable).with_name("uv"))


def copy_tree(folder: Path) -> Path:
    """Copy the project into a new folder and return it."""
    folder.mkdir(parents=True)
    for name in TOP:
        shutil.copy(ROOT / name, folder)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    return folder


def build(tree: Path, *kinds: str) -> Path:
    """Build packages with the environment's own setuptools, and return the folder that they are in."""
    command = [sys.executable, "-m", "build", "--no-isolation", *kinds, str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return tree / "dist"
