"""Requests that the ready flows must refuse, before anything is read or sent."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow

from parquill.flows.summarize import summarize
from parquill.flows.translate import translate
from parquill.tasks.job.endpoint import OPENAI_BASE_URL
from parquill.tasks.job.presets import preset_job
from parquill.tasks.job.reasoning import warn_of_thinking
from parquill.tasks.money.shutdowns import find_shutdown

FOLDER = Path("/nonexistent")


def _refused(flow: Flow[..., Any], **parameters: Any) -> str:
    """Return the message of a flow that is refused."""
    given = {"input": str(FOLDER / "in.parquet"), "output": str(FOLDER / "out"), **parameters}
    if flow is translate:
        given.setdefault("languages", ["fr", "de"])
    ended = flow.fn(**given)
    assert (ended.type, ended.name) == ("FAILED", "Refused: bad job"), ended.message
    return str(ended.message)


BOTH: list[tuple[dict[str, Any], str, str]] = [
    ({"budget": {"run_usd": 5}}, "budget.run_usd", "run_usd"),
    ({"budget": {"run_usd": None}}, "budget.run_usd", "run_usd"),
    ({"budget": {"run_usd": 5, "monthly_usd": 3}}, "budget.run_usd", "run_usd"),
    ({"name": "x"}, "name", "name"),
    ({"input": "x"}, "input", "input"),
    ({"output": "x"}, "output", "output"),
    ({"model": "gpt-4o"}, "model", "model"),
    ({"max_output_tokens": 9_000}, "max_output_tokens", "max_output_tokens"),
]
OWN: dict[Flow[..., Any], list[tuple[dict[str, Any], str, str]]] = {
    translate: [
        ({"for_each": {"language": ["ja"]}}, "for_each.language", "languages"),
        ({"vars": {"tone": "warm"}}, "vars.tone", "tone"),
        ({"vars": {"glossary": "g.yaml"}}, "vars.glossary", "glossary"),
    ],
    summarize: [({"vars": {name: "x"}}, f"vars.{name}", name) for name in ("length", "style", "language")],
}


@pytest.mark.parametrize(
    ("flow", "settings", "setting", "parameter"),
    [(flow, *case) for flow, own in OWN.items() for case in [*BOTH, *own]],
)
@pytest.mark.parametrize("run_usd", [0.0000001, None])
def test_a_setting_puts_no_parameter_aside(
    flow: Flow[..., Any], settings: dict[str, Any], setting: str, parameter: str, run_usd: float | None
) -> None:
    """A setting that a ready flow has as a parameter is refused in `settings`, the budget too; both are named."""
    message = _refused(flow, settings=settings, run_usd=run_usd)
    assert message == f"`settings.{setting}` is the parameter `{parameter}` of this flow; set it there"


@pytest.mark.parametrize("flow", OWN, ids=lambda flow: flow.name)
@pytest.mark.parametrize("name", ["prompt", "messages_column"])
def test_a_ready_flow_makes_its_prompt(flow: Flow[..., Any], name: str) -> None:
    """A prompt other than the ready flow's own is refused, and the message names the flow that accepts any prompt."""
    message = _refused(flow, settings={name: {"user": "{{ text }}"}})
    assert f"`settings.{name}`" in message
    assert "complete-prompts" in message


@pytest.mark.parametrize(
    ("flow", "name"), [(flow, name) for flow in OWN for name in ("vars", "budget", "parameters", "for_each")][:-1]
)
@pytest.mark.parametrize("value", [None, "vars.yaml", [1]])
def test_a_group_is_added_to(flow: Flow[..., Any], name: str, value: Any) -> None:
    """A group that a ready flow adds to cannot be replaced by something that is not a group."""
    assert (
        _refused(flow, settings={name: value}, run_usd=1)
        == f"`settings.{name}` must be a mapping: this flow adds to it"
    )


def test_other_settings_are_the_job_s() -> None:
    """`settings` sets what no parameter gives; the job is refused only for its output, so these were accepted."""
    settings = {
        "budget": {"approval_usd": 1, "monthly_usd": 9},
        "parameters": {"temperature": 1},
        "vars": {"more": 1},
        "for_each": {"size": ["s", "l"]},
        "id_column": "id",
        "timezone": "Europe/Paris",
    }
    given = {"input": str(FOLDER / "in.parquet"), "output": "/dev/null/out", "settings": settings}
    ended: Any = translate.fn(languages=["fr"], run_usd=1, tone="warm", **given)  # type: ignore[arg-type]  # `given` holds values of several types
    assert "/dev/null" in ended.message


