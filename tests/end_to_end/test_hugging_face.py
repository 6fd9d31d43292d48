"""Inputs in datasets of Hugging Face, from a service on loopback that answers as theirs does."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.errors import BadInput, BadJob
from parquill.tasks.job.load import make_job
from parquill.tasks.prompts.input_files import list_files
from parquill.tasks.prompts.source import Source, find_source, read_batches
from parquill.tasks.storage import hugging_face
from tests.fakes.hub import TOKEN, Hub, hub
from tests.fakes.running import FakeService
from tests.tools.direct import results, run_steps

NAME = "shop/reviews"
HERE = f"hf://datasets/{NAME}"


@pytest.fixture(scope="module")
def running() -> Iterator[Hub]:
    with hub() as service:
        yield service


@pytest.fixture
def site(running: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Return the service without datasets, for an environment without a token."""
    monkeypatch.setenv("HF_ENDPOINT", running.origin)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user-state"))
    running.datasets.clear()
    running.asked.clear()
    running.status, running.cut, running.ignore_ranges = 0, 0, False
    hugging_face._hub.cache_clear()
    yield running
    hugging_face._hub.cache_clear()


def _parquet(*texts: str) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.table({"text": list(texts)}), data)
    return data.getvalue()


def _job(service: FakeService, folder: Path, address: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": "reviews",
        "input": address,
        "output": str(folder / "out"),
        "prompt": {"user": "{{ text }}"},
        "model": "gpt-4o-mini",
        "max_output_tokens": 50,
        "endpoint": {"base_url": service.url},
        **changes,
    }


def _texts(source: Source) -> list[str]:
    return [text for _, _, batch in read_batches(source) for text in batch.column("text").to_pylist()]


@pytest.mark.parametrize(
    ("address", "texts"),
    [
        (f"{HERE}/data/train-0.parquet", ["a"]),
        (f"{HERE}/data/train-*.parquet", ["a", "b"]),
        (f"{HERE}/data", ["a", "b", "c"]),
        (HERE, ["a", "b", "c", "d"]),
        (f"{HERE}/**/de/*.parquet", ["d"]),
        (f"{HERE}@v1/data", ["old"]),
        (f"{HERE}@refs%2Fconvert%2Fparquet/default", ["e"]),
        (f"{HERE}@refs/convert/parquet/default", ["e"]),
        (f"{HERE}@~parquet/default/**/*.parquet", ["e"]),
        (f"{HERE}/text/*.csv", ["f"]),
        (f"{HERE}/text/a.jsonl", ["g"]),
    ],
)
def test_an_input_in_a_dataset(site: Hub, address: str, texts: list[str]) -> None:
    """A file, a folder and a glob of a dataset are read, at a branch, a tag, or the branch of converted files."""
    site.push(NAME, {"data/a.parquet": _parquet("old")}, "v1")
    site.push(NAME, {"default/train/0.parquet": _parquet("e")}, "refs/convert/parquet")
    site.push(
        NAME,
        {
            ".gitattributes": b"*.parquet lfs",
            "README.md": b"# Reviews",
            "data/train-0.parquet": _parquet("a"),
            "data/train-1.parquet": _parquet("b"),
            "data/valid-0.parquet": _parquet("c"),
            "more/de/0.parquet": _parquet("d"),
            "text/a.csv": b"text\nf\n",
            "text/a.jsonl": b'{"text": "g"}\n',
        },
    )
    assert _texts(find_source(address)) == texts


def test_a_run_over_a_dataset(site: Hub, service: FakeService, tmp_path: Path) -> None:
    """A run completes the rows of a dataset. The same command then has nothing to do, and after a new commit it pays
    for new rows only.
    """
    site.push(NAME, {"data/a.parquet": _parquet("a", "b")})
    job = _job(service, tmp_path, f"{HERE}/data")
    run_steps(job)
    assert [(row["text"], row["status"]) for row in results(job)] == [("a", "ok"), ("b", "ok")]
    assert run_steps(job) is None
    site.push(NAME, {"data/a.parquet": _parquet("a", "b", "c")})
    assert run_steps(job) is not None
    assert [row["text"] for row in results(job)] == ["a", "b", "c"]
    assert service.stats()["billed"] == 3


def test_a_commit_during_a_run(site: Hub) -> None:
    """If someone pushes to the dataset while a run reads it, the run keeps the rows that it has listed, and the next
    start has another input, even if size and names are the same.
    """
    first = site.push(NAME, {"a.parquet": _parquet("aa"), "b.csv": b"text\nbb\n"})
    listed, text = find_source(f"{HERE}/*.parquet"), find_source(f"{HERE}/b.csv")
    second = site.push(NAME, {"a.parquet": _parquet("zz"), "b.csv": b"text\nzz\n"})
    assert (_texts(listed), _texts(text)) == (["aa"], ["bb"])
    assert [file.tag for file in (*listed.files, *text.files)] == [first] * 2
    for address, before in ((f"{HERE}/*.parquet", listed), (f"{HERE}/b.csv", text)):
        after = find_source(address)
        assert _texts(after) == ["zz"]
        assert [file.tag for file in after.files] == [second]
        assert after.fingerprint != before.fingerprint
    assert _texts(find_source(f"{HERE}@{first}/a.parquet")) == ["aa"]


