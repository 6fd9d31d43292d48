"""The tutorial and the how-to pages: services accept their jobs, their prices are found, and their code runs.

That all jobs, commands and links of all pages are valid is tested beside this file.
Blocks of other tools (DuckDB, Polars, Spark) compile here, and run in the nightly readers environment
(`tests/promises/test_other_readers.py`).
"""

from __future__ import annotations

import ast
import inspect
import re
import runpy
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prefect import Flow

from parquill.data import FOLDER
from parquill.flows.cli.preview import preview_rows
from parquill.flows.summarize import summarize
from parquill.flows.translate import translate
from parquill.tasks.job.answer_schema import check_format
from parquill.tasks.job.glossary import read_glossary
from parquill.tasks.job.load import make_job, merge, parse_yaml
from parquill.tasks.job.presets import preset_job
from parquill.tasks.job.reasoning import warn_of_thinking
from parquill.tasks.job.settings import Job
from parquill.tasks.job.strict_schema import check_strict
from parquill.tasks.llm.dry_run import estimate_without_pilot
from parquill.tasks.money.prices import price_of
from parquill.tasks.prompts.resolve import resolve_job
from tests.tools.direct import results, run_steps

DOCS = Path(__file__).parents[2] / "docs"
NAMES = (
    "tutorial how-to/providers how-to/cost how-to/tonight how-to/results how-to/structured-output how-to/python "
    "how-to/translate-and-summarize how-to/several-endpoints"
).split()
PAGES = {name: (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in NAMES}
PART = "# part of a job"
OTHER_TOOLS = re.compile(r"^(?:import|from) (?:duckdb|polars|pyspark)", re.MULTILINE)
BASE: dict[str, Any] = {
    "name": "base",
    "input": str(FOLDER / "samples" / "products.parquet"),
    "output": "out",
    "prompt": {"user": "{{ title }}"},
    "model": "gpt-6-luna",
    "max_output_tokens": 100,
}
PRICE = re.compile(
    r"```yaml\n(?P<block>[^`]*)```\n\nPrice: (?:found, `(?P<list>[^`]+)`|(?P<own>the job's `price`))\.\n"
)


def _blocks(page: str, language: str) -> list[str]:
    return [
        re.sub(r"^ {2}", "", text)
        for text in re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)
    ]


def _all(language: str, word: str) -> list[Any]:
    return [
        pytest.param(page, block, id=f"{page}-{number}")
        for page in NAMES
        for number, block in enumerate(_blocks(page, language))
        if word in block
    ]


def _settings(block: str) -> dict[str, Any]:
    """Return the settings of a block: a whole job, or a part of a job over the base."""
    found = parse_yaml(block, "a block")
    return merge(BASE, found) if block.startswith(PART) else found


@pytest.mark.parametrize(("page", "block"), _all("yaml", "response_format"))
def test_a_schema_is_one_that_services_accept(page: str, block: str) -> None:
    """Every response_format on a page is a schema that the page's service accepts."""
    job = make_job(_settings(block))
    check_strict(job)
    if isinstance(job.response_format, dict) and "facts.json" not in block:
        check_format(job.response_format)
    assert job.response_format is not None, page


def test_the_glossary_is_one(tmp_path: Path) -> None:
    """The glossary on the page of ready flows is read for its language."""
    (block,) = (each for page in NAMES for each in _blocks(page, "yaml") if each.startswith("# glossary.yaml"))
    (tmp_path / "glossary.yaml").write_text(block, encoding="utf-8")
    assert read_glossary(str(tmp_path / "glossary.yaml"), ["fr"])


def test_every_recipe_says_where_its_price_is_from() -> None:
    """Each recipe of the providers page is followed by the source of its price."""
    assert len(PRICE.findall(PAGES["how-to/providers"])) == len(_blocks("how-to/providers", "yaml"))


@pytest.mark.parametrize(
    "found", [pytest.param(f, id=str(n)) for n, f in enumerate(PRICE.finditer(PAGES["how-to/providers"]))]
)
def test_a_recipe_is_priced_and_sent_as_told(found: re.Match[str]) -> None:
    """A recipe has the stated price, does not use up its tokens by thinking, and sends its request to its address."""
    day = date.fromisoformat(re.findall(r"checked on (\S+)\.", PAGES["how-to/providers"])[0])
    job, options = resolve_job(make_job(_settings(found["block"])), day, None, ())
    price = price_of(job, day)
    assert price.source == (found["list"] or found["own"])
    assert (job.price is None) == (found["list"] is not None)
    assert warn_of_thinking(job) is None
    estimated = estimate_without_pilot(job, options)
    assert (estimated.error, estimated.price) == (None, price)
    (row,) = preview_rows(job, options, 1)
    assert row["error"] is None
    assert row["url"].startswith(f"{job.endpoint.base_url}/chat/completions")
    assert row["body"]["model"] == job.model


def test_every_service_has_its_limits_page() -> None:
    """The table of limits names only services that have a recipe."""
    page = PAGES["how-to/providers"]
    headings = set(re.findall(r"^## (.+)$", page, re.MULTILINE))
    table = page.split("| service |")[1].split("\n\n")[0]
    named = {name for line in table.splitlines()[2:] for name in line.split("|")[1].strip().split(", ")}
    assert named
    assert named <= headings


