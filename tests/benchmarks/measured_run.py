"""One run of the real `parquill run` against a fake service: its time, CPU time and peak of memory."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tests.tools.peak import peak_kib

PARQUILL = str(Path(sys.executable).with_name("parquill"))
WORDS = "time order price state large small under paper water light stack green south north table river stone".split()
WORDS_OF_1_KB = 170
LOOK_INTERVAL_S = 0.1


class MeasuredRun(NamedTuple):
    """What a run took. The CPU time is user and system; the peak is VmHWM, read until the process ends."""

    seconds: float
    cpu_s: float
    peak_mib: float


def measure_run(
    folder: Path, url: str, rows: int, max_at_once: int, *, words: int = WORDS_OF_1_KB, parquill: str = PARQUILL
) -> MeasuredRun:
    """Run a job over `rows` prompts of `words` words each, in an empty folder, with Prefect's embedded server.

    Raises RuntimeError if the run fails.
    """
    _write_input(folder / "prompts.parquet", rows, words)
    job = {
        "name": f"measured-{rows}",
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
    command = [parquill, "run", str(folder / "job.yaml")]
    began, peak = time.monotonic(), 0
    with (folder / "output").open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=file)
        try:
            while True:
                peak = max(peak, peak_kib(process.pid))
                ended, status, used = os.wait4(process.pid, os.WNOHANG)
                if ended:
                    break
                time.sleep(LOOK_INTERVAL_S)  # the peak can only be read while the process lives
        except BaseException:
            process.kill()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        text = (folder / "output").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the run ended with exit code {process.returncode}: {text}")
    completed = orjson.loads((folder / "out" / "summary.json").read_bytes())["rows"]["ok"]
    if completed != rows:
        raise RuntimeError(f"{completed} of {rows} rows are ok")
    return MeasuredRun(time.monotonic() - began, used.ru_utime + used.ru_stime, peak / 1024)


def _write_input(path: Path, rows: int, words: int) -> None:
    """Write `rows` prompts in row groups of 10,000."""
    draw = random.Random(1)
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for first in range(0, rows, 10_000):
            numbers = range(first, min(rows, first + 10_000))
            texts = [f"{number} " + " ".join(draw.choices(WORDS, k=words)) for number in numbers]
            writer.write_batch(pa.record_batch([[f"r{number}" for number in numbers], texts], schema=schema))
