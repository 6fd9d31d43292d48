"""Canaries: the key is nowhere, and cells and answers are in the output and state folders only."""

from __future__ import annotations

import base64
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.end_to_end.jobs import Done, Jobs


def _forms(canary: str) -> list[bytes]:
    """The canary as it is, and as it stands inside base64 at each of the three alignments (its ends left off)."""
    forms = [canary.encode()]
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + canary.encode())
        forms.append(coded[4 : len(coded) - len(coded) % 4 - 4])
    return forms


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder: its bytes, and the cells of Parquet files, which are compressed."""
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # the server's own temporary files
            continue
        yield str(path), data
        if path.suffix == ".parquet":
            table = pq.read_table(path, partitioning=None)
            yield f"{path} (cells)", repr(table.to_pylist()).encode()


def _found(canary: str, done: Done, *folders: Path) -> list[str]:
    """Where the canary is."""
    forms = _forms(canary)
    said = [("stdout", done.stdout.encode()), ("stderr", done.stderr.encode())]
    contents = [*said, *(item for folder in folders for item in _contents(folder))]
    assert len(contents) > 3
    return [name for name, data in contents if any(form in data for form in forms)]


def _settle() -> None:
    """Wait until Prefect's server has written what it was told: its events come last, twice a second."""
    time.sleep(1.5)


@pytest.fixture
def prefect_home(jobs: Jobs) -> Path:
    assert jobs
    home = Path(os.environ["PREFECT_HOME"])
    assert (home / "prefect.db").exists()
    return home


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    """The search below finds a canary in plain files, in base64 and in compressed Parquet (or it would prove nothing)."""
    import pyarrow as pa

    canary = "canary-" + secrets.token_hex(12)
    nothing = Done(0, {}, pa.table({}), "", "")
    pq.write_table(pa.table({"x": ["a " + canary] * 10}), tmp_path / "a.parquet", compression="zstd")
    for shift in range(3):
        (tmp_path / f"b{shift}").write_bytes(base64.b64encode(b"x" * shift + canary.encode() + b"yy"))
    (tmp_path / "c").write_bytes(b"\0" + canary.encode())
    names = {Path(name.removesuffix(" (cells)")).name for name in _found(canary, nothing, tmp_path)}
    assert names == {"a.parquet", "b0", "b1", "b2", "c"}


def test_the_key_is_nowhere(jobs: Jobs, prefect_home: Path) -> None:
    """After success, errors that repeat the key, and a 401, with logs on DEBUG, the key is in no file and no output."""
    canary = "sk-canary-" + secrets.token_hex(16)
    faults = [{"kind": "echo", "match": "echo"}, {"kind": "disconnect_before", "match": "lost", "times": 1}]
    jobs.service.configure(require_key=canary, faults=faults)
    texts = ["fine", "echo", "lost"]
    settings = jobs.job(texts, endpoint={"api_key_env": "E2E_KEY"}, retry={"attempts": 2}, tolerate={"not_ok": 1})
    loud = {"E2E_KEY": canary, "PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "DEBUG"}
    # not httpx and asyncio: Prefect sends its logs by them, and would log that, for ever
    loud |= {"PREFECT_LOGGING_ROOT_LEVEL": "DEBUG", "PREFECT_LOGGING_EXTRA_LOGGERS": "parquill,aiohttp"}
    good = jobs.spawn(settings, environment=loud).wait()
    assert good.exit_code == 0, good.stderr
    assert good.column("status") == ["ok", "failed", "ok"]
    assert "Finished in state" in good.stderr, "the logs are not on"
    jobs.service.configure(require_key="another", faults=[])
    bad = jobs.spawn({**settings, "output": str(jobs.folder / "out2")}, environment=loud).wait()
    assert bad.exit_code == 1, bad.stderr
    assert "key" in bad.stderr
    _settle()
    assert _found(canary, good, jobs.folder, prefect_home) == []
    assert _found(canary, bad, jobs.folder) == []


def test_cells_and_answers_stay_where_they_belong(jobs: Jobs, prefect_home: Path) -> None:
    """A cell's text and the answer to it are in output and state only: not in Prefect's files, not in the terminal."""
    canary = "cell-" + secrets.token_hex(8)  # short enough for the answer to repeat it
    kinds = ["status:400", "echo", "length", "refusal", "garbage", "invalid_utf8", "null_content", "status:500"]
    jobs.service.configure(faults=[{"kind": kind, "match": f"<{kind}>"} for kind in kinds])
    texts = [f"{canary} {n}" for n in range(5)] + [f"{canary} <{kind}>" for kind in kinds]
    settings = jobs.job(texts, retry={"attempts": 1}, tolerate={"not_ok": 1}, id_column="text")
    loud = {"PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "DEBUG"}
    done = jobs.spawn(settings, "--json", environment=loud).wait()
    assert done.exit_code == 0, done.stderr
    assert all(canary in text for text in done.column("completion")[:5])
    _settle()
    assert _found(canary, done, prefect_home) == []
    output = jobs.folder / "out"
    for name in ("summary.json", "report.html"):
        assert canary not in (output / name).read_text()
