"""Reads the Dockerfile, and carries out its steps in a folder where there is no Docker.

The stages share one root, and the base image is the Python that runs the tests. Absolute paths of the image are below
the root; programs that change users do nothing.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

IMAGE_FOLDERS = ("opt", "srv", "build", "var")
_PATH = re.compile(rf"(?<![\w./-])/(?={'|'.join(IMAGE_FOLDERS)})")
NO_CHANGE = ("groupadd", "useradd", "chown")


class Step(NamedTuple):
    """One instruction and its argument, in one line."""

    name: str
    argument: str


def read_steps(text: str) -> list[Step]:
    """Return the instructions of a Dockerfile."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    steps = []
    for line in joined.splitlines():
        if line.strip():
            name, _, argument = line.strip().partition(" ")
            steps.append(Step(name.upper(), argument.strip()))
    return steps


def environment_of(steps: list[Step]) -> dict[str, str]:
    """Return what ENV sets in the last stage."""
    last = max(number for number, step in enumerate(steps) if step.name == "FROM")
    words = [word for step in steps[last:] if step.name == "ENV" for word in shlex.split(step.argument)]
    return dict(word.split("=", 1) for word in words)


def sent_files(tree: Path) -> Iterator[Path]:
    """Yield the files of a tree that .dockerignore lets into a build."""
    lines = [
        line
        for line in (tree / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    for path in sorted(each for each in tree.rglob("*") if each.is_file()):
        name = path.relative_to(tree).as_posix()
        parts = [name, *(str(parent) for parent in Path(name).parents)]
        is_left_out = False
        for line in lines:
            pattern = line.removeprefix("!").removeprefix("**/")
            shown = [part.rpartition("/")[2] for part in parts] if "**/" in line else parts
            if any(fnmatch(part, pattern) and (pattern != "*" or part != ".") for part in shown):
                is_left_out = not line.startswith("!")
        if not is_left_out:
            yield path


class Image:
    """A folder in which the steps of a Dockerfile were carried out."""

    def __init__(self, root: Path, context: Path) -> None:
        self.root, self.context = root, context
        self._sent = {path.relative_to(context) for path in sent_files(context)}
        self._folder = root
        self._programs = root / "stubs"
        self._programs.mkdir(parents=True)
        for name in NO_CHANGE:
            program = self._programs / name
            program.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        (self._programs / "python").symlink_to(sys.executable)

    def inside(self, text: str) -> str:
        """Return a text with the paths of the image below the root."""
        return _PATH.sub(f"{self.root}/", text)

    def build(self, steps: list[Step]) -> None:
        """Carry out the steps."""
        for step in steps:
            if step.name == "WORKDIR":
                self._folder = Path(self.inside(step.argument))
                self._folder.mkdir(parents=True, exist_ok=True)
            elif step.name == "COPY":
                self._copy(shlex.split(step.argument))
            elif step.name == "RUN":
                self._run(self.inside(step.argument))

    def _copy(self, words: list[str]) -> None:
        if words[0].startswith("--from="):
            return  # the stages share one root
        *sources, target = words
        for source in sources:
            if (self.context / source).is_dir():
                for path in self._sent:
                    if path.is_relative_to(source):
                        place = self._folder / target / path.relative_to(source)
                        place.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy(self.context / path, place)
            else:
                assert Path(source) in self._sent, f"{source} is not sent to the build"
                shutil.copy(self.context / source, self._folder / target)

    def _run(self, command: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        path = os.pathsep.join([str(self._programs), environment["PATH"]])
        done = subprocess.run(
            ["/bin/sh", "-euc", command],
            cwd=self._folder,
            env=environment | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"


def words_of(argument: str) -> list[str]:
    """Return the words of an instruction in JSON form, such as CMD."""
    found: list[str] = json.loads(argument)
    return found
