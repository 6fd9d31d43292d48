"""The command: its output streams and the exit codes of the contract. `run` is tested end to end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.flows.cli import commands
from parquill.flows.cli.commands import cli, main
from parquill.flows.cli.group import ORDER
from parquill.flows.cli.lists import comparison_lines, shorten
from parquill.tasks.errors import BadJob
from parquill.tasks.job.json_schema import job_schema
from parquill.tasks.job.load import load_job
from parquill.tasks.job.settings import Job

COMMANDS = tuple(sorted(ORDER))
JOB = """\
name: cli
input: in.parquet
output: out
prompt: {user: "{{ text }}"}
model: gpt-4o-mini
max_output_tokens: 100
"""


class Ended(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Return stdout in one line."""
        return " ".join(self.out.split())

    @property
    def json(self) -> dict[str, Any]:
        """Return the one JSON object on stdout; fails if there is none, or anything else."""
        found: dict[str, Any] = orjson.loads(self.out)
        assert isinstance(found, dict)
        return found


class Shell:
    """Runs commands in this process, in a separate folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys

    def __call__(self, *words: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main(words)
        found = self._capsys.readouterr()
        assert "Traceback" not in found.out + found.err
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return Ended(code or 0, found.out, " ".join(found.err.split()))

    def write(self, texts: list[str | None], job: str = JOB) -> None:
        pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), self.folder / "in.parquet")
        (self.folder / "job.yaml").write_text(job, encoding="utf-8")

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("ledger"))


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Return a shell in an empty folder, without keys."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    return Shell(tmp_path, capsys)


def test_help_names_commands_and_exit_codes(shell: Shell) -> None:
    """`--help` lists on stdout every command in the order of use, and the meaning of the exit codes."""
    ended = shell("--help")
    assert ended.code == 0
    listed = re.findall(r"^  ([a-z-]+)  ", ended.out.split("Commands:")[1], re.MULTILINE)
    assert listed == list(ORDER)
    in_use = ["init", "preview", "estimate", "run", "report", "approve"]
    assert [command for command in listed if command in in_use] == in_use
    text = " ".join(ended.out.split())
    for expected in (
        "0 done",
        "2 bad job or input",
        "3 refused by the budget",
        "4 stopped by a budget",
        "130 interrupted",
    ):
        assert expected in text


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help(shell: Shell, command: str, option: str) -> None:
    """`--help` of each command explains it and does nothing else."""
    ended = shell(command, option)
    assert ended.code == 0
    assert ended.out.startswith(f"Usage: parquill {command}")
    assert shell.files == []


def test_the_version_is_told(shell: Shell) -> None:
    """`--version` prints name and version."""
    ended = shell("--version")
    assert ended.code == 0
    assert ended.out.startswith("parquill, version ")


@pytest.mark.parametrize(
    "words",
    [
        ("estimate", "job.yaml", "--bogus"),
        ("preview", "job.yaml", "--limits", "3"),
        ("report", "out", "--bogus"),
        ("bogus",),
        ("estimate",),
        ("preview",),
        ("report",),
        ("preview", "job.yaml", "--rows", "0"),
        ("preview", "job.yaml", "--rows", "many"),
        ("estimate", "job.yaml", "--limit", "-1"),
        ("estimate", "job.yaml", "--limit", "0"),
        ("estimate", "job.yaml", "--date", "tomorrow"),
        ("estimate", "job.yaml", "--date", "2026-02-30"),
        ("estimate", "job.yaml", "--date", "23.11.2026"),
        ("estimate", "job.yaml", "other.yaml"),
        ("run", "job.yaml", "--redo", "everything"),
        ("init", "a.yaml", "b.yaml"),
    ],
)
def test_a_command_that_is_misspelt_exits_2(shell: Shell, words: tuple[str, ...]) -> None:
    """Unknown options, commands or values and missing arguments exit 2 with a reason on stderr and do nothing."""
    shell.write(["a"])
    ended = shell(*words)
    assert ended.code == 2
    assert ended.out == ""
    assert "Error: " in ended.err
    assert shell.files == ["in.parquet", "job.yaml"]


def test_init_writes_a_job_that_is_valid(shell: Shell) -> None:
    """The job file that `init` writes is valid and works once its input exists."""
    ended = shell("init")
    assert (ended.code, "parquill preview job.yaml" in ended.text) == (0, True)
    job = load_job(shell.folder / "job.yaml")
    assert job.budget.run_usd == 1
    pq.write_table(pa.table({"text": ["a"]}), shell.folder / "prompts.parquet")
    assert shell("estimate", "job.yaml", "--json").json["rows"] == 1


def test_the_schema_is_printed_and_found_by_init(shell: Shell) -> None:
    """`schema` prints only the JSON schema of a job; if the folder has that file, `init` names it in the job."""
    ended = shell("schema")
    assert (ended.code, ended.err) == (0, "")
    assert ended.json == job_schema()
    (shell.folder / "job.schema.json").write_text(ended.out, encoding="utf-8")
    assert shell("init").code == 0
    text = (shell.folder / "job.yaml").read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=job.schema.json\n")
    assert load_job(shell.folder / "job.yaml").name == "my-job"


def test_init_never_overwrites(shell: Shell) -> None:
    """`init` keeps a file that already exists unchanged."""
    (shell.folder / "mine.yaml").write_text("precious", encoding="utf-8")
    ended = shell("init", "mine.yaml")
    assert ended.code == 1
    assert "mine.yaml already exists" in ended.err
    assert (shell.folder / "mine.yaml").read_text(encoding="utf-8") == "precious"


def test_init_into_a_folder_that_is_not_there(shell: Shell) -> None:
    """If `init` cannot write its file, it says so with the path."""
    ended = shell("init", "no/such/job.yaml")
    assert ended.code == 1
    assert "cannot write no/such/job.yaml: No such file or directory" in ended.err


def test_preview_shows_requests_and_sends_nothing(shell: Shell) -> None:
    """`preview` shows the first requests as they would be sent, without a key, and writes nothing."""
    shell.write(["one", "two", "three", "four"])
    ended = shell("preview", "job.yaml")
    assert (ended.code, ended.err) == (0, "")
    assert ended.text.count("POST https://api.openai.com/v1/chat/completions") == 3
    assert '"content": "three"' in ended.text
    assert "four" not in ended.text
    assert shell.files == ["in.parquet", "job.yaml"]


def test_preview_as_json(shell: Shell) -> None:
    """`--json` prints one object with the rows; a rejected row has its reason."""
    shell.write(["one", None])
    ended = shell("preview", "job.yaml", "--json", "--rows", "5")
    assert ended.code == 0
    first, second = ended.json["rows"]
    assert first["body"]["messages"] == [{"role": "user", "content": "one"}]
    assert (second["body"], second["row_number"]) == (None, 1)
    assert "'text' is null" in second["error"]


def test_preview_of_one_row(shell: Shell) -> None:
    """`--rows` counts output rows, with `for_each` too."""
    shell.write(["one", "two"])
    words = (
        "preview",
        "job.yaml",
        "--json",
        "--rows",
        "3",
        "--set",
        "for_each={n: [1, 2]}",
        "--set",
        "prompt.user='{{ text }}{{ n }}'",
    )
    rows = shell(*words).json["rows"]
    assert [row["body"]["messages"][0]["content"] for row in rows] == ["one1", "one2", "two1"]


def test_what_is_shown_cannot_steer_a_terminal(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences and rich's markup in a cell are shown as text and have no effect."""
    shell.write(["\x1b[31mred\x07 [bold]loud[/bold] [/nothing]"])
    with pytest.raises(SystemExit):
        main(["preview", "job.yaml"])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "[bold]loud[/bold] [/nothing]" in out


