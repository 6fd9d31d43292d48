"""A command's result goes to stdout; progress, warnings and errors go to stderr; a closed stream stops nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import orjson
import pytest

from parquill.flows.cli.commands import cli
from tests.tools.direct import run_steps
from tests.tools.jobs import PARQUILL, Jobs

# command and options -> text on stdout and text on stderr ("" for none)
HUMAN = {
    "init NEW": ("parquill preview", ""),
    "preview JOB": ('"content": "one"', ""),
    "estimate JOB": ("fits into the budget of $1.00", ""),
    "estimate JOB --set model=gpt-6-luna": (
        "fits into the budget of $1.00",
        "warning: the model gpt-6-luna thinks before",
    ),
    "estimate JOB --pilot 2": ("pilot: 2 rows were answered", ""),
    "estimate JOB --compare gpt-4o": ("the cheapest first", ""),
    "try JOB --rows 2": ("2 rows for $", ""),
    "run JOB": ("/results/", "fits into the budget"),
    "report DONE": ("cost  ", ""),
    "report DONE --failed": ("0 rows are not ok", ""),
    "export DONE --csv -": ('"completion"', "3 rows"),
    "diff DONE DONE": ("same answer 3", ""),
    "run DONE": ("nothing to do", ""),
    "spend": ("at this pace the month ends at", ""),
    "reconcile DONE --set endpoint.admin_key_env=ADMIN": (" matches within 1 %: ledger $", ""),
    "doctor JOB": ("ok   prices: ", ""),
    "approve": ("wait", ""),
    "schema": ('"max_output_tokens"', ""),
}
JSON = [words for words in HUMAN if not words.startswith(("init", "schema", "export"))]


@pytest.fixture(autouse=True)
def _admin_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN", "sk-admin-fake")


def _settings(jobs: Jobs) -> dict[str, object]:
    return jobs.job(["one", "two", "three"], budget={"run_usd": 1})


def _words(jobs: Jobs, words: str) -> list[str]:
    """Return the words of a command; DONE is a job that has run."""
    settings = _settings(jobs)
    if "DONE" in words:
        run_steps(settings)
    paths = {"JOB": jobs.job_file(settings), "DONE": jobs.job_file(settings), "NEW": jobs.folder / "new.yaml"}
    return [str(paths.get(word, word)) for word in words.split()]


def _call(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    from parquill.flows.cli.commands import main

    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.mark.parametrize("words", HUMAN)
def test_the_result_is_on_stdout(jobs: Jobs, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command prints only its result on stdout; progress and warnings go to stderr."""
    out_has, err_has = HUMAN[words]
    code, out, err = _call(_words(jobs, words), capsys)
    assert code == 0, err
    assert out_has in " ".join([*out.split(), out])
    if err_has:
        assert err_has in " ".join(err.split())
        assert "warning: " not in out
    else:
        assert err == ""


def test_every_command_is_checked() -> None:
    """The table above has every command except the one that serves a model until it is stopped."""
    assert {words.split()[0] for words in HUMAN} == set(cli.commands) - {"serve-model"}


@pytest.mark.parametrize("words", JSON)
def test_json_stands_alone_on_stdout(jobs: Jobs, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With `--json` stdout has one JSON object and nothing else."""
    code, out, err = _call([*_words(jobs, words), "--json"], capsys)
    assert code == 0, err
    assert isinstance(orjson.loads(out), dict)


@pytest.mark.parametrize("words", ["preview", "estimate", "report", "doctor", "run"])
def test_an_error_is_on_stderr(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that fails says so on stderr and leaves stdout empty."""
    code, out, err = _call([words, str(tmp_path / "missing.yaml")], capsys)
    assert (code, out) == (2, "")
    assert err.startswith("parquill: ")


@pytest.mark.parametrize(
    ("stream", "command", "options"),
    [
        ("stdout", "preview", []),
        ("stdout", "run", []),
        pytest.param("stdout", "estimate", ["--json"], marks=pytest.mark.nightly),
        pytest.param("stderr", "preview", [], marks=pytest.mark.nightly),
        pytest.param("stderr", "estimate", ["--json"], marks=pytest.mark.nightly),
        pytest.param("stderr", "run", [], marks=pytest.mark.nightly),
    ],
)
def test_a_reader_that_leaves(jobs: Jobs, stream: str, command: str, options: list[str]) -> None:
    """A reader that closes its end, as `head` does, does not stop a run or change an exit code."""
    reading, writing = os.pipe()
    os.close(reading)
    settings = _settings(jobs)
    try:
        out, err = (writing, subprocess.PIPE) if stream == "stdout" else (subprocess.PIPE, writing)
        done = subprocess.run(
            [PARQUILL, command, str(jobs.job_file(settings)), *options],
            stdin=subprocess.DEVNULL,
            timeout=180,
            check=False,
            stdout=out,
            stderr=err,
        )
    finally:
        os.close(writing)
    output = (done.stdout or b"") + (done.stderr or b"")
    assert done.returncode == 0, output
    assert b"Traceback" not in output
    assert b"Broken" not in output
    if command == "run":
        assert jobs.done(settings, 0, "", "").column("status") == ["ok"] * 3