def test_the_ready_flows_take_what_the_page_gives_them() -> None:
    """The calls of `translate` and `summarize` use parameters of the flows and settings of a job."""
    seen = set()
    flows: dict[str, Flow[..., Any]] = {"translate": translate, "summarize": summarize}
    for block in _blocks("how-to/translate-and-summarize", "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in flows:
                given = {str(each.arg): ast.literal_eval(each.value) for each in node.keywords}
                inspect.signature(flows[node.func.id].fn).bind(**given)
                preset_job(BASE, given["settings"], {})
                seen.add(node.func.id)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "settings":
                preset_job(BASE, ast.literal_eval(node.value), {})
                seen.add("settings")
    assert seen == {"translate", "summarize", "settings"}


def test_the_job_in_python_is_that_of_the_tutorial() -> None:
    """The mapping on the Python page is a job that sends the same requests as the tutorial."""
    (found,) = (
        ast.literal_eval(node.value)
        for block in _blocks("how-to/python", "python")
        for node in ast.parse(block).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "job"
    )
    job, tutorial = make_job(found), _tutorial()
    for name in ("prompt", "model", "max_output_tokens", "parameters", "endpoint"):
        assert getattr(job, name) == getattr(tutorial, name)


def _tutorial() -> Job:
    whole, part = (parse_yaml(block, "the tutorial") for block in _blocks("tutorial", "yaml"))
    return make_job(merge(whole, part))


AUDIENCES = ["hiker", "cyclist", "cook", "gardener", "anyone"]


def _answer(request: httpx.Request) -> httpx.Response:
    """Answer like a service, with a word or with facts; for the gift card, with a cut sentence or a wrong value."""
    asked = orjson.loads(request.content)
    text = asked["messages"][-1]["content"]
    is_gift = text.startswith("Gift card")
    audience = "everyone" if is_gift else AUDIENCES[len(text) % len(AUDIENCES)]
    facts = {"audience": audience, "materials": ["wool"] if "ool" in text else [], "weight_g": None}
    is_cut = is_gift and "response_format" not in asked
    choice = {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": orjson.dumps(facts).decode() if "response_format" in asked else audience,
        },
        "finish_reason": "length" if is_cut else "stop",
    }
    usage = {"prompt_tokens": 50, "completion_tokens": 3, "total_tokens": 53}
    return httpx.Response(200, json={"id": "x", "model": asked["model"], "choices": [choice], "usage": usage})


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sample and the results of two jobs: the tutorial's and that of structured output."""
    folder = tmp_path_factory.mktemp("shop")
    pq.write_table(pq.read_table(FOLDER / "samples" / "products.parquet"), folder / "products.parquet")
    whole = parse_yaml(_blocks("how-to/structured-output", "yaml")[0], "the page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-of-no-service")
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        for settings in (_tutorial().model_dump(), whole):
            paths = {name: str(folder / settings[name]) for name in ("input", "output")}
            unlimited = {**settings, **paths, "limits": {}}  # no waiting for requests_per_minute
            run_steps(unlimited, transport=lambda: httpx.MockTransport(_answer))
            statuses = [row["status"] for row in results({"output": paths["output"]})]
            assert statuses.count("ok") == len(statuses) - 1 == 39
    return folder


def _run(block: str, folder: Path) -> None:
    """Run a block as a script file, because pydantic looks up names in the module of a class."""
    (folder / "block.py").write_text(block, encoding="utf-8")
    runpy.run_path(str(folder / "block.py"), run_name="block_of_a_page")


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{page}-{number}")
        for page in ("how-to/results", "how-to/structured-output")
        for number, block in enumerate(_blocks(page, "python"))
        if not OTHER_TOOLS.search(block)
    ],
)
def test_code_that_reads_results_runs(
    block: str, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each block of pandas, pyarrow and pydantic runs on real results, and prints something or writes a file."""
    monkeypatch.chdir(shop)
    _run(block, tmp_path)
    written = [path for path in re.findall(r'"(\w+\.(?:csv|jsonl|json))"', block) if (shop / path).stat().st_size > 50]
    assert capsys.readouterr().out.strip() or written


def test_the_exported_files_hold_every_row(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The export on the results page has every row, with money as plain decimals."""
    monkeypatch.chdir(shop)
    (block,) = (each for each in _blocks("how-to/results", "python") if "to_csv" in each)
    _run(block, tmp_path)
    rows = [orjson.loads(line) for line in (shop / "audience.jsonl").read_bytes().splitlines()]
    assert [row["id"] for row in rows] == pq.read_table(shop / "products.parquet")["id"].to_pylist()
    assert {row["cost_usd"] for row in rows if row["reused"]} == {"0.000000000"}
    assert len((shop / "audience.csv").read_text(encoding="utf-8").splitlines()) > len(rows)


def test_the_pydantic_schema_is_strict(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's pydantic model produces a schema that OpenAI accepts as strict, with the fields of the page's job."""
    monkeypatch.chdir(shop)
    (block,) = (each for each in _blocks("how-to/structured-output", "python") if "model_json_schema" in each)
    _run(block, tmp_path)
    job, _ = resolve_job(make_job({**BASE, "response_format": "facts.json"}), None, None, ())
    check_strict(job)
    assert isinstance(job.response_format, dict)
    by_hand = make_job(parse_yaml(_blocks("how-to/structured-output", "yaml")[0], "the page")).response_format
    assert isinstance(by_hand, dict)
    assert job.response_format["required"] == by_hand["required"]
    assert pa.types.is_struct(pq.read_table(shop / "runs/facts/results").schema.field("parsed").type)
