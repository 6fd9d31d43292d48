"""Usage and costs as a service exports them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.job.lanes import LaneName
from parquill.tasks.llm.service_usage import MAX_FILE_BYTES, ServiceFigures, read_cost, read_export, read_use
from parquill.tasks.money.reconciliation import CountedUse, ServiceCost

NOON = 1_764_590_400  # 2025-12-01T12:00:00Z
USE = {"model": "m-2026-01-31", "num_model_requests": 3, "input_tokens": 20, "output_tokens": 4}


@pytest.mark.parametrize(
    ("result", "lane"),
    [
        ({}, None),
        ({"batch": False}, "live"),
        ({"batch": True}, "batch"),
        ({"batch": "True", "service_tier": "default"}, "batch"),
        ({"batch": False, "service_tier": "flex"}, "flex"),
        ({"service_tier": "priority"}, "live"),
    ],
)
def test_the_lane_of_usage(result: dict[str, Any], lane: LaneName | None) -> None:
    """A result of usage says whether it is of a batch, and its service tier."""
    assert read_use(NOON, {**USE, **result}) == CountedUse("2025-12-01", "m-2026-01-31", lane, None, 3, 20, 4)


@pytest.mark.parametrize(
    ("item", "model", "lane"),
    [
        ("gpt-6-luna, input_tokens", "gpt-6-luna", None),
        ("gpt-6-luna batch, output_tokens", "gpt-6-luna", "batch"),
        ("gpt-6-luna, Batch input", "gpt-6-luna", "batch"),
        ("gpt-6-luna flex, cached input", "gpt-6-luna", "flex"),
        ("web search tool calls", "web search tool calls", None),
        (None, "(no line item)", None),
    ],
)
def test_a_line_item(item: str | None, model: str, lane: LaneName | None) -> None:
    """A line item names its model, and some name their lane."""
    cost = read_cost(NOON, {"line_item": item, "api_key_id": "k", "amount": {"value": 0.25, "currency": "usd"}})
    assert cost == ServiceCost("2025-12-01", model, lane, "k", Decimal("0.25"))


def test_a_table_of_both_kinds(tmp_path: Path) -> None:
    """Tabs and a byte order mark are read; a day without usage has only its times."""
    file = tmp_path / "usage.tsv"
    rows = [
        "start_time\tend_time\tmodel\tbatch\tnum_model_requests\tinput_tokens\toutput_tokens",
        f"{NOON}\t{NOON + 1}\tm\ttrue\t3.0\t20\t4",
        f"{NOON}\t{NOON + 1}\t\t\t\t\t",
    ]
    file.write_text("\ufeff" + "\n".join(rows), encoding="utf-8")
    found = read_export(file)
    assert (found.uses, found.costs) == ([CountedUse("2025-12-01", "m", "batch", None, 3, 20, 4)], None)
    costs = tmp_path / "costs.csv"
    costs.write_text(f'start_time,amount_value,amount_currency,line_item\n{NOON},0.10000000,usd,"m, input"\n')
    found.add(read_export(costs))
    assert found.costs == [ServiceCost("2025-12-01", "m", None, None, Decimal("0.1"))]
    assert found.of_month("2025-12") == found
    assert found.of_month("2025-11") == ServiceFigures([], [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (orjson.dumps({"data": [], "has_more": True}).decode(), "it is one page of several"),
        ("start_time,model,num_model_requests,input_tokens,output_tokens\n1,m,1E+99999999,1,1\n", "is not a count"),
        ("start_time,amount_value,line_item\n1,1E+400000,m\n", "is not an amount"),
        ("start_time,amount_value,line_item\n1,1," + "x" * 200_000 + "\n", "field larger than field limit"),
        ("start_time,model,num_model_requests,input_tokens,output_tokens\n1,,1,1,1\n", "entry 1: names no model"),
        ("a,b\n1,2\n", "is neither usage nor costs as OpenAI exports them"),
        (orjson.dumps({"data": [{"start_time": NOON, "results": [{"x": 1}]}]}).decode(), "is neither usage nor costs"),
        (orjson.dumps([1]).decode(), "it is neither a page nor a list"),
        (orjson.dumps([USE]).decode(), "None is not a start_time"),
        ("{", "it is not JSON"),
        ("start_time,amount_value,line_item\n1,lots,m\n", "entry 1: 'lots' is not an amount"),
        ("start_time,amount_value,line_item\n1,NaN,m\n", "entry 1: 'NaN' is not an amount"),
        ("start_time,amount_value,amount_currency\n1,2,eur\n", "entry 1: has another currency than usd"),
        ("start_time,amount_value\nnoon,2\n", "'noon' is not a start_time in seconds since 1970"),
        (
            "start_time,model,num_model_requests,input_tokens,output_tokens\n1,m,-3,1,1\n",
            "entry 1: '-3' is not a count",
        ),
    ],
)
def test_a_file_that_is_something_else(tmp_path: Path, content: str, message: str) -> None:
    """A file that is no export, or has figures that cannot be, is refused with its place."""
    file = tmp_path / "export.csv"
    file.write_text(content)
    with pytest.raises(BadJob, match=r"export\.csv") as caught:
        read_export(file)
    assert message in str(caught.value)


def test_a_count_of_many_digits() -> None:
    """A count or an amount beyond any real one is refused, however many digits it has."""
    for count in ("1E+18", "1E+99999", 10**19):
        with pytest.raises(ValueError, match="is not a count"):
            read_use(NOON, {**USE, "input_tokens": count})
    assert read_use(NOON, {**USE, "input_tokens": "1E+17"}).prompt_tokens == 10**17


def test_a_list_of_results_and_buckets(tmp_path: Path) -> None:
    """A JSON list may have pages, buckets and results; a usage row without a number of requests still has tokens."""
    cost = {"line_item": "m, input", "amount": {"value": 1.5, "currency": "usd"}}
    bucket = {"start_time": NOON, "results": [cost]}
    page = {"data": [bucket], "has_more": True}
    file = tmp_path / "costs.json"
    file.write_bytes(orjson.dumps([{"start_time": NOON, **cost}, bucket, page]))
    costs = read_export(file).costs
    assert costs is not None
    assert sum(each.usd for each in costs) == Decimal("4.5")
    table = tmp_path / "usage.csv"
    table.write_text(f"start_time,model,num_model_requests,input_tokens,output_tokens\n{NOON},m,,20,4\n")
    uses = read_export(table).uses
    assert uses is not None
    assert (uses[0].requests, uses[0].prompt_tokens) == (0, 20)
    empty = tmp_path / "empty.json"
    empty.write_bytes(orjson.dumps({"data": [{"start_time": NOON, "results": []}], "has_more": False}))
    assert read_export(empty) == ServiceFigures()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is not there, or is too large, is refused."""
    with pytest.raises(BadJob, match="cannot be read: No such file"):
        read_export(tmp_path / "none.csv")
    large = tmp_path / "large.csv"
    with large.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(BadJob, match="has 256 MiB, more than the 256 that are read"):
        read_export(large)
