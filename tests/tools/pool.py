"""A run whose shards are sent by a pool of processes: `python -m tests.tools.pool JOB FOLDER TIMES`.

This process leads the run and sends nothing. Each worker leaves a file named as its pid in FOLDER. The task of each
shard runs TIMES times at the same time, as with an engine that takes a living worker for lost.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from parquill.tasks.errors import ParquillError
from parquill.tasks.job.load import load_job
from parquill.tasks.llm.open_senders import complete_in_this_process, open_sender
from parquill.tasks.prompts import input_parquet as source_file
from parquill.tasks.prompts import prepare
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.storage.folders import Folders, lock_folders

WORKERS = 2
SHARD_ROWS = 100


def _begin(folder: Path) -> None:
    (folder / str(os.getpid())).touch()


def main(job_path: Path, folder: Path, times: int) -> None:
    """Lead the run to its end."""
    prepare.MIN_SHARD = source_file.BATCH_ROWS = SHARD_ROWS
    job, options = resolve_job(load_job(job_path), None, None, ())
    folders = Folders.of(job.output, job.state)
    folders.create()
    with lock_folders(folders, "a pool"):
        run = prepare_run(job, options)
        assert run is not None
        context = multiprocessing.get_context("spawn")
        with (
            open_sender(run),
            ProcessPoolExecutor(WORKERS, mp_context=context, initializer=_begin, initargs=(folder,)) as pool,
        ):
            tasks = [
                pool.submit(complete_in_this_process, folders.state, run.run_id, shard)
                for shard in run.shards
                for _ in range(times)
            ]
            for task in tasks:
                try:
                    task.result()
                except ParquillError as error:
                    sys.stderr.write(f"{error}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