def test_estimate_for_people(shell: Shell) -> None:
    """The estimate shows rows, tokens, the maximum cost and its basis, on stdout, without a key.
    Without history it shows no expected cost.
    """
    shell.write(["one", "two", "one"], JOB + "budget: {run_usd: 1}\n")
    ended = shell("estimate", "job.yaml")
    assert ended.code == 0
    for expected in (
        "rows to send 2",
        "cost, worst case $0.00012",
        "at most $0.00012; for an expected cost run `parquill estimate JOB --pilot 100`",
        "at most $0.00012 fits into the budget of $1.00",
        "genai-prices",
    ):
        assert expected in ended.text
    assert "expected" not in ended.text.replace("for an expected cost", "")
    assert shell.files == ["in.parquet", "job.yaml"]


def test_estimate_as_json(shell: Shell) -> None:
    """`--json` prints one flat object with the keys of `estimate` in the contract; amounts are decimal strings."""
    shell.write(["one", "two", "one"])
    ended = shell("estimate", "job.yaml", "--json")
    assert ended.code == 0
    found = ended.json
    keys = {"rows", "model", "prompt_tokens", "completion_tokens_expected", "fits_budget"}
    money = {"cost_usd_expected", "cost_usd_p90", "cost_usd_worst"}
    assert keys | money <= found.keys()
    assert (found["rows"], found["model"], found["fits_budget"]) == (3, "gpt-4o-mini", True)
    # 8 tokens a prompt at $0.15 a million, 100 of output at $0.60 a million
    assert (found["prompt_tokens"], found["completion_tokens_expected"]) == (16, 200)
    assert all(found[name] == "0.000122400" for name in money)
    assert Decimal(found["cost_usd_worst"]) == (16 * Decimal("0.15") + 200 * Decimal("0.6")) / 10**6
    assert not any(isinstance(value, dict | list) for value in found.values())


