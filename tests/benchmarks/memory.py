"""Peak memory and pace of the real command at 20,000 and at 200,000 rows, side by side.

    python -m tests.benchmarks.memory [--rows 20000,200000] [--max-at-once 256]

Each run is one `parquill run` process with Prefect's embedded server, against the fast fake service on loopback.
The peak is VmHWM of that process as the kernel reports it, read until the process ends.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tests.fakes.running import fake_openai
from tests.tools.peak import peak_kib

WORDS = "time order price state large small under paper water light stack green south north table river stone".split()
ROW_WORDS = 170  # about 1 KB


def write_input(path: Path, rows: int, seed: int = 1, words: int = ROW_WORDS) -> None:
    """Write `rows` prompts, by default of about 1 KB, in row groups of 10,000."""
    draw = random.Random(seed)
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for first in range(0, rows, 10_000):
            numbers = range(first, min(rows, first + 10_000))
            texts = [f"{number} " + " ".join(draw.choices(WORDS, k=words)) for number in numbers]
            writer.write_batch(pa.record_batch([[f"r{number}" for number in numbers], texts], schema=schema))


def run_job(folder: Path, url: str, rows: int, max_at_once: int) -> dict[str, float]:
    """Run one job; return its seconds and its peak in MiB."""
    write_input(folder / "prompts.parquet", rows)
    job = {
        "name": f"memory-{rows}",
        "input": str(folder / "prompts.parquet"),
        "output": str(folder / "out"),
        "prompt": {"user": "{{ text }}"},
        "model": "gpt-4o-mini",
        "max_output_tokens": 50,
        "endpoint": {"base_url": url},
        "limits": {"max_at_once": max_at_once},
    }
    (folder / "job.yaml").write_bytes(orjson.dumps(job))
    environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "XDG_STATE_HOME": str(folder / "state")}
    environment.pop("PREFECT_API_URL", None)
    command = [str(Path(sys.executable).with_name("parquill")), "run", str(folder / "job.yaml")]
    began = time.monotonic()
    output = folder / "output"
    with (
        output.open("wb") as file,
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=file) as process,
    ):
        peak = 0
        while process.poll() is None:
            peak = max(peak, peak_kib(process.pid))
            time.sleep(0.1)
    if process.returncode != 0:
        text = output.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the run ended with exit code {process.returncode}: {text}")
    summary = orjson.loads((folder / "out" / "summary.json").read_bytes())
    assert summary["rows"]["ok"] == rows
    return {"seconds": time.monotonic() - began, "peak_mib": peak / 1024}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a line for each size, and the ratio of the last peak to the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="20000,200000")
    parser.add_argument("--max-at-once", type=int, default=256)
    options = parser.parse_args(arguments)
    found = []
    for rows in map(int, options.rows.split(",")):
        with tempfile.TemporaryDirectory() as folder, fake_openai(remember=False) as service:
            figures = run_job(Path(folder), service.url, rows, options.max_at_once)
            stats = service.stats()
        pace = rows / (stats["last_arrival"] - stats["first_arrival"])
        found.append(figures["peak_mib"])
        print(  # noqa: T201 - a benchmark prints
            f"{rows:>9,} rows: peak {figures['peak_mib']:.0f} MiB, {pace:,.0f} rows/s while completing, "
            f"{figures['seconds']:.0f} s in all",
            flush=True,
        )
    print(f"peak, last to first: {found[-1] / found[0]:.3f}")  # noqa: T201 - a benchmark prints


if __name__ == "__main__":
    main()