SHAPE = "{language: {term: translation}}"
NO_GLOSSARY = {
    "flat.yaml": "basket: panier\n",
    "null.yaml": "fr:\n",
    "list.yaml": "- basket\n- panier\n",
    "empty.yaml": "",
    "terms.txt": "basket = panier",
    "numbers.yaml": "fr: {basket: 3}\n",
    "lists.yaml": "fr: [basket, panier]\n",
    "no-terms.yaml": "fr: {}\nde: ''\n",
    "other.yaml": "ja: {basket: かご}\n",
    "list.json": '["basket"]',
}


@pytest.mark.parametrize("name", NO_GLOSSARY)
def test_a_glossary_has_its_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A glossary without a term for the job's languages is refused with its file and the required shape."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(NO_GLOSSARY[name], encoding="utf-8")
    message = _refused(translate, glossary=name)
    assert message.startswith(f"`glossary`: the file {name} ")
    assert SHAPE in message
    assert "panier" not in message.replace("{fr: {basket: panier}}", "")


def test_a_glossary_is_there() -> None:
    """A missing glossary file is named, and a glossary with terms of other languages only is refused."""
    assert "`glossary` none.yaml: No such file" in _refused(translate, glossary="none.yaml")
    assert "no terms for fr or de" in _refused(translate, glossary={"ja": {"basket": "かご"}})
    assert _refused(translate, glossary={"basket": "panier"}) == "`glossary.basket`: input should be a valid dictionary"


@pytest.mark.parametrize("name", ["two words", "", "1st", "a-b"])
def test_a_language_column_is_a_name(name: str) -> None:
    """The column of languages must be a name that templates can use; otherwise the refusal names its parameter."""
    assert _refused(translate, language_column=name).startswith("`language_column`: ")


@pytest.mark.parametrize("flow", OWN, ids=lambda flow: flow.name)
def test_a_name_is_not_blank(flow: Flow[..., Any]) -> None:
    """A job's name must not be blank, in the flow and in the form."""
    assert _refused(flow, name="  ").startswith("`name`: ")
    assert flow.parameters.model_dump()["properties"]["name"]["pattern"] == r"\S"


@pytest.mark.parametrize("blank", ["", "  "])
@pytest.mark.parametrize(
    ("flow", "name"),
    [(translate, "tone"), (translate, "glossary"), *((summarize, name) for name in ("length", "style", "language"))],
    ids=lambda given: given if isinstance(given, str) else given.name,
)
def test_what_the_prompt_says_is_not_blank(flow: Flow[..., Any], name: str, blank: str) -> None:
    """A blank instruction is refused by its parameter, because it would leave a gap in the prompt of every row."""
    assert _refused(flow, **{name: blank}).startswith(f"`{name}`: ")


def test_a_glossary_is_of_this_machine() -> None:
    """A glossary given as an address is refused, and the message shows the address."""
    assert "`glossary`: s3://bucket/terms.yaml is an address" in _refused(translate, glossary="s3://bucket/terms.yaml")


@pytest.mark.parametrize("flow", OWN, ids=lambda flow: flow.name)
def test_the_default_model_answers_at_once(flow: Flow[..., Any]) -> None:
    """A ready flow's default model is not shut down, is asked not to think, and gets no temperature."""
    model = inspect.signature(flow.fn).parameters["model"].default
    assert find_shutdown(model, OPENAI_BASE_URL) is None
    base = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": model, "max_output_tokens": 9}
    assert warn_of_thinking(preset_job(base, {}, {})) is None
    assert preset_job(base, {}, {}).parameters == {"reasoning_effort": "none"}


def test_a_ready_flow_has_no_parameters_of_its_own_beside_yours() -> None:
    """`settings.parameters`, even if empty, replaces what a ready flow would set. Another model gets no parameters."""
    base = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "max_output_tokens": 9}
    luna, other = {**base, "model": "gpt-6-luna"}, {**base, "model": "gpt-4o-mini"}
    assert preset_job(luna, {"parameters": {}}, {}).parameters == {}
    assert preset_job(luna, {"parameters": {"seed": 1}}, {}).parameters == {"seed": 1}
    assert preset_job(other, {}, {}).parameters == {}
    responses = preset_job(luna, {"endpoint": {"api": "responses"}}, {})
    assert responses.parameters == {"reasoning": {"effort": "none"}}