@pytest.mark.parametrize("as_json", [True, False])
def test_an_estimate_over_the_budget_exits_3(shell: Shell, as_json: bool) -> None:  # noqa: FBT001 - parametrized
    """An estimate that does not fit exits 3 and shows both numbers; with a larger budget it exits 0."""
    shell.write(["one", "two"])
    words = ("estimate", "job.yaml", *(["--json"] if as_json else []), "--set")
    ended = shell(*words, "budget.run_usd=0.0001")
    assert ended.code == 3
    if as_json:
        assert ended.json["fits_budget"] is False
        assert ended.json["cost_usd_expected"] == "0.000122400"
    else:
        assert "at most $0.00012 exceeds the budget of $0.00010 (2 rows to send" in ended.text
        assert "`run` first completes a pilot for at most 1 % of the budget" in ended.text
        never = shell(*words, "budget.run_usd=0.0001", "--set", "budget.pilot=never")
        assert "budget.pilot is `never`, so `run` refuses this" in never.text
    assert shell(*words, "budget.run_usd=0.0001224").code == 0


def test_estimate_of_nothing(shell: Shell) -> None:
    """An empty input costs nothing and fits every budget."""
    shell.write([])
    ended = shell("estimate", "job.yaml", "--json", "--set", "budget.run_usd=0.000000001")
    assert (ended.code, ended.json["rows"], ended.json["cost_usd_worst"]) == (0, 0, "0.000000000")


def test_estimate_of_the_first_rows(shell: Shell) -> None:
    """`--limit` estimates only the first rows."""
    shell.write(["one", "two", "three"])
    assert shell("estimate", "job.yaml", "--json", "--limit", "2").json["rows"] == 2


def test_bad_rows_exit_2(shell: Shell) -> None:
    """More bad rows than tolerated exit 2, with their number, the reason and the position of the first."""
    shell.write(["one", None, None])
    ended = shell("estimate", "job.yaml")
    assert ended.code == 2
    assert "2 of 3 rows cannot be sent (null_value 2)" in ended.err
    assert "the first: in.parquet, row 1: 'text' is null" in ended.err
    assert shell("estimate", "job.yaml", "--set", "tolerate.rejected=1").code == 0


def test_dates_and_overrides_reach_the_job(shell: Shell) -> None:
    """`--date` fills in paths; `--set` overrides settings, nested ones included."""
    shell.write(["one"], JOB.replace("in.parquet", "dt={date-1}/in.parquet"))
    (shell.folder / "dt=2025-12-31").mkdir()
    (shell.folder / "in.parquet").rename(shell.folder / "dt=2025-12-31" / "in.parquet")
    words = (
        "preview",
        "job.yaml",
        "--json",
        "--date",
        "2026-01-01",
        "--set",
        "prompt.user='{{ dt }}'",
        "--set",
        "parameters.seed=5",
    )
    body = shell(*words).json["rows"][0]["body"]
    assert body["messages"][0]["content"] == "2025-12-31"
    assert body["seed"] == 5


