"""Lets atheris look for bytes that break a reader: `make fuzz`, or `python -m tests.tools.fuzz TARGET [SECONDS]`.

Hypothesis draws values from strategies that a person wrote; atheris changes bytes toward code that was not reached.
Each finding becomes a test. Targets: replies, journals, jobs, templates, parameters.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["parquill", "tests"]):
    from parquill.tasks.errors import BadJob, DamagedJournal, RowFault
    from parquill.tasks.job.load import load_job
    from parquill.tasks.prompts.request import check_messages, check_parameters
    from parquill.tasks.prompts.template import Templates
    from parquill.tasks.storage.replay import replay_shard
    from tests.tasks.llm.test_reply_fuzz import GENUINE, check_reply

import orjson

SCRATCH = Path(tempfile.mkdtemp(prefix="parquill-fuzz-"))
JOURNALS = Path(__file__).parents[1] / "promises" / "journals"
NAMES = ["text", "id", "tags"]


def fuzz_replies(data: bytes) -> None:
    """A reply is an answer of the table, or it is rejected."""
    for api in GENUINE:
        check_reply(api, data)


def fuzz_journals(data: bytes) -> None:
    """A journal is replayed, or damaged."""
    path = SCRATCH / "fuzzed.journal"
    path.write_bytes(data)
    with contextlib.suppress(DamagedJournal):
        replay_shard(path)


def fuzz_jobs(data: bytes) -> None:
    """A job file makes a job, or is refused."""
    path = SCRATCH / "job.yaml"
    path.write_bytes(data)
    with contextlib.suppress(BadJob):
        load_job(path)


def fuzz_templates(data: bytes) -> None:
    """A template is refused, or renders its row, or rejects it; `data` is the template and, after a NUL, the cell."""
    template, _, cell = data.decode(errors="ignore").partition("\0")
    if "range" in template or "*" in template:  # a template may be slow if its author wants it
        return
    with contextlib.suppress(BadJob, RowFault):
        Templates(None, template, NAMES, {}).render({"text": cell, "id": 7, "tags": [cell, None]})


def fuzz_parameters(data: bytes) -> None:
    """Cells of parameters and messages are accepted, or reject their row."""
    cell = data.decode(errors="ignore")
    with contextlib.suppress(RowFault):
        check_parameters(cell)
    with contextlib.suppress(RowFault):
        check_messages(cell)


TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "replies": (fuzz_replies, [orjson.dumps(document) for document in GENUINE.values()]),
    "journals": (fuzz_journals, [path.read_bytes() for path in sorted(JOURNALS.glob("*.journal"))]),
    "jobs": (fuzz_jobs, [path.read_bytes() for path in sorted((JOURNALS.parents[2] / "data" / "jobs").glob("*.yaml"))]),
    "templates": (fuzz_templates, [b"{{ text | upper }}\0a", b"{% for t in tags %}{{ t }}{% endfor %}\0b"]),
    "parameters": (fuzz_parameters, [b'{"temperature": 1}', b'[{"role": "user", "content": "x"}]']),
}


def main(name: str, seconds: int) -> None:
    """Fuzz one target for a number of seconds; fail at the first bytes that break it."""
    target, seeds = TARGETS[name]
    corpus = SCRATCH / name
    corpus.mkdir()
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    found = Path("build") / "fuzz"
    found.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", "-seed=1", "-max_len=8192", "-timeout=20", "-rss_limit_mb=3000"]
    atheris.Setup(
        [sys.argv[0], str(corpus), f"-artifact_prefix={found}/{name}-", "-print_final_stats=1", *options], target
    )
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 60)
    else:
        for each in TARGETS:
            subprocess.run([sys.executable, "-m", "tests.tools.fuzz", each], check=True)
