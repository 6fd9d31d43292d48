"""`init` writes a job for a provider, a model and an input that needs only a key."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.flows.cli.commands import main
from parquill.flows.cli.input_prompt import describe_input
from parquill.flows.cli.preview import preview_rows
from parquill.flows.cli.starter import STARTER, providers, read_starter, warn_of_starter, write_starter
from parquill.tasks.job.load import load_job, make_job, parse_yaml
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.job.settings import Job
from parquill.tasks.prompts.resolve import resolve_job
from tests.fakes.running import FakeService

DAY = date(2026, 11, 29)
CHAT = "/chat/completions"
# provider -> a model that it sells, the address of its requests, and the header and variable of its key
EXPECTED: dict[str, tuple[str, str, dict[str, str]]] = {
    "openai": ("gpt-6-luna", f"https://api.openai.com/v1{CHAT}", {"Authorization": "OPENAI_API_KEY"}),
    "azure": (
        "gpt-6-luna",
        f"https://RESOURCE.openai.azure.com/openai/v1{CHAT}",
        {"api-key": "AZURE_OPENAI_API_KEY"},
    ),
    "openrouter": (
        "openai/gpt-6-luna",
        f"https://openrouter.ai/api/v1{CHAT}",
        {"Authorization": "OPENROUTER_API_KEY"},
    ),
    "gemini": (
        "gemini-3.5-flash-lite",
        f"https://generativelanguage.googleapis.com/v1beta/openai{CHAT}",
        {"Authorization": "GEMINI_API_KEY"},
    ),
    "groq": ("llama-3.3-70b-versatile", f"https://api.groq.com/openai/v1{CHAT}", {"Authorization": "GROQ_API_KEY"}),
    "mistral": ("mistral-small-latest", f"https://api.mistral.ai/v1{CHAT}", {"Authorization": "MISTRAL_API_KEY"}),
    "deepseek": ("deepseek-chat", f"https://api.deepseek.com{CHAT}", {"Authorization": "DEEPSEEK_API_KEY"}),
    "ollama": ("llama3.2:3b", f"http://localhost:11434/v1{CHAT}", {}),
    "vllm": ("Qwen/Qwen2.5-7B-Instruct", f"http://localhost:8000/v1{CHAT}", {}),
}


def _init(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["init", *words])
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return code or 0


def _resolved(job: Job) -> tuple[ResolvedJob, Any]:
    return resolve_job(job, DAY, None, ())


@pytest.mark.parametrize("provider", EXPECTED)
def test_a_job_for_each_provider(provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job for each provider is valid, has a price, needs no warning, and uses the provider's address and header."""
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"text": ["a"]}), "prompts.parquet")
    model, url, headers = EXPECTED[provider]
    assert _init("--provider", provider, "--model", model) == 0
    job = load_job(tmp_path / "job.yaml")
    assert job.model == model
    assert warn_of_starter(DAY, (tmp_path / "job.yaml").read_text(encoding="utf-8")) == []
    assert (job.price is not None) == (provider in {"ollama", "vllm"})
    assert job.price is None or job.price.usd_per_mtok_input == job.price.usd_per_mtok_output == 0
    (shown,) = preview_rows(*_resolved(job), 3)
    assert (shown["url"], shown["headers"]) == (url, headers)
    assert ("reasoning_effort" in shown["body"]) == ("gpt-6" in model)


@pytest.mark.integration  # starts the fake service
def test_doctor_is_content(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job for a local server and an input passes `doctor` unchanged once the server runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL")
    pq.write_table(pa.table({"id": [1], "text": ["a"]}), "in.parquet")
    assert _init("--provider", "vllm", "--model", "gpt-4o-mini", "--input", "in.parquet") == 0
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "job.yaml", "--json", "--set", f"endpoint.base_url={service.url}"])
    checks = {check["name"]: check for check in orjson.loads(capsys.readouterr().out)["checks"]}
    assert not ended.value.code
    assert all(check["ok"] for check in checks.values()), checks
    assert checks["model"]["message"] == "gpt-4o-mini"
    assert checks["key"]["message"] == "none is needed"
    assert checks["price"]["message"].startswith("$0 input, $0 output")


def test_every_provider_is_tested() -> None:
    """Each provider that `init` knows has a case above."""
    assert set(providers()) == set(EXPECTED)


def test_only_what_differs_is_changed() -> None:
    """Without options the starter is written unchanged; a provider changes only its own lines."""
    assert write_starter() == STARTER
    assert write_starter("openai") == STARTER
    changed = set(write_starter("groq", "llama-3.3-70b-versatile").splitlines()) - set(STARTER.splitlines())
    assert {line.split(":")[0].strip("# ") for line in changed} == {"model", "parameters", "base_url", "api_key_env"}