BAD: list[tuple[str, str]] = [
    ("modle=x", "did you mean `model`"),
    ("budget.run_usd=ten", "`budget.run_usd`"),
    ("budget.run_usd=0", "`budget.run_usd`"),
    ("limits.max_at_once=1000000", "`limits.max_at_once`"),
    ("limits.max_at_once=yes", "`limits.max_at_once`"),
    ("model=gpt-4o-mni", "gpt-4o-mini"),
    ("input=missing.parquet", "missing.parquet does not exist"),
    ("input=ftp://bucket/x", "ftp://"),
    ("input=job.yaml", "job.yaml is not a readable Parquet file"),
    ("input='{day}.parquet'", "{day} in a path is unknown"),
    ("prompt.user='{{ Text }}'", "the column is written 'text'"),
    ("prompt.user='{{ text'", "`prompt.user`, line 1"),
    ("id_column=nothing", "no column 'nothing'"),
    ("for_each={text: [a]}", "already a column of the input"),
    ("tokenizer=nothing", "`tokenizer`"),
    ("response_format=missing.json", "missing.json"),
    ("response_format={type: object}", "object with properties"),
    ("endpoint.base_url=http://example.com", "allow_http"),
    ("parameters.n=2", "'n'"),
    ("limits.tokens_per_minute=5", "limits.tokens_per_minute"),
    ("nonsense", "NAME=VALUE"),
]


@pytest.mark.parametrize(("override", "expected"), BAD, ids=[override for override, _ in BAD])
def test_a_bad_job_or_input_exits_2(shell: Shell, override: str, expected: str) -> None:
    """A job that cannot run exits 2 with one sentence on stderr that names the fault, and leaves nothing behind."""
    shell.write(["one"])
    ended = shell("estimate", "job.yaml", "--set", override)
    assert ended.code == 2
    assert ended.out == ""
    assert "parquill: " in ended.err
    assert expected in ended.err
    assert shell.files == ["in.parquet", "job.yaml"]


@pytest.mark.parametrize("command", ["estimate", "preview", "report"])
def test_a_refusal_as_json(shell: Shell, command: str) -> None:
    """With `--json` a refusal is also one object, with the sentence and the exit code."""
    ended = shell(command, "missing.yaml", "--json")
    assert ended.code == 2
    assert ended.json == {
        "error": "cannot read the job file missing.yaml: No such file or directory",
        "exit_code": 2,
    }
    assert "missing.yaml" in ended.err


@pytest.mark.parametrize(
    ("override", "expected"),
    [("name=x", "2 of 3 rows cannot be sent"), ("limits.tokens_per_minute=5", "limits.tokens_per_minute")],
)
def test_what_the_rows_refuse_is_json_too(shell: Shell, override: str, expected: str) -> None:
    """With `--json` a fault that is found only in the rows is one object as well."""
    shell.write(["one", None, None] if override == "name=x" else ["one"])
    ended = shell("estimate", "job.yaml", "--json", "--set", override)
    assert (ended.code, ended.json["exit_code"]) == (2, 2)
    assert expected in ended.json["error"]


def test_report_of_a_folder_without_a_run(shell: Shell) -> None:
    """`report` of a folder or a job without a run says so and exits 2."""
    shell.write(["one"])
    (shell.folder / "empty").mkdir()
    for path in ("empty", "job.yaml"):
        ended = shell("report", path, "--json")
        assert ended.code == 2
        assert "has no summary.json: no run has begun there yet" in ended.json["error"]
    assert shell("report", "empty", "--failed").code == 2


def test_report_of_a_damaged_summary(shell: Shell) -> None:
    """`report` distinguishes a summary that cannot be read from a missing one."""
    (shell.folder / "out").mkdir()
    (shell.folder / "out" / "summary.json").write_text('{"state": ', encoding="utf-8")
    ended = shell("report", "out")
    assert ended.code == 1
    assert "summary.json cannot be read" in ended.err


def test_no_traceback_and_no_prompt_in_a_refusal(shell: Shell) -> None:
    """A refusal never shows a cell."""
    shell.write(["CANARY", "CANARY"], JOB.replace("{{ text }}", "{{ text.missing }}"))
    for command in ("estimate", "preview"):
        ended = shell(command, "job.yaml", "--json")
        assert "CANARY" not in ended.out + ended.err


def test_an_estimate_over_the_month_exits_3(shell: Shell) -> None:
    """The estimate compares the cost with the rest of the monthly budget in the ledger."""
    shell.write(["one", "two"])
    assert shell("estimate", "job.yaml", "--set", "budget.monthly_usd=1").code == 0
    ended = shell("estimate", "job.yaml", "--set", "budget.monthly_usd=0.0001")
    assert ended.code == 3
    assert "at most $0.00012 exceeds what is left of the month" in ended.text


