"""Secrets and privacy: the key is in one header and nowhere else, and cells and answers stay where they belong."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import ssl
import stat
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from parquill.tasks.errors import BadJob, DamagedJournal
from parquill.tasks.job import azure_token
from parquill.tasks.job.api_key import read_key
from parquill.tasks.job.key import Key
from parquill.tasks.llm.client import Client, aiohttp_transport
from parquill.tasks.llm.reply_reader import ReplyReader
from parquill.tasks.llm.settlement import Settlement
from parquill.tasks.llm.shard_report import SendResult
from parquill.tasks.prompts import run
from parquill.tasks.results.escaping import BREAK, escape, strip_control
from parquill.tasks.storage.replay import replay_shard
from tests.deployed.live_stack import LiveStack
from tests.fakes.identity import Identity, identity_service
from tests.tools.direct import job_of, run_steps
from tests.tools.jobs import Jobs
from tests.tools.prefect_api import ask_prefect
from tests.tools.searching import reachable, where
from tests.tools.small_jobs import resolved_job

KINDS = ["echo", "ansi", "redirect", "garbage", "status:500", "disconnect_before", "hang", "truncated_json"]


def _canary(kind: str) -> str:
    return f"{kind}-canary-{secrets.token_hex(12)}"


def _least(**changes: Any) -> dict[str, Any]:
    least = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "gpt-4o-mini"}
    return {**least, "max_output_tokens": 10, **changes}


class Trap:
    """A listener that keeps what it gets; it plays a party that must not get a key."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                try:
                    self.received.append(connection.recv(65536))
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                except OSError:
                    continue

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def trap() -> Iterator[Trap]:
    made = Trap()
    yield made
    made.close()