def test_a_model_that_thinks_has_room() -> None:
    """A model that always thinks gets enough output tokens; a model that can skip thinking gets the setting for it."""
    thinking = read_starter(write_starter("groq", "openai/gpt-oss-120b"))
    assert (thinking.max_output_tokens, thinking.parameters) == (1000, {})
    at_once = read_starter(write_starter("openrouter", "openai/gpt-6-luna"))
    assert (at_once.max_output_tokens, at_once.parameters) == (120, {"reasoning_effort": "none"})


def test_a_model_without_a_price_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model without a known price is written, and a warning names the setting that it needs."""
    monkeypatch.chdir(tmp_path)
    assert _init("--provider", "azure", "--model", "my-deployment") == 0
    ended = capsys.readouterr()
    warning = " ".join(ended.err.split())
    assert "write your resource for RESOURCE in endpoint.base_url" in " ".join(ended.out.split())
    assert "warning: no price is known for the model 'my-deployment'" in warning
    assert "set `price: {" in warning


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--provider", "acme", "--model", "m"), "'acme' is not known; use openai, azure, openrouter"),
        (("--provider", "groq"), "--provider groq needs --model NAME"),
        (("--input", "no.parquet"), "no.parquet"),
        (("--model", ""), "`model`"),
    ],
)
def test_what_cannot_be_written(
    words: tuple[str, ...],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An unknown provider or a missing model or input is refused in one sentence, and no file is written."""
    monkeypatch.chdir(tmp_path)
    assert _init(*words) == 2
    assert expected in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_an_input_gives_the_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an input, the prompt uses its text column, the job names the id column, and `preview` works."""
    monkeypatch.chdir(tmp_path)
    table = {"id": [7, 8], "language": ["de", "fr"], "product title": ["Rock", "Jupe"], "price": [1.5, 2.5]}
    pq.write_table(pa.table(table), "shop #1.parquet")
    assert _init("--input", "shop #1.parquet") == 0
    text = (tmp_path / "job.yaml").read_text(encoding="utf-8")
    assert "# columns of the input: id, language, product title, price\n" in text
    job = load_job(tmp_path / "job.yaml")
    assert job.id_column == "id"
    shown = preview_rows(*_resolved(job), 3)
    assert [row["body"]["messages"][-1]["content"] for row in shown] == ["Rock", "Jupe"]


@pytest.mark.parametrize(
    ("columns", "user", "shown"),
    [
        ({"title": ["a"], "review": ["b"]}, "{{ review }}", "b"),
        ({"id": ["a"], "headline": ["b"]}, "{{ headline }}", "b"),
        ({"lang": ["a"]}, "{{ lang }}", "a"),
        ({"n": [1], "m": [2]}, "{{ n }}", "1"),
        ({"vars": ["a"]}, '{{ row["vars"] }}', "a"),
        ({"a 'b' \"c\"\n": ["a"]}, '{{ row["a \'b\' \\"c\\"\\n"] }}', "a"),
        ({"text": pa.array(["a"]).dictionary_encode(), "b": ["x"]}, "{{ text }}", "a"),
    ],
)
def test_the_column_of_texts(columns: dict[str, Any], user: str, shown: str, tmp_path: Path) -> None:
    """The text column is found by type and name, and the written template uses it."""
    path = str(tmp_path / "in.parquet")
    pq.write_table(pa.table(columns), path)
    job = read_starter(write_starter(location=path, prompt=describe_input(path)))
    assert job.prompt is not None
    assert job.prompt.user == user
    (first,) = preview_rows(*_resolved(job), 1)
    assert first["body"]["messages"][-1]["content"] == shown


@pytest.mark.parametrize(
    ("name", "text"), [("in.csv", "id,review\n7,good\n"), ("in.jsonl", '{"id": 7, "review": "good"}\n')]
)
def test_an_input_of_another_format(name: str, text: str, tmp_path: Path) -> None:
    """A CSV or JSON Lines file gives its columns like a Parquet file."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = describe_input(str(tmp_path / name))
    assert (found.user, found.columns, found.id_column) == ("{{ review }}", ("id", "review"), "id")


@pytest.mark.parametrize(
    ("ids", "found"),
    [([1, 2], "id"), (["a", "b"], "id"), ([1, 1], None), ([1, None], None), ([1.0, 2.0], None)],
)
def test_a_unique_id(ids: list[Any], found: str | None, tmp_path: Path) -> None:
    """A column `id` is the id column if it is unique and never null."""
    path = str(tmp_path / "in.parquet")
    pq.write_table(pa.table({"id": ids, "text": ["a", "b"]}), path)
    assert describe_input(path).id_column == found


def test_the_starter_is_a_job() -> None:
    """The job that `init` writes is valid unchanged, and with every commented setting turned on."""
    make_job(parse_yaml(STARTER, "starter"))
    bare = re.sub(r"^( *)# (?=[a-z_]+: )", r"\1", STARTER, flags=re.MULTILINE)
    switched = parse_yaml(bare.replace("# A Parquill job.", "#"), "starter")
    make_job(switched)
    assert {"for_each", "vars", "response_format", "tolerate", "labels", "price"} <= switched.keys()