def _finish(folder: Path) -> dict[str, Any]:
    """Write the files that a finished run leaves for readers."""
    summary: dict[str, Any] = {
        "prices": {"source": "a list", "version": "2026-11"},
        "run_id": "20261123-051448-k3fq",
        "state": "finished",
        "exit_code": 5,
        "message": None,
        "job": "cli",
        "model": "gpt-4o-mini",
        "rows": {"total": 1002, "ok": 1000, "truncated": 1, "failed": 1, "rejected": 0},
        "tokens": {"prompt": 8016, "cached": 0, "cache_write": 0, "completion": 1000, "reasoning": 0},
        "estimate": {"cost_usd_expected": "0.002000000", "cost_usd_worst": "0.002000000", "prompt_tokens": 8016},
        "cost_usd": "0.001802400",
        "paid_usd": "0.001802400",
        "in_doubt_usd": "0.000001000",
        "over_reserved_usd": "0.000000000",
        "saved_usd": "0.000000000",
        "requests": {"sent": 1003, "retried": 1, "throttled": 0, "in_doubt": 1},
        "duration_s": 12.5,
    }
    (folder / "results").mkdir(parents=True)
    (folder / ".parquill").mkdir()
    (folder / "summary.json").write_bytes(orjson.dumps(summary))
    parts = [{"file": "part.parquet", "rows": 3}]
    (folder / ".parquill" / "manifest.json").write_bytes(orjson.dumps({"parts": parts}))
    columns = {
        "source_file": ["in.parquet"] * 3,
        "row_number": [0, 1, 2],
        "status": ["ok", "truncated", "failed"],
        "error_code": [None, "max_output_tokens", "timeout"],
        "error_message": [None, "the answer was cut", "no answer \x1b[31mred [bold]x[/bold]"],
        "finished_at": [None, None, None],
    }
    pq.write_table(pa.table(columns), folder / "results" / "part.parquet")
    return summary


def test_report_shows_the_latest_run_again(shell: Shell) -> None:
    """`report` of a folder and of a job shows run, rows, requests and costs on stdout."""
    shell.write(["one"])
    _finish(shell.folder / "out")
    for path in ("out", "job.yaml"):
        ended = shell("report", path)
        assert (ended.code, ended.err) == (0, "")
        for expected in (
            "20261123-051448-k3fq",
            "total 1,002, ok 1,000",
            "cost $0.0018 (expected $0.0020)",
            "in doubt $0.000001",
            "12.5 s",
        ):
            assert expected in ended.text
        assert "saved by reuse" not in ended.text


def test_report_as_json(shell: Shell) -> None:
    """`report --json` is the summary; with `--failed` it also has the rows that are not ok."""
    summary = _finish(shell.folder / "out")
    assert shell("report", "out", "--json").json == summary
    failed = shell("report", "out", "--json", "--failed").json
    assert failed.items() >= summary.items()
    assert [(row["row_number"], row["error_code"]) for row in failed["failed"]] == [
        (1, "max_output_tokens"),
        (2, "timeout"),
    ]


def test_report_lists_rows_that_are_not_ok(shell: Shell) -> None:
    """`--failed` lists each such row with its position and reason, without control characters for the terminal."""
    _finish(shell.folder / "out")
    ended = shell("report", "out", "--failed")
    assert ended.code == 0
    assert "in.parquet, row 1: truncated, max_output_tokens: the answer was cut" in ended.text
    assert "row 2: failed, timeout: no answer" in ended.text
    assert "[bold]x[/bold]" in ended.text
    assert "\x1b" not in ended.text
    assert "2 rows are not ok" in ended.text
    assert "row 0" not in ended.text


