"""Explain what pydantic finds wrong with settings, in one sentence per fault, without the values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from parquill.tasks.job.settings import Job

# The form of each group of settings, shown to a user who wrote a single value instead.
EXAMPLES = {
    "budget": "{run_usd: 5}",
    "prompt": '{user: "{{ text }}"}',
    "endpoint": "{base_url: https://api.openai.com/v1}",
    "endpoints": "[{api_key_env: FIRST_KEY}, {api_key_env: SECOND_KEY}]",
    "price": "{usd_per_mtok_input: 0.10, usd_per_mtok_output: 0.50}",
    "limits": "{max_at_once: 64}",
    "retry": "{attempts: 6}",
    "tolerate": "{not_ok: 0.01}",
}
_FORMS = {"model_type": "a group of settings", "list_type": "a list"}
# what pydantic adds to the location of a fault for each type that a value may have
_TYPE = re.compile(r"str|int|float|bool|constrained-\w+|(dict|list|literal)\[.*\]")


def explain(error: ValidationError, within: str | None = None) -> list[str]:
    """Return one sentence per fault, without duplicates; `within` names what was validated if that is not a job."""
    before = [] if within is None else [within]
    groups: dict[tuple[Any, ...], list[tuple[list[Any], Any]]] = {}
    for fault in error.errors(include_url=False):
        path = before + [part for part in fault["loc"] if not str(part).startswith("function-")]
        tried = next((index for index, part in enumerate(path) if index and _TYPE.fullmatch(str(part))), len(path))
        groups.setdefault(tuple(path[:tried]), []).append((path, fault))
    sentences = [sentence for value, faults in groups.items() for sentence in _of_value(list(value), faults)]
    return list(dict.fromkeys(sentences))


def _of_value(value: list[Any], faults: Sequence[tuple[list[Any], Any]]) -> Iterator[str]:
    """Yield the faults of one value: of the types that it may have, those of the type that it matched most deeply."""
    texts = [str(fault["msg"]) for _, fault in faults]
    deepest = max(len(path) for path, _ in faults)
    if deepest > len(value) + 1 and len(faults) > 1:
        for (path, fault), text in zip(faults, texts, strict=True):
            if len(path) == deepest:
                yield _sentence([*value, *path[len(value) + 1 :]], fault, text)
    elif len(set(texts)) == len(texts) > 1:
        yield _sentence(value, faults[0][1], ", or ".join(texts))
    else:  # names of the user's own that are also those of types
        for (path, fault), text in zip(faults, texts, strict=True):
            yield _sentence(path, fault, text)


def _sentence(path: list[Any], fault: Any, text: str) -> str:
    name = ".".join(str(part) for part in path) or "the job"
    kind = fault["type"]
    if kind == "extra_forbidden":
        near = _nearest(path)
        return f"unknown setting `{name}`" + (f"; did you mean `{near}`?" if near else "")
    if kind == "missing":
        return f"the setting `{name}` is missing"
    if path and (form := _FORMS.get(kind)) is not None and (kind == "model_type" or name in EXAMPLES):
        example = f"; write for example `{name}: {EXAMPLES[name]}`" if name in EXAMPLES else ""
        return f"`{name}` is {form}{example}"
    message = text.removeprefix("Value error, ").replace(", or Input", ", or input")
    if name == "the job":
        return "a job is a mapping of settings" if kind == "model_type" else message
    if kind == "decimal_parsing":
        message = "a number is needed, in digits and without a sign of a currency, for example 5.00"
    shown = fault.get("input")
    # a number that does not fit is shown; anything else may be long or private
    given = f" (it is {shown})" if isinstance(shown, int | float) and kind != "value_error" else ""
    return f"`{name}`: {message[0].lower()}{message[1:]}{given}"


def _nearest(path: list[Any]) -> str | None:
    model: Any = Job
    for part in path[:-1]:
        if isinstance(part, int):  # of a list of groups
            continue
        field = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        if field is None:
            return None
        model = _group_in(field.annotation)
    if model is None:
        return None
    near = difflib.get_close_matches(str(path[-1]), model.model_fields, 1, 0.6)
    if not near:  # a setting at the wrong level: `run_usd` belongs under `budget`
        for group, field in Job.model_fields.items():
            inner = _group_in(field.annotation)
            if inner is not None and str(path[-1]) in inner.model_fields:
                return f"{group}.{path[-1]}"
        return None
    return ".".join([*map(str, path[:-1]), near[0]])


def _group_in(annotation: Any) -> type[BaseModel] | None:
    """Return the group of settings in a field's type: itself, or one that may be null or is in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _group_in(inner)) is not None), None)
