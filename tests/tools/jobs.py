"""Writes job files and runs them: in this process (fast), or as the real command (to be killed)."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tests.fakes.running import FakeService

PARQUILL = str(Path(sys.executable).with_name("parquill"))


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it left behind; before the first results `table` has no rows."""

    exit_code: int
    summary: dict[str, Any]
    table: pa.Table
    stdout: str
    stderr: str

    def column(self, name: str) -> list[Any]:
        values: list[Any] = self.table.column(name).to_pylist()
        return values

    @property
    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.table.to_pylist()
        return found


@dataclass
class Spawned:
    """The real command while it runs; its output goes into files, so no reader has to follow it."""

    process: subprocess.Popen[bytes]
    jobs: Jobs
    settings: Mapping[str, Any]
    output: Path

    def wait(self, timeout_s: float = 180) -> Done:
        code = self.process.wait(timeout_s)
        return self.jobs.done(self.settings, code, self.read("out"), self.read("err"))

    def read(self, stream: str) -> str:
        return self.output.with_suffix(f".{stream}").read_text(encoding="utf-8", errors="replace")


class Jobs:
    """The jobs of one test, in its folder."""

    def __init__(self, folder: Path, service: FakeService) -> None:
        self.folder, self.service = folder, service
        self._spawned: list[Spawned] = []
        self._written = 0

    def write(self, rows: pa.Table | Sequence[str | None], name: str = "prompts.parquet") -> Path:
        """Write a table, or texts as the column `text`, as a Parquet file in the test's folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        table = rows if isinstance(rows, pa.Table) else pa.table({"text": pa.array(rows, pa.string())})
        pq.write_table(table, path)
        return path

    def job(self, rows: pa.Table | Sequence[str | None] | None = None, **changes: Any) -> dict[str, Any]:
        """Return settings of a job over `rows` (or over the given `input`); None leaves a setting out."""
        settings: dict[str, Any] = {
            "name": "e2e",
            "input": str(self.folder / "prompts.parquet"),
            "output": str(self.folder / "out"),
            "prompt": {"user": "{{ text }}"},
            "model": "gpt-4o-mini",
            "max_output_tokens": 50,
        }
        if rows is not None:
            settings["input"] = str(self.write(rows))
        if "endpoints" not in changes:
            settings["endpoint"] = {"base_url": self.service.url, **changes.pop("endpoint", {})}
        settings |= changes
        return {name: value for name, value in settings.items() if value is not None}

    def run(self, settings: Mapping[str, Any], *arguments: str, command: str = "run") -> Done:
        """Run a command on a job in this process."""
        from parquill.flows.cli.commands import main

        out, err = io.StringIO(), io.StringIO()
        code: Any = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main([command, str(self.job_file(settings)), *arguments])
            except SystemExit as ended:
                code = ended.code or 0
        return self.done(settings, code, out.getvalue(), err.getvalue())

    def spawn(
        self,
        settings: Mapping[str, Any],
        *arguments: str,
        environment: Mapping[str, str] = {},
        command: str = "run",
        folder: Path | None = None,
        before: Sequence[str] = (),
    ) -> Spawned:
        """Start the real command, `parquill run` or another, as a process; `before` is a command that starts it."""
        output = self.folder / f"output-{len(self._spawned)}"
        with output.with_suffix(".out").open("wb") as out, output.with_suffix(".err").open("wb") as err:
            process = subprocess.Popen(
                [*before, PARQUILL, command, str(self.job_file(settings)), *arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **environment},
                start_new_session=True,  # a Ctrl-C of the person who runs the tests must not reach it
            )
        spawned = Spawned(process, self, settings, output)
        self._spawned.append(spawned)
        return spawned

    def close(self) -> None:
        """Kill what is still running."""
        for spawned in self._spawned:
            if spawned.process.poll() is None:
                spawned.process.kill()
                spawned.process.wait()

    def job_file(self, settings: Mapping[str, Any]) -> Path:
        """Write the job file; JSON is YAML 1.2."""
        self._written += 1
        path = self.folder / f"job-{self._written}.yaml"
        path.write_bytes(orjson.dumps(dict(settings), default=str, option=orjson.OPT_INDENT_2))
        return path

    def done(self, settings: Mapping[str, Any], exit_code: int, stdout: str, stderr: str) -> Done:
        """Read what a run left behind."""
        output = Path(settings["output"])
        summary: dict[str, Any] = {}
        if (output / "summary.json").exists():
            summary = orjson.loads((output / "summary.json").read_bytes())
        return Done(exit_code, summary, read_results(output), stdout, stderr)


def read_results(output: Path) -> pa.Table:
    """Return the results of an output folder, their files in the order of their names."""
    files = sorted((output / "results").glob("*.parquet"))
    return pa.concat_tables([pq.read_table(path, partitioning=None) for path in files]) if files else pa.table({})