@pytest.mark.parametrize("as_json", [True, False])
def test_an_unforeseen_error_tells_its_place_and_not_its_text(
    shell: Shell,
    monkeypatch: pytest.MonkeyPatch,
    as_json: bool,  # noqa: FBT001 - parametrized
) -> None:
    """An unexpected error exits 1 with its type and code location only, because its text may hold a cell or a key."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("CANARY")

    monkeypatch.setattr("parquill.flows.cli.commands.load_job", fail)
    ended = shell("estimate", "job.yaml", *(["--json"] if as_json else []))
    assert ended.code == 1
    assert "unexpected ZeroDivisionError at test_commands.py:" in ended.err
    assert "CANARY" not in ended.out + ended.err


def test_comparing_models(shell: Shell) -> None:
    """`--compare` prices the same rows for other models, the cheapest first, as JSON on stdout or for people."""
    shell.write(["one", "two"])
    found = shell("estimate", "job.yaml", "--json", "--compare", "gpt-4o,gpt-4o-mini").json
    assert found["rows"] == 2
    assert {entry["model"] for entry in found["models"]} == {"gpt-4o", "gpt-4o-mini"}
    costs = [Decimal(entry["estimate"]["cost_usd_expected"]) for entry in found["models"]]
    assert costs == sorted(costs)
    ended = shell("estimate", "job.yaml", "--compare", "gpt-4o")
    assert (ended.code, ended.err) == (0, "")
    assert "gpt-4o" in ended.text
    assert shell("estimate", "job.yaml", "--compare", "gpt-4o-mni").code == 2


def test_a_comparison_has_windows_and_notes(shell: Shell) -> None:
    """`--compare` prices the lane that a run can buy, counts rows too long for a window, and shows model notes."""
    shell.write(["one", "word " * 20_000])
    wanted = "gpt-3.5-turbo,claude-sonnet-4-5,gpt-6-luna"
    found = shell("estimate", "job.yaml", "--json", "--compare", wanted).json
    lanes = {
        name: [each["lane"] for each in found["models"] if each["model"] == name] for name in (*wanted.split(","),)
    }
    # only luna has a flex price at this address, and claude has no batch price
    assert lanes == {
        "gpt-3.5-turbo": ["batch", "live"],
        "claude-sonnet-4-5": ["live"],
        "gpt-6-luna": ["flex", "batch", "live"],
    }
    luna_lanes = (entry for entry in found["models"] if entry["model"] == "gpt-6-luna")
    flex_usd, batch_usd, live_usd = (Decimal(entry["estimate"]["cost_usd_worst"]) for entry in luna_lanes)
    assert 2 * flex_usd == 2 * batch_usd == pytest.approx(live_usd)
    entries = {entry["model"]: entry for entry in found["models"]}
    costs = [Decimal(entry["estimate"]["cost_usd_expected"]) for entry in found["models"]]
    assert costs == sorted(costs)
    own, small, luna = entries["gpt-4o-mini"], entries["gpt-3.5-turbo"], entries["gpt-6-luna"]
    assert (own["fits_window"], own["rows_too_long"]) == (True, 0)
    assert (small["fits_window"], small["rows_too_long"]) == (False, 1)
    assert (own["prompt_tokens_note"], own["thinking_note"]) == (None, None)
    assert "thinks before it answers" in luna["thinking_note"]
    # nothing is sent at this price, so a model that the job's address does not sell gets its maker's price
    assert entries["claude-sonnet-4-5"]["prices"]["source"] == "genai-prices, anthropic"
    assert entries["claude-sonnet-4-5"]["prompt_tokens_note"].startswith("approximate")
    text = shell("estimate", "job.yaml", "--compare", wanted).text
    assert "gpt-3.5-turbo: 1 rows are too long for its window" in text
    lines = list(comparison_lines(found))
    assert lines[0].startswith("2 rows")
    table = lines[1 : 2 + len(found["models"])]
    assert table[0].split() == "model lane at most prompt tokens".split()  # without history there is no expected cost
    assert "for expected costs run `parquill estimate JOB --pilot 100` first" in text
    assert [line.split()[1] for line in table[1:]].count("live") == 4
    assert {len(line) for line in table} == {len(table[0])}  # the columns are aligned


def test_a_comparison_with_history() -> None:
    """With earlier answers the table shows expected costs, with the same number of decimals.
    A long name does not break the columns.
    """
    names = ["gpt-4o", "openrouter/anthropic/claude-3-haiku-20240307-extended-thinking"]
    costs = [("1.234567890", "1.5", "2.000000000"), ("0.004200000", "0.0051", "0.010000000")]
    found = {
        "rows": 2,
        "models": [
            {
                "model": name,
                "lane": "live",
                "estimate": {"basis": "history", "prompt_tokens": 1234}
                | dict(zip(("cost_usd_expected", "cost_usd_p90", "cost_usd_worst"), cost, strict=True)),
                "fits_budget": True,
                "fits_window": True,
                "rows_too_long": 0,
                "prompt_tokens_note": None,
                "thinking_note": None,
                "shutdown_note": None,
            }
            for name, cost in zip(names, costs, strict=True)
        ],
    }
    head, *rows = list(comparison_lines(found))[1:]
    assert head.split() == "model lane expected p90 at most prompt tokens".split()
    assert [line.split()[2:5] for line in rows] == [
        ["$1.2346", "$1.5000", "$2.0000"],
        ["$0.0042", "$0.0051", "$0.0100"],
    ]
    assert {len(line) for line in rows} == {len(head)}
    assert len(shorten(names[1])) == 40
    assert shorten(names[1]).startswith("openrouter/anthropi")
    assert shorten(names[1]).endswith("extended-thinking")


def test_an_estimate_names_what_cannot_be_sent(shell: Shell) -> None:
    """A row that exceeds the model's window of 2023 is rejected, and the estimate names it with both numbers."""
    shell.write(["one", "word " * 4_000])
    words = ("estimate", "job.yaml", "--set", "model=gpt-3.5-turbo", "--prices-on", "2023-04-01")
    sentence = "in.parquet, row 1: 4,008 tokens of input and 100 of output exceed gpt-3.5-turbo's window of 4,096"
    assert f"the first of them: {sentence}" in shell(*words).text
    found = shell(*words, "--json").json
    assert (found["rows_rejected"], found["first_rejected"]) == (1, sentence)
    assert found["prices_source"].startswith("data/prices.toml, OpenAI")
    assert found["prices_version"].endswith("on 2023-04-01")


