"""Peak memory of the real commands on an input of 120 cells of 5 MB (600 MB in a file of 24 MB), shape by shape.

    python -m tests.benchmarks.cells [SHAPE...] [--command estimate,run]

Each line is one `parquill` process with its own folders, against the fast fake service on loopback. The peak is VmHWM
of that process, as the kernel reports it. Shapes: the cells are passed through (the prompt uses another column),
rejected as too long, sent, shown by a list or a struct, passed through in a map, or are two map keys of 1 GiB from 4 KB.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from tests.fakes.running import fake_openai
from tests.tools.large_cells import write_large_cells, write_map_bomb
from tests.tools.peak import peak_kib

SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {  # shape -> kind of cells, prompt, settings
    "passed-through": ("text", "{{ text }}", {}),
    "rejected": ("text", "{{ blob }}", {"tolerate": {"rejected": 1}}),
    "sent": ("text", "{{ blob }}", {"price": {"usd_per_mtok_input": 0.1, "usd_per_mtok_output": 0.1}, "model": "m"}),
    "list": ("list", "{{ blob | join(' ') }}", {"tolerate": {"rejected": 1}}),
    "list-passed-through": ("list", "{{ text }}", {}),
    "struct": ("struct", "{{ blob.body }}", {"tolerate": {"rejected": 1}}),
    "struct-passed-through": ("struct", "{{ text }}", {}),
    "map-passed-through": ("map", "{{ text }}", {}),
    "bomb": ("bomb", "Hello", {}),
}


def measure_command(folder: Path, command: Sequence[str], settings: dict[str, Any]) -> dict[str, Any]:
    """Run one `parquill` command on a job; return its peak in MiB, seconds, exit code and output."""
    (folder / "job.yaml").write_bytes(orjson.dumps(settings))
    environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "XDG_STATE_HOME": str(folder / "state")}
    environment.pop("PREFECT_API_URL", None)
    parquill = str(Path(sys.executable).with_name("parquill"))
    began, peak, printed = time.monotonic(), 0, folder / "printed"
    with (
        printed.open("wb") as file,
        subprocess.Popen(
            [parquill, *command, str(folder / "job.yaml")], env=environment, stdout=file, stderr=file
        ) as process,
    ):
        while process.poll() is None:
            peak = max(peak, peak_kib(process.pid))
            time.sleep(0.02)
    return {
        "peak_mib": peak / 1024,
        "seconds": time.monotonic() - began,
        "exit": process.returncode,
        "printed": printed.read_text(errors="replace"),
    }


def settings_of(folder: Path, shape: str, url: str) -> dict[str, Any]:
    """Write the input of a shape and return its job."""
    kind, prompt, more = SHAPES[shape]
    path = folder / "in.parquet"
    if kind == "bomb":
        write_map_bomb(path)
    else:
        write_large_cells(path, kind)
    return {
        "name": f"cells-{shape}",
        "input": str(path),
        "output": str(folder / "out"),
        "prompt": {"user": prompt},
        "model": "gpt-4o-mini",
        "max_output_tokens": 50,
        "endpoint": {"base_url": url},
        **more,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a line for each shape and command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*")
    parser.add_argument("--command", default="estimate,run")
    options = parser.parse_args(arguments)
    for shape in options.shapes or list(SHAPES):
        with tempfile.TemporaryDirectory() as folder, fake_openai(remember=False) as service:
            settings = settings_of(Path(folder), shape, service.url)
            for command in options.command.split(","):
                found = measure_command(Path(folder), [command], settings)
                print(  # noqa: T201 - a benchmark prints
                    f"{shape:>22} {command:>8}: peak {found['peak_mib']:5.0f} MiB, {found['seconds']:3.0f} s, "
                    f"exit {found['exit']}",
                    flush=True,
                )
                if found["exit"]:
                    print(found["printed"][-400:], flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
