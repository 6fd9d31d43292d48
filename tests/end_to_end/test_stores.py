"""Inputs and outputs in an object store: a real S3 service on loopback."""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from parquill.flows.cli.commands import cli
from parquill.tasks.errors import BadInput, BadJob, DiskFailed, FolderInUse
from parquill.tasks.job.load import make_job
from parquill.tasks.prompts.input_files import list_files
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.prompts.source import find_source, read_batches
from parquill.tasks.storage import publish as publishing
from parquill.tasks.storage.folders import Folders
from parquill.tasks.storage.object_store import put_file, remove_object
from parquill.tasks.storage.uri import join, redact_uri
from tests.fakes.running import ROOT, FakeService
from tests.fakes.s3 import S3, credentials, s3
from tests.tools.direct import run_steps
from tests.tools.jobs import Jobs

TEXTS = [f"text {row}" for row in range(12)]


@pytest.fixture(scope="module")
def running() -> Iterator[S3]:
    with s3() as service:
        yield service


@pytest.fixture
def shop(running: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3]:
    """Return an empty bucket and set the credentials for it."""
    for name, value in credentials().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user-state"))
    yield running
    running.files.delete_dir_contents("shop", missing_dir_ok=True)


def _put(shop: S3, path: str, texts: list[str]) -> None:
    data = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), data)
    with shop.files.open_output_stream(f"shop/{path}") as stream:
        stream.write(data.getvalue())


def _job(shop: S3, service: FakeService, source: str, output: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": "stores",
        "input": source if "://" in source or source.startswith("/") else shop.uri(source),
        "output": output if output.startswith("/") else shop.uri(output),
        "prompt": {"user": "{{ text }}"},
        "model": "gpt-4o-mini",
        "max_output_tokens": 50,
        "endpoint": {"base_url": service.url},
        **changes,
    }


def _folders(job: dict[str, Any]) -> Folders:
    """Create and return the folders of a job."""
    resolved, _ = resolve_job(make_job(job), None, None, ())
    folders = Folders.of(resolved.output, resolved.state)
    folders.create()
    return folders


def _names(shop: S3, path: str) -> list[str]:
    import pyarrow.fs as pafs

    found = shop.files.get_file_info(pafs.FileSelector(f"shop/{path}", recursive=True, allow_not_found=True))
    return sorted(each.path.removeprefix(f"shop/{path}/") for each in found if each.is_file)


def _results(shop: S3, path: str) -> pa.Table:
    names = [name for name in _names(shop, f"{path}/results") if name.endswith(".parquet")]
    return pa.concat_tables([pq.read_table(f"shop/{path}/results/{name}", filesystem=shop.files) for name in names])


def _summary(shop: S3, path: str) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(shop.files.open_input_file(f"shop/{path}/summary.json").read())
    return found


def test_a_glob_of_folders_is_told_how_to_be_written(shop: S3) -> None:
    """A glob that matches only folders is refused, and the refusal names the glob that matches the objects in them."""
    _put(shop, "nights/dt=2026-11-22/a.parquet", TEXTS)
    with pytest.raises(
        BadInput, match=r"no object matches .*dt=2026-\*, but folders do: write .*dt=2026-\*/\*\.parquet"
    ):
        list_files(shop.uri("nights/dt=2026-*"))
    with pytest.raises(BadInput, match=r"no object matches .*dt=2025-\*$"):
        list_files(shop.uri("nights/dt=2025-*"))


@pytest.mark.parametrize(
    ("source", "rows"),
    [("in/dt=2026-11-22/a.parquet", 12), ("in", 24), ("in/dt=2026-11-2*/*.parquet", 24), ("in/**/b.parquet", 12)],
)
def test_an_input_in_a_store(shop: S3, service: FakeService, tmp_path: Path, source: str, rows: int) -> None:
    """An object, a folder and a glob of a store are read like files, and key=value folders become columns.
    Hidden objects and objects of other types are skipped.
    """
    _put(shop, "in/dt=2026-11-22/a.parquet", TEXTS)
    _put(shop, "in/dt=2026-11-23/b.parquet", [f"more {text}" for text in TEXTS])
    _put(shop, "in/_temporary/c.parquet", TEXTS)
    with shop.files.open_output_stream("shop/in/notes.txt") as stream:
        stream.write(b"notes")
    job = _job(shop, service, source, str(tmp_path / "out"))
    run_steps(job)
    table = pq.read_table(tmp_path / "out" / "results", partitioning=None)
    assert table.num_rows == rows
    assert set(table.column("status").to_pylist()) == {"ok"}
    assert set(table.column("dt").to_pylist()) <= {"2026-11-22", "2026-11-23"}
    assert run_steps(job) is None