def test_prices_of_another_day(shell: Shell) -> None:
    """`--prices-on` uses the prices of that day and does not change dates in paths."""
    shell.write(["one"])
    words = ("estimate", "job.yaml", "--json", "--set", "model=gpt-3.5-turbo", "--prices-on")
    assert shell(*words, "2023-04-01").json["cost_usd_worst"] == "0.000216000"  # (8 + 100) tokens at $2 a million
    assert shell(*words, "2026-11-23").json["cost_usd_worst"] == "0.000154000"


def test_ctrl_c_exits_130(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is interrupted exits 130, without a traceback."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("parquill.flows.cli.commands.load_job", interrupt)
    assert shell("estimate", "job.yaml").code == 130


@pytest.mark.parametrize("value", ["ten", "0", "-1", "1.5", "1e3", "", "9" * 30])
def test_a_limit_that_is_no_number(shell: Shell, value: str) -> None:
    """A value that is not a number of rows is refused with the allowed range, in plain words."""
    shell.write(["one"])
    ended = shell("estimate", "job.yaml", "--limit", value)
    assert ended.code == 2
    assert f"{value!r} is not a whole number from 1 to 1,000,000,000,000" in ended.err


def test_the_help_of_each_command_is_one_sentence() -> None:
    """The list of commands shows each command's first sentence in full: it has fewer than 60 characters."""
    for name, command in cli.commands.items():
        first = (command.help or "").split("\n\n")[0]
        assert len(first) < 60, name
        assert not command.get_short_help_str(60).endswith("..."), name


def test_a_refusal_is_said_once(shell: Shell) -> None:
    """An estimate shows its refusal once, on stderr, and does not also say that the cost fits."""
    shell.write(["one", None, None, None])
    ended = shell("estimate", "job.yaml")
    assert ended.code == 2
    assert ended.err.count("in.parquet, row 1") == 1
    assert "fits into" not in ended.err
    assert "no budget is set" not in ended.err


def test_an_estimate_tells_that_a_run_would_wait(shell: Shell) -> None:
    """Above budget.approval_usd the estimate says that a person must approve the run."""
    shell.write(["one", "two"])
    words = ("estimate", "job.yaml", "--set", "budget.run_usd=1", "--set")
    above = shell(*words, "budget.approval_usd=0.000001")
    sentence = "a person must approve: at most $0.00012 is above budget.approval_usd = $0.000001"
    assert above.text.count(sentence) == 1
    found = shell(*words, "budget.approval_usd=0.000001", "--json").json
    assert sentence in found["warning"]
    assert "must approve" not in shell(*words, "budget.approval_usd=0.9").text


SHORT = {
    "model": ("gpt-6-luna", "model"),
    "input": ("other.parquet", "input"),
    "output": ("elsewhere", "output"),
    "budget": ("3.5", "budget.run_usd"),
}


@pytest.mark.parametrize("command", ["run", "estimate", "preview", "doctor"])
@pytest.mark.parametrize("option", SHORT)
def test_a_short_form_is_a_set(shell: Shell, command: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """--model, --input, --output and --budget have the same effect as --set, and giving both is refused."""
    value, setting = SHORT[option]
    shell.write(["one"])
    loaded: list[Job] = []

    def load(path: Path, overrides: Sequence[str]) -> Job:
        loaded.append(load_job(path, overrides))
        raise BadJob("enough")

    monkeypatch.setattr(commands, "load_job", load)
    assert shell(command, "job.yaml", f"--{option}", value).code == 2
    assert shell(command, "job.yaml", "--set", f"{setting}={value}").code == 2
    assert loaded[0] == loaded[1] != load_job(shell.folder / "job.yaml")
    ended = shell(command, "job.yaml", f"--{option}", value, "--set", f"{setting}=1")
    assert ended.code == 2
    assert f"--{option} and --set {setting}=... both set `{setting}`; give one of them" in ended.err
    assert len(loaded) == 2


@pytest.mark.parametrize("value", ["", "null", "$5", "0"])
def test_a_budget_that_is_no_amount(shell: Shell, value: str) -> None:
    """A budget that is not an amount is refused. A blank budget does not mean a run without a budget."""
    shell.write(["one"])
    ended = shell("estimate", "job.yaml", "--budget", value)
    assert ended.code == 2
    assert "`budget.run_usd`" in ended.err


def test_a_model_that_yaml_reads_as_a_number(shell: Shell) -> None:
    """The value of a short option is text, even if YAML would read it as a number."""
    shell.write(["one"], JOB + "price: {usd_per_mtok_input: 0, usd_per_mtok_output: 0}\n")
    assert shell("estimate", "job.yaml", "--model", "1e3", "--json").json["model"] == "1e3"


ENDPOINTS = """
name: two
input: in.parquet
output: out
prompt: "{{ text }}"
model: gpt-4o-mini
max_output_tokens: 5
endpoints:
  - {api_key_env: FIRST, weight: 3, limits: {requests_per_minute: 60}}
  - {base_url: "https://gateway.example/v1", api_key_env: SECOND, model: gpt-4o, limits: {requests_per_minute: 30}}
"""


def test_several_endpoints_before_a_run(shell: Shell) -> None:
    """`preview` shows all addresses; the estimate has the price by weight, the highest as the worst, and both limits."""
    shell.write([f"text {number}" for number in range(90)], ENDPOINTS)
    (shown, *_) = orjson.loads(shell("preview", "job.yaml", "--rows", "1", "--json").out)["rows"]
    assert shown["url"] == "https://api.openai.com/v1/chat/completions"
    assert shown["or_to"] == [
        {
            "url": "https://gateway.example/v1/chat/completions",
            "headers": {"Authorization": "SECOND"},
            "model": "gpt-4o",
        }
    ]
    text = shell("preview", "job.yaml", "--rows", "1").text
    assert "or to https://gateway.example/v1/chat/completions, Authorization from SECOND, as the model gpt-4o" in text
    found = shell("estimate", "job.yaml", "--json").json
    assert found["duration_s"] == 60
    one, other = (
        Decimal(
            shell("estimate", "job.yaml", "--json", "--set", f"endpoints=[{{api_key_env: A, model: {name}}}]").json[
                "cost_usd_worst"
            ]
        )
        for name in ("gpt-4o-mini", "gpt-4o")
    )
    assert one < other == Decimal(found["cost_usd_worst"])


def test_a_comparison_with_several_endpoints(shell: Shell) -> None:
    """`--compare` shows another model at the price of each endpoint, and no batches, which one endpoint alone sells."""
    shell.write(["one"], ENDPOINTS)
    found = shell("estimate", "job.yaml", "--json", "--compare", "gpt-4o").json
    assert {(entry["model"], entry["lane"]) for entry in found["models"]} == {
        ("gpt-4o-mini", "live"),
        ("gpt-4o", "live"),
    }
    costs = {entry["model"]: entry["estimate"]["cost_usd_worst"] for entry in found["models"]}
    assert costs["gpt-4o-mini"] == costs["gpt-4o"]  # one endpoint of the job asks for gpt-4o anyway