def test_nothing_that_a_run_leaves_behind_holds_the_key(jobs: Jobs, trap: Trap, tmp_path: Path) -> None:
    """After errors of every kind, a 401 and a Ctrl-C, with logs on DEBUG, the key was only in the request header.
    Cells are in the output and the state only, and Parquill's files are private whatever the umask.
    """
    good, wrong, other, cell, header = (_canary(kind) for kind in ("key", "wrong", "other", "cell", "header"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    faults: list[dict[str, Any]] = [{"kind": kind, "match": f"<{kind}>"} for kind in KINDS]
    faults[KINDS.index("redirect")]["location"] = f"http://127.0.0.1:{trap.port}/v1/stolen"
    jobs.service.configure(require_key=good, faults=faults, log=100, log_bodies=True)
    loud = {"PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "DEBUG"}
    loud |= {"PREFECT_LOGGING_ROOT_LEVEL": "DEBUG", "PREFECT_LOGGING_EXTRA_LOGGERS": "parquill,aiohttp,sqlalchemy"}
    loud |= {"E2E_HEADER": header, "PARQUILL_TRACEBACK": "1", "PYTHONASYNCIODEBUG": "1", "TMPDIR": str(temporary)}
    settings = jobs.job(
        [f"{cell} fine", *(f"{cell} <{kind}>" for kind in KINDS)],
        endpoint={"api_key_env": "E2E_KEY", "headers_env": {"X-Canary": "E2E_HEADER"}},
        retry={"attempts": 1, "timeout_s": 8},
        tolerate={"not_ok": 1},
        id_column="text",
    )
    cut = {**settings, "output": str(tmp_path / "out-cut"), "retry": {"attempts": 1, "timeout_s": 60}}
    # two keys, of which each is refused
    both = [{**settings["endpoint"], "api_key_env": name} for name in ("E2E_KEY", "E2E_OTHER")]
    refused = {**settings, "output": str(tmp_path / "out-refused"), "endpoints": both}
    del refused["endpoint"]
    before = os.umask(0)
    try:
        done = jobs.spawn(settings, "--json", environment={**loud, "E2E_KEY": good + "\n"}).wait()
        stopped = jobs.spawn(refused, environment={**loud, "E2E_KEY": wrong, "E2E_OTHER": other}).wait()
        last = jobs.spawn(cut, environment={**loud, "E2E_KEY": good})
    finally:
        os.umask(before)
    _interrupt(last.process.pid, Path(cut["output"]))
    interrupted = last.wait()
    assert (done.exit_code, stopped.exit_code, interrupted.exit_code) == (0, 1, 130), done.stderr + stopped.stderr
    assert "Finished in state" in done.stderr, "the logs are not on"
    assert cell in done.column("completion")[0]
    received = [entry["headers"] for entry in jobs.service.log()]
    assert any(good in str(headers) for headers in received), "the search is for a key that was never sent"
    assert any(header in str(headers) for headers in received), "the search is for a header that was never sent"
    for key in (wrong, other):
        assert any(key in str(headers) for headers in received), "the search is for a key that was never sent"
    assert not [entry for entry in jobs.service.log() if good in entry["body"] or good in entry["target"]]
    assert trap.received == []
    _settle(os.environ["PREFECT_API_URL"])
    home = Path(os.environ["PREFECT_HOME"])
    texts = [(f"{name} {n}", text) for n, d in enumerate((done, stopped, interrupted)) for name, text in _streams(d)]
    texts.append(("Prefect's API", _all_of_prefect(os.environ["PREFECT_API_URL"])))
    outputs = [Path(each["output"]) for each in (settings, cut, refused)]
    assert where((good, wrong, other, header, cell), [home, temporary, tmp_path / "user-state"], texts) == []
    assert where((good, wrong, other, header), outputs) == []
    for output in outputs:
        shown = [output / name for name in ("summary.json", "history") if (output / name).exists()]
        assert where(cell, shown) == []
        assert _not_private(output / ".parquill") == []
    for file in ("results", "report.html"):
        assert where(cell, [outputs[0] / file]), "the search does not find cells where they are"


def _streams(done: Any) -> list[tuple[str, str]]:
    return [("stdout", done.stdout), ("stderr", done.stderr)]


def _settle(address: str) -> None:
    """Wait until Prefect's server has written the events of the last runs: the event of a run's end comes last."""

    def is_written() -> bool:
        runs = ask_prefect(address, "POST", "/flow_runs/filter", limit=200)
        wanted = {"event": {"prefix": ["prefect.flow-run."]}}
        events = ask_prefect(address, "POST", "/events/filter", filter=wanted, limit=50)["events"]
        written = {(each["event"], each["resource"]["prefect.resource.id"]) for each in events}
        latest = sorted(runs, key=lambda run: str(run["created"]))[-3:]
        return all(
            (f"prefect.flow-run.{run['state_name']}", f"prefect.flow-run.{run['id']}") in written for run in latest
        )

    LiveStack.wait("the events of the runs' ends", is_written)


def _interrupt(process: int, output: Path) -> None:
    """Send Ctrl-C twice once requests are under way."""
    until = time.monotonic() + 120
    while not list(output.glob(".parquill/runs/*/journals/*.journal")) and time.monotonic() < until:
        time.sleep(0.1)
    os.kill(process, signal.SIGINT)
    time.sleep(0.3)
    os.kill(process, signal.SIGINT)


def _all_of_prefect(address: str) -> str:
    """Return all that the server shows of the runs: parameters, variables, states, logs, artifacts, events."""
    answers = []
    for path in ("flow_runs", "task_runs", "artifacts", "logs", "variables", "deployments", "events"):
        found = ask_prefect(address, "POST", f"/{path}/filter", limit=50 if path == "events" else 200)
        answers.append(orjson.dumps(found).decode())
    return "\n".join(answers)


def _not_private(folder: Path) -> list[str]:
    """Return the files that are not 0600 and the folders that are not 0700."""
    wrong = []
    for path in [folder, *folder.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode != (0o700 if path.is_dir() else 0o600):
            wrong.append(f"{path.relative_to(folder)} {mode:o}")
    return wrong


@pytest.fixture
def identity() -> Iterator[Identity]:
    """Return the identity service of an app on Azure."""
    with identity_service() as running:
        yield running
    azure_token._credential.cache_clear()


@pytest.mark.parametrize("where_from", ["variable", "block", "endpoints", "azure"])
def test_every_logger_on_debug_tells_no_key_and_no_cell(
    jobs: Jobs,
    identity: Identity,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where_from: str,
) -> None:
    """With the root logger on DEBUG, no logger of any library writes the key or a cell, wherever the key came from."""
    from prefect.blocks.system import Secret

    key, cell = _canary("key"), _canary("cell")
    endpoint = {"base_url": jobs.service.url, "api_key_env": "E2E_KEY"}
    if where_from == "block":
        Secret(value=SecretStr(key)).save("canary-block", overwrite=True)
        endpoint = {"base_url": jobs.service.url, "api_key_block": "canary-block"}
    other = _canary("other")
    if where_from == "azure":
        endpoint = {"base_url": jobs.service.url, "auth": "azure"}
        azure_token._credential.cache_clear()
        for name, value in identity.environment.items():
            monkeypatch.setenv(name, value)
        identity.tokens = [key]
    monkeypatch.setenv("E2E_KEY", key)
    monkeypatch.setenv("E2E_OTHER", other)
    faults = [{"kind": kind, "match": f"<{kind}>"} for kind in KINDS]
    jobs.service.configure(require_key=key, faults=faults, log=100, log_bodies=True)
    settings = job_of(tmp_path / "job", [f"{cell} <{kind}>" for kind in [*KINDS, "ok"]], jobs.service.url)
    settings |= {"endpoint": endpoint, "retry": {"attempts": 1, "timeout_s": 1}, "tolerate": {"not_ok": 1}}
    if where_from == "endpoints":
        del settings["endpoint"]
        settings["endpoints"] = [endpoint, {**endpoint, "api_key_env": "E2E_OTHER"}]  # the service refuses this key
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    names = ["prefect", "httpx", "httpcore", "aiohttp", "asyncio", "sqlalchemy", "urllib3", "azure", "msal", "parquill"]
    for name in names:
        caplog.set_level(logging.DEBUG, name)
    with caplog.at_level(logging.DEBUG):
        ended = run_steps(settings)
        for name in names:
            assert logging.getLogger(name).isEnabledFor(logging.DEBUG), f"the logs of {name} are not on"
    assert ended is not None
    assert ended[1].rows["ok"] == 1
    # the steps alone write nothing to Prefect
    home = [Path(os.environ["PREFECT_HOME"])] if where_from == "block" else []
    assert where((key, other, cell), home, [("logs", caplog.text)]) == []
    sent = {entry["headers"]["authorization"] for entry in jobs.service.log()}
    assert sent == {f"Bearer {each}" for each in ((key, other) if where_from == "endpoints" else (key,))}
    for kind in ended:
        for thing in reachable(kind):
            shown = repr(thing) if not isinstance(thing, dict | list | tuple) else ""
            assert key not in shown
            assert other not in shown


@pytest.mark.parametrize(
    "target",
    [
        *[(Client, "_read"), (SendResult, "of")],
        *(
            pytest.param(target, marks=pytest.mark.nightly)
            for target in [(ReplyReader, "read"), (Settlement, "settle"), (run, "replay_shard")]
        ),
    ],
)
def test_a_crash_with_a_traceback_tells_no_key(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: tuple[Any, str]
) -> None:
    """If an error inside the sender has the key in its text, the key reaches neither the terminal nor Prefect."""
    key = _canary("key")
    monkeypatch.setenv("E2E_KEY", key)

    def broken(*_: Any) -> Any:
        raise RuntimeError(f"broken with Bearer {key}")

    monkeypatch.setattr(*target, broken)
    done = jobs.run(jobs.job(["a"], endpoint={"api_key_env": "E2E_KEY"}, retry={"attempts": 1}))
    assert done.exit_code != 0
    texts = [*_streams(done), ("Prefect's API", _all_of_prefect(os.environ["PREFECT_API_URL"]))]
    assert where(key, [Path(os.environ["PREFECT_HOME"]), tmp_path], texts) == []


ERRORS = [
    httpx.ConnectError,
    httpx.ReadError,
    httpx.LocalProtocolError,
    httpx.ReadTimeout,
    ValueError,
    UnicodeEncodeError,
    RecursionError,
]


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_of_the_transport_is_replaced(kind: type[Exception]) -> None:
    """If a transport raises an error with the header in its text, the sender returns an outcome in its place.
    The outcome holds no reference to the error.
    """
    key = _canary("key")

    async def refuse(request: httpx.Request) -> httpx.Response:
        text = f"Illegal header value {request.headers['Authorization']!r}"
        raise UnicodeEncodeError("ascii", text, 0, 1, text) if kind is UnicodeEncodeError else kind(text)

    job = resolved_job(_least(endpoint={"base_url": "http://localhost:1/v1"}))
    result = asyncio.run(Client(job, Key(key), httpx.MockTransport(refuse)).send("[]", None))
    assert result.rule.code in {"connect_error", "connection_lost", "timeout"}
    assert not [thing for thing in reachable(result) if isinstance(thing, BaseException) or key in str(thing)]


@pytest.mark.parametrize("spoil", ["{}\nX: y", '"{}"', "'{}'", "{} {}", "\u00e9{}", "{}\u200b", "{}\0".rstrip("\0")])
def test_a_malformed_key_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, spoil: str) -> None:
    """A key that no header can hold is refused before it is used.
    The error names its variable and holds no reference to its value.
    """
    key = _canary("key")
    monkeypatch.setenv("SPOILED_KEY", spoil.format(key, key) if spoil != "{}" else key + "\x7f")
    endpoint = resolved_job(_least(endpoint={"api_key_env": "SPOILED_KEY"})).endpoint
    with pytest.raises(BadJob, match="SPOILED_KEY") as caught:
        read_key(endpoint)
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert not [thing for thing in reachable(caught.value) if key in str(thing)]
    assert key not in "".join(traceback.format_exception(caught.value))


def test_proxies_netrc_and_key_logs_of_the_environment_are_not_used(
    trap: Trap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No proxy of the environment gets the key, no .netrc replaces it, and no file gets the TLS secrets."""
    key, address = _canary("key"), f"http://127.0.0.1:{trap.port}"
    service, log = Trap(), tmp_path / "tls.log"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, address)
        monkeypatch.setenv(name.lower(), address)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login canary password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    job = resolved_job(_least(endpoint={"base_url": f"http://127.0.0.1:{service.port}/v1"}))

    async def send() -> ssl.SSLContext:
        transport: Any = aiohttp_transport()
        await Client(job, Key(key), transport).send("[]", None)
        await transport.aclose()
        context: ssl.SSLContext = transport.ssl_context
        return context

    context = asyncio.run(send())
    service.close()
    assert trap.received == []
    assert [request.count(b"uthorization: Bearer " + key.encode()) for request in service.received] == [1]
    assert context.keylog_filename is None


@pytest.mark.parametrize(
    "url",
    [
        "https://user@api.example/v1",
        "https://user:word@api.example/v1",
        "https://:word@api.example/v1",
        "http://api.example/v1",
        "http://127.0.0.1.evil.example/v1",
        "http://localhost.evil.example/v1",
        "https://api.example/v1?key=x",
        "file:///etc/passwd",
        "ftp://api.example",
    ],
)
def test_addresses_that_would_leak_are_refused(url: str) -> None:
    """A job is refused if its address is plain http to another host, holds a user or password, or has another scheme.
    The error does not show the password.
    """
    with pytest.raises(BadJob) as caught:
        resolved_job(_least(endpoint={"base_url": url}))
    assert "word" not in str(caught.value).replace("password", "")


def test_cells_are_data(jobs: Jobs, tmp_path: Path) -> None:
    """A cell that looks like a template, a path, markup or a command goes to the model byte for byte.
    It never names a file.
    """
    cells = ["{{ 7*7 }}", "{% raw %}", "../../../escaped", "/etc/cron.d/x", "<script>x</script>", "\x1b[2J", "{0}%s"]
    jobs.service.configure(log=100, log_bodies=True)
    table = pa.table({"id": [f"../../{n}" for n in range(len(cells))], "text": cells})
    settings = job_of(tmp_path / "deep" / "job", ["x"], jobs.service.url, for_each={"place": ["../../up", "/abs"]})
    jobs.write(table, "deep/job/prompts.parquet")
    assert run_steps(settings) is not None
    bodies = [orjson.loads(entry["body"])["messages"][0]["content"] for entry in jobs.service.log()]
    assert sorted(set(bodies)) == sorted(cells)
    names = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")]
    assert not [name for name in names if "escaped" in name or name.endswith("up") or "abs" in name or "cron" in name]


class _Page(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value or "" for name, value in attrs if name == "href"]


NASTY = "<img src=x onerror=alert(1)>\"'><a href=javascript:x>\u202e[red]x"


def test_what_is_shown_is_escaped(jobs: Jobs, prefect_server: str) -> None:
    """Names of jobs, files or models with tags, escapes, bidi overrides or markup change no page and no terminal."""
    jobs.service.configure(faults=[{"kind": "ansi", "match": "bad"}], model_suffix="<script>\x1b[31m")
    file = "a<img src=x onerror=alert(1)>\x1b[31m\u202e[red].parquet"
    jobs.write(["fine", "bad"], f"in/{file}")
    settings = jobs.job(input=str(jobs.folder / "in"), name=NASTY, tolerate={"not_ok": 1})
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    shown = jobs.run(settings, "--failed", command="report")
    page = _Page()
    text = (jobs.folder / "out" / "report.html").read_text()
    page.feed(text)
    assert not page.tags & {"img", "script", "iframe", "link", "object"}
    assert not {name for name in page.attributes if name.startswith("on") or name in {"src", "style"}}
    assert all(address.startswith("#") for address in page.addresses)
    for output in (text, done.stderr, done.stdout, shown.stderr, shown.stdout):
        assert not set(output) & {"\x1b", "\x07", "\u202e"}
    artifacts = ask_prefect(prefect_server, "POST", "/artifacts/filter")
    for artifact in artifacts:
        assert "<img" not in str(artifact["data"])
        assert "<script" not in str(artifact["data"])
        assert "\x1b" not in str(artifact["data"])


@given(st.text())
def test_any_text_can_be_shown(text: str) -> None:
    """Any text is shown without control or invisible characters, and without live marks in Markdown."""
    assert all(c.isprintable() or c == "\n" for c in strip_control(text))
    line = escape(text).replace(BREAK, "")
    assert "\n" not in line
    assert "<" not in line
    live = line.replace("\\\\", "")
    assert not [c for n, c in enumerate(live) if c in "`*_{}[]()|" and live[n - 1 : n] != "\\"]


@given(data=st.data())
def test_a_mutated_journal_gives_its_beginning_or_stops(data: st.DataObject) -> None:
    """A journal with bytes changed, cut or added gives the records before the damage, or raises DamagedJournal.
    It never raises another error and never leaves out a record in the middle.
    """
    from parquill.tasks.storage.journal import _group

    groups = [_group(0, b'{"journal": 1, "run_id": "r", "shard": 0}\n')]
    for number in range(1, 6):
        line = {"type": "intent", "row": number, "n": 1, "reserved": 7}
        groups.append(_group(number, orjson.dumps(line) + b"\n"))
    whole = b"".join(groups)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 60)))
    changed = whole[:start] + data.draw(st.binary(max_size=60)) + whole[end:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        path.write_bytes(changed)
        try:
            rows = list(replay_shard(path).rows)
        except DamagedJournal:
            return
    assert rows == list(range(1, len(rows) + 1))


@given(st.binary(max_size=300))
def test_random_bytes_are_no_journal(data: bytes) -> None:
    """Bytes that are not a journal give no record, or raise DamagedJournal."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        path.write_bytes(data)
        try:
            assert replay_shard(path).rows == {}
        except DamagedJournal:
            return
