"""The names that Python code imports, and the types of what it gets."""

from __future__ import annotations

import importlib
import inspect
import sys
import typing
from dataclasses import FrozenInstanceError
from importlib.metadata import version
from typing import Any

import pytest
from prefect import Flow
from prefect.utilities.callables import parameter_schema

import parquill
import parquill.flows
from parquill.tasks.llm.dry_run import PILOT_KEYS
from parquill.tasks.money.estimate import ESTIMATE_KEYS, FLAT_KEYS
from parquill.tasks.records import STATUSES, Usage
from parquill.tasks.results.completed_run import CompletedRun
from parquill.tasks.results.cost_estimate import KEYS, CostEstimate
from parquill.tasks.results.summary import SUMMARY_KEYS
from parquill.tasks.results.summary_type import ExpectedFigures, RowCounts, Summary, TokenCounts

FLOWS = ("complete_prompts", "estimate_cost", "summarize", "translate")


@pytest.mark.parametrize("name", FLOWS)
def test_the_name_of_a_flow_is_the_flow(name: str) -> None:
    """`parquill.flows` has the flow under its name, also when Python binds the submodule of this name there."""
    module = importlib.import_module(f"parquill.flows.{name}")
    assert module is sys.modules[f"parquill.flows.{name}"]
    setattr(parquill.flows, name, module)  # what Python does when it imports the submodule first
    found = getattr(parquill.flows, name)
    assert isinstance(found, Flow)
    assert found is vars(module)[name]


def test_the_package_has_its_names() -> None:
    """The package has the flows, the types of their results and its version, and no other name by chance."""
    assert sorted(parquill.flows.__all__, key=str.lower) == sorted(
        [*FLOWS, "CompletedRun", "CostEstimate"], key=str.lower
    )
    assert (parquill.flows.CompletedRun, parquill.flows.CostEstimate) == (CompletedRun, CostEstimate)
    assert parquill.__version__ == version("parquill")
    for module in (parquill, parquill.flows):
        with pytest.raises(AttributeError, match="has no attribute 'complete'"):
            module.complete  # noqa: B018 - looked up


def test_prefect_sees_what_it_stores() -> None:
    """Python code may give `input` and `settings` to a flow of any job. They are parameters neither of a flow run nor
    of a deployment, whose form Prefect makes of the flow itself.
    """
    flows: list[tuple[Any, str]] = [(parquill.flows.complete_prompts, "redo"), (parquill.flows.estimate_cost, "pilot")]
    for flow, last in flows:
        taken = list(inspect.signature(flow.__call__).parameters)
        assert taken == ["job", "input", "settings", "date", "limit", last]
        for schema in (flow.parameters, parameter_schema(flow)):
            assert list(schema.properties) == ["job", "date", "limit", last]


def test_types_have_the_keys_of_the_reference() -> None:
    """The types of a summary and of an estimate have exactly the documented keys."""
    assert typing.get_type_hints(Summary).keys() == SUMMARY_KEYS.keys()
    assert typing.get_type_hints(ExpectedFigures).keys() == ESTIMATE_KEYS.keys()
    assert list(typing.get_type_hints(RowCounts)) == ["total", *STATUSES, "reused"]
    assert tuple(typing.get_type_hints(TokenCounts)) == Usage._fields
    assert set(KEYS) == FLAT_KEYS.keys() | ESTIMATE_KEYS.keys() | PILOT_KEYS.keys()


def test_an_estimate_has_exact_dollars() -> None:
    """The dollars of an estimate are Decimal objects, `as_dict` has their text, and nothing can be changed."""
    flat: dict[str, Any] = dict.fromkeys(FLAT_KEYS.keys() | ESTIMATE_KEYS.keys())
    estimate = CostEstimate.of({**flat, "cost_usd_worst": "0.000589750", "rows": 40})
    assert (str(estimate.cost_usd_worst), estimate.cost_usd_low, estimate.rows) == ("0.000589750", None, 40)
    assert estimate.as_dict() == {**flat, "cost_usd_worst": "0.000589750", "rows": 40}
    with pytest.raises(FrozenInstanceError):
        estimate.rows = 1  # type: ignore[misc]  # mypy finds it too
