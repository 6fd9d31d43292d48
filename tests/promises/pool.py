"""A run whose shards are sent by the processes of a pool: `python -m tests.promises.pool JOB FOLDER`.

The process itself leads the run and sends nothing. Each worker leaves a file named as its pid in FOLDER.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from parquill.tasks.errors import ParquillError
from parquill.tasks.job.load import load_job
from parquill.tasks.llm.open_senders import open_sender, sender_for
from parquill.tasks.prompts import input_parquet as source_file
from parquill.tasks.prompts import prepare
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.records import ShardRef
from parquill.tasks.storage.folders import Folders, lock_folders

WORKERS = 2
SHARD_ROWS = 100


def _begin(folder: Path) -> None:
    (folder / str(os.getpid())).touch()


def complete(state: Path, run_id: str, shard: ShardRef) -> bool:
    """What a worker does with a shard, as the task does."""
    return sender_for(state, run_id).complete(shard)


def main(job_path: Path, folder: Path) -> None:
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
            tasks = [pool.submit(complete, folders.state, run.run_id, shard) for shard in run.shards]
            for task in tasks:
                try:
                    task.result()
                except ParquillError as error:
                    sys.stderr.write(f"{error}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
