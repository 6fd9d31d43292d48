"""Letters that the locale lacks: in paths, names, cells and all output."""

from __future__ import annotations

import os
import subprocess
from datetime import date
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import make_job
from parquill.tasks.job.resolved import resolve
from tests.tools.direct import run_steps
from tests.tools.jobs import PARQUILL

pytestmark = pytest.mark.integration

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LATIN = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "latin-1"}


def _job(folder: Path) -> dict[str, object]:
    (folder / "donn\u00e9es").mkdir(parents=True)
    table = pa.table({"text": ["\u00e9t\u00e9 \u4e2d", "", None]})
    pq.write_table(table, folder / "donn\u00e9es" / "\u00e9.parquet")
    return {
        "name": "r\u00e9sum\u00e9",
        "input": "donn\u00e9es/\u00e9.parquet",
        "output": "sorti\u00e9",
        "prompt": {"user": "\u00c9cris: {{ text }}"},
        "model": "gpt-4o-mini",
        "max_output_tokens": 10,
        "tolerate": {"rejected": 1, "not_ok": 1},
        "endpoint": {"base_url": "http://127.0.0.1:9/v1"},
        "retry": {"attempts": 1},
    }


def _run(folder: Path, locale: dict[str, str], *words: str) -> tuple[int, bytes, bytes]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LC_", "LANG", "PYTHONUTF8", "PYTHONIO"))
    }
    command = [PARQUILL, *words]
    done = subprocess.run(
        command, cwd=folder, env={**environment, **locale}, capture_output=True, check=False, timeout=90
    )
    assert b"unexpected" not in done.stderr, done.stderr
    assert b"Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_the_c_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the C locale, without Python's UTF-8 mode, each command reads and shows any letter in paths, names, cells."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    settings = _job(tmp_path)
    name = "job\u00e9.json"
    Path(name).write_bytes(orjson.dumps(settings))
    run_steps(settings)
    code, output, _ = _run(tmp_path, ASCII, "preview", name)
    assert (code, "\u00c9cris: \u00e9t\u00e9 \u4e2d" in output.decode()) == (0, True)
    code, out, _ = _run(tmp_path, ASCII, "estimate", "--json", name)
    assert (code, orjson.loads(out)["rows"]) == (0, 3)
    for path in (name, "sorti\u00e9"):
        code, output, _ = _run(tmp_path, ASCII, "report", "--failed", path)
        assert (code, output.decode().count("\u00e9.parquet, row ")) == (0, 3)
    code, _, output = _run(tmp_path, ASCII, "spend", "nowh\u00e9re")
    assert (code, "'nowh\u00e9re'" in output.decode(), "r\u00e9sum\u00e9" in output.decode()) == (2, True, True)
    code, _, output = _run(tmp_path, ASCII, "estimate", "nowh\u00e9re.yaml")
    assert (code, "nowh\u00e9re.yaml" in output.decode()) == (2, True)


@pytest.mark.nightly
def test_a_stream_that_lacks_a_letter(tmp_path: Path) -> None:
    """A letter that a stream's encoding lacks is shown escaped; in JSON as JSON escapes it."""
    code, out, _ = _run(tmp_path, {"PYTHONUTF8": "1", "PYTHONIOENCODING": "iso8859-5"}, "--help")
    assert (code, b"0 done \\xb7 2 bad job" in b" ".join(out.split())) == (0, True)
    settings = _job(tmp_path)
    (tmp_path / "job.json").write_bytes(orjson.dumps(settings))
    code, output, _ = _run(tmp_path, LATIN, "preview", "job.json")
    assert (code, "\u00c9cris: \u00e9t\u00e9 \\u4e2d" in output.decode("latin-1")) == (0, True)
    code, out, _ = _run(tmp_path, LATIN, "preview", "--json", "job.json")
    assert orjson.loads(out)["rows"][0]["body"]["messages"][0]["content"] == "\u00c9cris: \u00e9t\u00e9 \u4e2d"


@pytest.mark.parametrize("setting", ["input", "output", "state"])
def test_a_path_that_the_encoding_lacks(setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that cannot restart itself, such as a worker's, refuses a path that it cannot open.
    It names the variable to set.
    """

    def encode(path: str) -> bytes:
        return path.encode("ascii", "surrogateescape")

    monkeypatch.setattr("parquill.tasks.job.resolved.os.fsencode", encode)
    job = make_job({**_job(tmp_path), "input": "a", "output": "b", setting: "sorti\u00e9"})
    with pytest.raises(BadJob, match=r"cannot be opened: file names are .* set PYTHONUTF8=1"):
        resolve(job, date(2026, 11, 28))