def test_an_output_in_a_store(shop: S3, service: FakeService) -> None:
    """Results, summary, history, report and manifest are in the store when the run ends.
    A second run sends nothing, a changed input pays for new rows only, and no part of an earlier run is left.
    """
    _put(shop, "in/a.parquet", TEXTS)
    job = _job(shop, service, "in", "out")
    run_steps(job)
    assert _results(shop, "out").column("text").to_pylist() == TEXTS
    names = _names(shop, "out")
    assert {"summary.json", "report.html", ".parquill/manifest.json"} <= set(names)
    assert ".parquill/owner.json" not in names
    assert not any("shards" in name or "journals" in name for name in names), "state is not part of an output"
    assert (_summary(shop, "out")["state"], _summary(shop, "out")["rows"]["ok"]) == ("finished", 12)
    assert run_steps(job) is None
    assert service.stats()["billed"] == 12
    _put(shop, "in/b.parquet", ["new"])
    run_steps(job)
    assert _results(shop, "out").column("text").to_pylist() == [*TEXTS, "new"]
    assert service.stats()["billed"] == 13
    parts = {
        part["file"]
        for part in orjson.loads(shop.files.open_input_file("shop/out/.parquill/manifest.json").read())["parts"]
    }
    assert set(_names(shop, "out/results")) == parts
    assert len([name for name in _names(shop, "out") if name.startswith("history/")]) == 2


class Killed(BaseException):
    """Simulates a process that is killed: no error handler catches it."""


def _die(*_: object) -> None:
    raise Killed


class Breaking:
    """Replaces the calls that change the store, and kills the process before the call with the armed number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self._at = 0
        put, remove = put_file, remove_object
        monkeypatch.setattr(publishing, "put_file", lambda path, uri: self._one(uri, lambda: put(path, uri)))
        monkeypatch.setattr(publishing, "remove_object", lambda uri: self._one(uri, lambda: remove(uri)))

    def arm(self, at: int) -> None:
        """Start to count calls; 0 lets all pass."""
        self.calls, self._at = [], at

    def _one(self, uri: str, call: Callable[[], None]) -> None:
        self.calls.append(redact_uri(uri))
        if len(self.calls) == self._at:
            raise Killed
        call()


def _seen(shop: S3, path: str) -> list[str]:
    """Return the texts of the parts that the manifest names, as a reader sees them."""
    manifest = orjson.loads(shop.files.open_input_file(f"shop/{path}/.parquill/manifest.json").read())
    parts = [pq.read_table(f"shop/{path}/results/{p['file']}", filesystem=shop.files) for p in manifest["parts"]]
    texts: list[str] = pa.concat_tables(parts).column("text").to_pylist()
    return texts


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_copy_that_is_cut_off_is_finished(
    shop: S3, service: FakeService, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """If the process is killed before any change of the store (in CI, before every third), the manifest names the parts
    of one run, and summary.json says `finished` only once every part exists. The next start completes the copy, and no
    request is paid for a second time.
    """
    _put(shop, "in/0.parquet", TEXTS)
    job = _job(shop, service, "in", "out")
    run_steps(job)
    breaking, old = Breaking(monkeypatch), list(TEXTS)
    for number in range(1, 100, step):
        new = [*old, f"new {number}"]
        _put(shop, f"in/{number:02}.parquet", new[-1:])
        breaking.arm(number)
        try:
            run_steps(job)
        except Killed:
            pass
        else:
            break
        assert (seen := _seen(shop, "out")) in (old, new)
        if _summary(shop, "out")["state"] == "finished":
            assert set(_results(shop, "out").column("text").to_pylist()) == set(seen)
        breaking.arm(0)
        run_steps(job)
        assert _results(shop, "out").column("text").to_pylist() == _seen(shop, "out") == new
        assert _summary(shop, "out")["state"] == "finished"
        assert ".parquill/owner.json" not in _names(shop, "out")
        old = new
    assert len(breaking.calls) >= number - step > 5
    assert len(breaking.calls) < number
    assert service.stats()["billed"] == 12 + 1 + (number - 1) // step


def test_a_stopped_run_that_goes_on(shop: S3, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped run that resumes writes parts with new names, so parts that a reader already opens do not change."""
    _put(shop, "in/a.parquet", TEXTS)
    job = _job(shop, service, "in", "out", limits={"max_at_once": 1})
    run_steps({**job, "budget": {"run_usd": 0.0001, "when_short": "partial"}})
    assert 0 < _summary(shop, "out")["rows"]["ok"] < 12
    (stopped,) = _names(shop, "out/results")
    kept = shop.files.open_input_file(f"shop/out/results/{stopped}").read()
    breaking = Breaking(monkeypatch)
    breaking.arm(5)
    with pytest.raises(Killed):
        run_steps(job)
    assert any(call.endswith(".parquet") for call in breaking.calls)
    assert shop.files.open_input_file(f"shop/out/results/{stopped}").read() == kept