def test_the_token_of_the_environment(
    site: Hub, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HF_TOKEN opens a private dataset. It is sent to Hugging Face alone, and no file of the run has it."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    site.push(NAME, {"a.parquet": _parquet("a", "b")})
    site.datasets[NAME].is_private = site.datasets[NAME].is_gated = True
    run_steps(_job(service, tmp_path, HERE))
    hosts = {(each.host, each.authorization) for each in site.asked}
    assert hosts == {("127.0.0.1", f"Bearer {TOKEN}"), ("localhost", "")}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []


def test_a_token_that_was_saved(site: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that a person saved on the machine is not sent."""
    saved = tmp_path / "token"
    saved.write_text(TOKEN, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(saved))
    site.push(NAME, {"a.parquet": _parquet("a")})
    assert _texts(find_source(HERE)) == ["a"]
    assert {each.authorization for each in site.asked} == {""}


@pytest.mark.parametrize(
    ("address", "token", "change", "told"),
    [
        ("hf://datasets/shop/none/a.parquet", None, None, "there is no such dataset, or HF_TOKEN is not"),
        ("hf://datasets/shop/none/a.parquet", TOKEN, None, "there is no such dataset, or HF_TOKEN is not"),
        ("hf://datasets/shop/private", None, None, "there is no such dataset, or HF_TOKEN is not"),
        ("hf://datasets/shop/gated", None, None, "its owner grants access: ask for it on the page of the dataset"),
        (HERE, "hf_CANARYwrong", None, "HF_TOKEN is not valid"),
        (f"{HERE}@v9/data", None, None, "it has no such revision"),
        (f"{HERE}/none", None, None, r"there is no \*\.parquet, \*\.csv or \*\.jsonl object"),
        (f"{HERE}/data/none-*.parquet", None, None, "no object matches"),
        (HERE, None, lambda site: setattr(site, "status", 403), "access denied"),
        (HERE, None, lambda site: setattr(site, "status", 410), "Hugging Face answers HTTP 410"),
        (HERE, None, lambda site: setattr(site, "cut", 1), "Hugging Face sent .* bytes instead of"),
        (HERE, None, lambda site: setattr(site, "ignore_ranges", True), "Hugging Face sent .* bytes instead of"),
    ],
)
def test_a_dataset_that_cannot_be_read(
    site: Hub,
    service: FakeService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    token: str | None,
    change: Callable[[Hub], None] | None,
    told: str,
) -> None:
    """A dataset that is missing, private, gated, or wrongly sent is refused in one sentence before anything is sent,
    and the sentence shows no token.
    """
    site.push(NAME, {"data/a.parquet": _parquet(*map(str, range(40_000))), "data/b.parquet": _parquet("b")})
    site.push("shop/private", {"a.parquet": _parquet("a")})
    site.datasets["shop/private"].is_private = True
    site.push("shop/gated", {"a.parquet": _parquet("a")})
    site.datasets["shop/gated"].is_gated = True
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    if change is not None:
        change(site)
    with pytest.raises(BadInput, match=told) as caught:
        run_steps(_job(service, tmp_path, address))
    assert "\n" not in str(caught.value)
    assert "CANARY" not in str(caught.value)
    assert service.stats()["requests"] == 0


def test_no_network(site: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """If Hugging Face cannot be reached, or must not be, the refusal says so."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(BadInput, match="Hugging Face does not answer"):
        list_files(HERE)
    monkeypatch.setenv("HF_ENDPOINT", site.origin)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match="HF_HUB_OFFLINE"):
        list_files(HERE)


def test_without_the_package(site: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """If huggingface_hub is not installed, the refusal says how to install it."""
    site.push(NAME, {"a.parquet": _parquet("a")})
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BadJob, match="pip install huggingface_hub"):
        list_files(HERE)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("hf://datasets/owner", "names no dataset"),
        ("hf://datasets//name/a.parquet", "empty part|names no dataset"),
        ("hf://datasets/owner/*/a.parquet", "names no dataset"),
        ("hf://datasets/owner@v1/name/a.parquet", "names no dataset"),
        ("hf://owner/name/a.parquet", "names no dataset"),
        ("hf://spaces/owner/name/a.parquet", "names no dataset"),
        ("hf://hf_secret@datasets/owner/name", "names no dataset"),
        ("hf://datasets/owner/name/a.parquet?token=hf_secret", "HF_TOKEN"),
        ("hf://datasets/owner/name/a.parquet#hf_secret", "HF_TOKEN"),
    ],
)
def test_an_address_that_is_refused(address: str, told: str) -> None:
    """An address of anything but a dataset, or with a token, is refused as a setting, and the token is not shown."""
    job = {"name": "x", "output": "o", "prompt": {"user": "x"}, "model": "gpt-4o-mini", "max_output_tokens": 5}
    with pytest.raises(BadJob, match=told) as caught:
        make_job({**job, "input": address})
    assert "hf_secret" not in str(caught.value)
    with pytest.raises(BadJob, match="which is only read"):
        make_job({**job, "input": "i", "output": "hf://datasets/owner/name"})