def test_an_interrupted_upload_leaves_no_half(shop: S3, tmp_path: Path) -> None:
    """An upload that is interrupted, or cannot read its file, leaves the earlier object, never a part of the new."""
    old, large = tmp_path / "old", tmp_path / "large"
    old.write_bytes(b"whole")
    large.write_bytes(bytes(64 << 20))
    put_file(old, shop.uri("one"))
    before = signal.signal(signal.SIGALRM, _die)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Killed):
            put_file(large, shop.uri("one"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert shop.files.get_file_info("shop/one").size in {5, 64 << 20}
    with pytest.raises(DiskFailed):
        put_file(tmp_path / "none", shop.uri("one"))
    assert shop.files.get_file_info("shop/one").size in {5, 64 << 20}


_UPLOAD = """
import sys
from pathlib import Path
from parquill.tasks.storage.object_store import put_file
from tests.tools.peak import peak_kib
folder, uri = sys.argv[1:]
put_file(Path(folder, "small"), uri)
before = peak_kib()
put_file(Path(folder, "large"), uri)
print((peak_kib() - before) >> 10)
"""


@pytest.mark.nightly
def test_memory_of_an_upload(shop: S3, tmp_path: Path) -> None:
    """A part is uploaded in pieces, so a large one needs no more memory than a few pieces."""
    for name, size in (("small", 1), ("large", 160 << 20)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    command = [sys.executable, "-c", _UPLOAD, str(tmp_path), shop.uri("part")]
    grown = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60).stdout
    assert int(grown) < 64  # MiB
    assert shop.files.get_file_info("shop/part").size == 160 << 20


def test_what_somebody_removed_is_put_back(shop: S3, service: FakeService) -> None:
    """If a part is missing from the store, the next start copies it again without a request."""
    _put(shop, "in/a.parquet", TEXTS)
    job = _job(shop, service, "in", "out")
    run_steps(job)
    (part,) = _names(shop, "out/results")
    shop.files.delete_file(f"shop/out/results/{part}")
    assert run_steps(job) is None
    assert _results(shop, "out").num_rows == 12
    assert service.stats()["billed"] == 12


def test_another_machine_at_the_same_output(shop: S3, service: FakeService, tmp_path: Path) -> None:
    """If a run with another state is writing an output, a start is refused before it sends anything, and the refusal
    names that run. A run with the same state resumes, and a run that stopped blocks no other.
    """
    _put(shop, "in/a.parquet", TEXTS)
    job = _job(shop, service, "in", "out", state=str(tmp_path / "elsewhere"))
    folders = _folders(job)
    publishing.take_ownership(folders, "run-of-elsewhere")
    here = {**job, "state": str(tmp_path / "here")}
    with pytest.raises(FolderInUse, match="run-of-elsewhere"):
        run_steps(here)
    assert service.stats()["requests"] == 0
    run_steps(job)
    assert _results(shop, "out").num_rows == 12
    publishing.take_ownership(folders, "run-of-elsewhere")
    publishing.publish_summary(folders, ended=True)
    run_steps(here)
    assert _results(shop, "out").num_rows == 12


def test_a_shared_state_is_gone_on_with(
    shop: S3, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that shares the state of a killed run resumes that run under the same run_id.
    Its host name and user folders do not matter.
    """
    _put(shop, "in/a.parquet", TEXTS)
    job = _job(shop, service, "in", "out", state=str(tmp_path / "shared"))
    breaking = Breaking(monkeypatch)
    breaking.arm(3)
    with pytest.raises(Killed):
        run_steps(job)
    breaking.arm(0)
    killed = orjson.loads(shop.files.open_input_file("shop/out/.parquill/owner.json").read())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another-user"))
    monkeypatch.setattr("socket.gethostname", lambda: "another-host")
    run_steps(job)
    assert (_summary(shop, "out")["run_id"], _summary(shop, "out")["state"]) == (killed["run_id"], "finished")
    assert service.stats()["billed"] == 12


def test_results_that_are_copied_again(
    shop: S3, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a run with another state replaced the results, a start with nothing to do copies its own results again.
    summary.json says `running` meanwhile. A start that is killed at the very end does not block others.
    """
    _put(shop, "in/a.parquet", TEXTS)
    here = _job(shop, service, "in", "out", state=str(tmp_path / "here"))
    run_steps(here)
    run_steps({**here, "state": str(tmp_path / "there"), "parameters": {"temperature": 1}})
    breaking = Breaking(monkeypatch)
    breaking.arm(4)
    with pytest.raises(Killed):
        run_steps(here)
    assert any(call.endswith(".parquet") for call in breaking.calls)
    assert _summary(shop, "out")["state"] == "running"
    breaking.arm(0)
    assert run_steps(here) is None
    assert _summary(shop, "out")["state"] == "finished"
    (part,) = _names(shop, "out/results")
    shop.files.delete_file(f"shop/out/results/{part}")
    with monkeypatch.context() as context, pytest.raises(Killed):
        context.setattr(publishing, "_drop_ownership", _die)
        run_steps(here)
    assert ".parquill/owner.json" in _names(shop, "out")
    assert _summary(shop, "out")["state"] == "finished"
    assert run_steps(here) is None
    assert ".parquill/owner.json" not in _names(shop, "out")
    assert _results(shop, "out").num_rows == 12
    assert service.stats()["billed"] == 24


def test_a_local_copy_that_is_gone(shop: S3, service: FakeService, tmp_path: Path) -> None:
    """With its own `state`, a job's local copy may be removed: the next start writes it again and pays nothing."""
    _put(shop, "in/a.parquet", TEXTS)
    job = _job(shop, service, "in", "out", state=str(tmp_path / "state"))
    run_steps(job)
    shutil.rmtree(tmp_path / "state" / "outputs")
    run_steps(job)
    assert _results(shop, "out").column("text").to_pylist() == _seen(shop, "out") == TEXTS
    assert service.stats()["billed"] == 12


def test_two_that_claim_at_once(
    shop: S3, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If two machines claim an output at the same moment, the one whose claim is overwritten copies nothing.
    Its answers are kept, and its next start copies them.
    """
    _put(shop, "in/a.parquet", TEXTS)
    job = _job(shop, service, "in", "out", state=str(tmp_path / "here"))
    other = _folders({**job, "state": str(tmp_path / "elsewhere")})
    announce = publishing.publish_summary

    def overtaken(folders: Folders, *, ended: bool = False) -> None:
        announce(folders, ended=ended)
        remove_object(join(job["output"], publishing.OWNER))
        publishing.take_ownership(other, "run-of-elsewhere")

    monkeypatch.setattr("parquill.tasks.results.summary.publish_summary", overtaken)
    with pytest.raises(DiskFailed, match="run-of-elsewhere"):
        run_steps(job)
    assert _names(shop, "out/results") == []
    monkeypatch.setattr("parquill.tasks.results.summary.publish_summary", announce)
    remove_object(join(job["output"], publishing.OWNER))
    run_steps(job)
    assert _results(shop, "out").num_rows == 12
    assert service.stats()["billed"] == 12


def test_stores_that_cannot_be_used(shop: S3, service: FakeService, tmp_path: Path) -> None:
    """A missing object, folder or bucket, or an unreachable service, is refused before anything is sent: in one
    sentence, without a secret, in bounded time.
    """
    _put(shop, "in/a.parquet", TEXTS)
    away = "s3://shop/in?endpoint_override=http%3A%2F%2F127.0.0.1%3A9"
    local = str(tmp_path / "out")
    for source, output in (
        ("none/a.parquet", local),
        ("in/none-*.parquet", local),
        (shop.uri("x").replace("shop/x", "no-such-bucket/x"), local),
        (away, local),
        ("in", shop.uri("x").replace("shop/x", "no-such-bucket/x")),
        ("in", away),
        ("in", "in"),
        ("in", "in/out"),
    ):
        target = output if output.startswith(("s3", "/")) else shop.uri(output)
        with pytest.raises((BadInput, BadJob)) as caught:
            run_steps({**_job(shop, service, source, "/"), "output": target})
        assert "CANARY" not in str(caught.value)
        assert "testing" not in str(caught.value)
    assert service.stats()["requests"] == 0


def test_the_environment_says_where_the_store_is(
    shop: S3, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address without options uses AWS_ENDPOINT_URL, like Amazon's own tools."""
    _put(shop, "in/a.parquet", TEXTS)
    monkeypatch.setenv("AWS_ENDPOINT_URL", shop.origin)
    run_steps({**_job(shop, service, "s3://shop/in", "out"), "output": "s3://shop/out"})
    assert _results(shop, "out").column("text").to_pylist() == TEXTS


def test_credentials_that_are_not_taken(shop: S3, service: FakeService, tmp_path: Path) -> None:
    """If a store denies access to an input or an output, the refusal says so and does not show the key."""
    _put(shop, "in/a.parquet", TEXTS)
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "in.parquet")
    with shop.denying():
        for source, output in (("in", str(tmp_path / "out")), (str(tmp_path / "in.parquet"), "out")):
            with pytest.raises((BadInput, BadJob), match="access denied") as caught:
                run_steps(_job(shop, service, source, output))
            assert "CANARY" not in str(caught.value)
            assert "testing" not in str(caught.value)
    assert service.stats()["requests"] == 0


def test_an_object_that_is_written_over_in_the_same_second(shop: S3) -> None:
    """An input with the same size and second but other content has another fingerprint."""
    marks = set()
    for text in ("aa", "bb", "aa"):
        _put(shop, "in/a.parquet", [text])
        marks.add((find_source(shop.uri("in")).fingerprint, shop.files.get_file_info("shop/in/a.parquet").mtime_ns))
    assert len({fingerprint for fingerprint, _ in marks}) >= 2


def test_many_objects(shop: S3) -> None:
    """If there are more objects than are opened at once, they keep name order; footers are read concurrently."""
    for number in range(60):
        _put(shop, f"in/{number:04}.parquet", [f"text {number}"])
    source = find_source(shop.uri("in"))
    assert [file.name for file in source.files] == [f"{number:04}.parquet" for number in range(60)]
    texts = [text for _, _, batch in read_batches(source) for text in batch.column("text").to_pylist()]
    assert texts == [f"text {number}" for number in range(60)]


@pytest.mark.parametrize(
    ("source", "output", "is_refused"),
    [
        ("in", "in", True),
        ("in", "in/out", True),
        ("in", "in-out", False),
        ("in/**/*.parquet", "in/out", True),
        ("in/*.parquet", "in/out", False),
        ("in/*/*/*.parquet", "in/out", True),
        ("in/a.parquet", "in", True),
        ("v1.2", "v1.2/out", True),
    ],
)
def test_an_output_among_the_input(shop: S3, source: str, output: str, *, is_refused: bool) -> None:
    """An output that the next run would read as prompts is refused before the first run pays, and no other is."""
    for name in ("in/a.parquet", "in/b/c/a.parquet", "v1.2/a.parquet"):
        _put(shop, name, TEXTS)
    with pytest.raises(BadInput, match="lies inside") if is_refused else nullcontext():
        find_source(shop.uri(source), shop.uri(output))


def test_an_empty_input_is_a_clean_zero(shop: S3, service: FakeService) -> None:
    """An object without rows finishes at no cost, and its results have all columns."""
    _put(shop, "in/a.parquet", [])
    run_steps(_job(shop, service, "in", "out"))
    assert _results(shop, "out").num_rows == 0
    assert "completion" in _results(shop, "out").column_names
    assert _summary(shop, "out")["cost_usd"] == "0.000000000"


@pytest.mark.parametrize(
    ("uri", "word"),
    [
        ("s3://key:secret@shop/in", "password"),
        ("s3://shop/in?access_key=a&secret_key=b", "credentials"),
        ("ftp://shop/in", "ftp"),
        ("s3:///in", "bucket"),
        ("file:///tmp/in", "file://"),
        ("s3://shop//in", "empty part"),
        ("s3://shop/in/part-?.parquet", "wildcard"),
        ("abfs://container/in", "ACCOUNT"),
        ("abfs://container:secret@account/in", "password"),
        ("gs://shop/in?access_token=secret@", "credentials"),
    ],
)
def test_addresses_that_are_refused(uri: str, word: str) -> None:
    """An address with a secret, an unknown scheme or no bucket is refused as a setting, and the secret is not shown."""
    base = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "gpt-4o-mini"}
    for name in ("input", "output"):
        with pytest.raises(BadJob) as caught:
            make_job({**base, "max_output_tokens": 5, name: uri})
        assert word in str(caught.value)
        assert "secret@" not in str(caught.value)
    with pytest.raises(BadJob, match="state"):
        make_job({**base, "max_output_tokens": 5, "state": "s3://shop/state"})


@pytest.mark.nightly
def test_the_command_on_a_store(shop: S3, jobs: Jobs) -> None:
    """`run` and `report` accept and show addresses for the given day. With one `state` the next day's run pays only for
    new rows, and `report` of an address works on any machine and lists its failed rows.
    """
    jobs.service.configure(faults=[{"kind": "length", "match": "text 3"}])
    _put(shop, "in/dt=2026-11-22/a.parquet", TEXTS)
    _put(shop, "in/dt=2026-11-23/a.parquet", [*TEXTS, "new"])
    state = {"state": str(jobs.folder / "nights"), "tolerate": {"not_ok": 0.5}}
    settings = jobs.job(input=shop.uri("in/dt={date-1}"), output=shop.uri("out/{month}/dt={date}"), **state)
    done = jobs.run(settings, "--date", "2026-11-23")
    assert done.exit_code == 0, done.stderr
    assert "s3://shop/out/2026-11/dt=2026-11-23/results" in done.stdout.replace("\n", "")
    document = orjson.loads(jobs.run(settings, "--date", "2026-11-23", "--json", command="report").stdout)
    assert document == _summary(shop, "out/2026-11/dt=2026-11-23")
    assert document["rows"]["ok"] == 11
    assert jobs.run(settings, "--date", "2026-11-24").exit_code == 0
    assert jobs.service.stats()["billed"] == 13
    assert _results(shop, "out/2026-11/dt=2026-11-24").column("reused").to_pylist() == [True] * 12 + [False]
    # an address needs no local state
    shell = CliRunner().invoke(cli, ["report", shop.uri("out/2026-11/dt=2026-11-24"), "--failed", "--json"])
    document = orjson.loads(shell.stdout)
    assert (document["rows"]["total"], [row["row_number"] for row in document["failed"]]) == (13, [3])
    page = CliRunner().invoke(cli, ["report", shop.uri("out/2026-11/dt=2026-11-24"), "--html", "-"])
    assert page.stdout_bytes == shop.files.open_input_file("shop/out/2026-11/dt=2026-11-24/report.html").read()


@pytest.mark.nightly
def test_a_killed_command_is_taken_over(shop: S3, jobs: Jobs) -> None:
    """A process that is killed while it copies leaves readers the parts of one run.
    The next start finishes the copy without a request.
    """
    _put(shop, "in/a.parquet", TEXTS)
    settings = jobs.job(input=shop.uri("in"), output=shop.uri("out"))
    killed = jobs.spawn(settings)
    until = time.monotonic() + 60
    while not _names(shop, "out/results") and killed.process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)  # a store sends no signal, and its copy is partial for milliseconds only
    killed.process.kill()
    killed.process.wait()
    assert _names(shop, "out/results")
    if ".parquill/manifest.json" in _names(shop, "out"):
        assert _seen(shop, "out") == TEXTS
    run_steps(settings)
    assert _seen(shop, "out") == _results(shop, "out").column("text").to_pylist() == TEXTS
    assert _summary(shop, "out")["state"] == "finished"
    assert jobs.service.stats()["billed"] == 12
