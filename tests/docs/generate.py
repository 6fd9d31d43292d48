"""Fills the generated parts of docs/reference from the code: `python -m tests.docs.generate`.

A generated part is between `<!-- generated: NAME -->` and `<!-- end -->`. The text around it is written by hand.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from parquill.flows.cli.commands import cli
from parquill.tasks import errors
from parquill.tasks.errors import EXIT_CODES, Interrupted, ParquillError
from parquill.tasks.job.parameters import _REFUSED
from parquill.tasks.job.settings import Job
from parquill.tasks.llm import outcomes
from parquill.tasks.llm.advice import ADVICE
from parquill.tasks.llm.dry_run import ERROR_KEYS, PILOT_KEYS
from parquill.tasks.llm.outcomes import NEXT_STEPS, NOT_SENT_CODES, ROW_CODES, TABLE
from parquill.tasks.money.estimate import ESTIMATE_KEYS, FLAT_KEYS
from parquill.tasks.orchestration.events import EVENTS, LABELS
from parquill.tasks.orchestration.states import NAMES
from parquill.tasks.prompts.chat_fields import DROPPED, SENT
from parquill.tasks.results.summary import SUMMARY_KEYS
from parquill.tasks.storage.columns import MEANINGS, result_fields

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "reference"
_PART = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a bar within a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def settings() -> str:
    """Return a table of the settings of a job, and one for each group of settings."""
    schema = Job.model_json_schema()
    parts = [_settings_of(schema, "")]
    for name, inner in schema["properties"].items():
        if (group := _group(inner)) is not None:
            found = schema["$defs"][group]
            parts.append(f"## {name}\n\n{found['description']}\n\n{_settings_of(found, f'{name}.')}")
        elif (group := _group_in_list(inner)) is not None:
            parts += _list_of_groups(name, schema["$defs"][group], schema["$defs"])
    return "\n".join(parts)


def _list_of_groups(name: str, group: dict[str, Any], groups: dict[str, Any]) -> Iterator[str]:
    """Yield the settings of each group in the list `endpoints`: those that `endpoint` does not have."""
    like = groups["Endpoint"]["properties"]
    own = {each: inner for each, inner in group["properties"].items() if each not in like}
    more = "Each has all settings of [endpoint](#endpoint), and these:"
    yield f"## {name}\n\n{group['description']} {more}\n\n{_settings_of({**group, 'properties': own}, f'{name}[].', name)}"
    for each, inner in own.items():
        found = groups.get(_group(inner) or "")
        if found is not None and each != "price":
            yield f"## {name}.{each}\n\n{found['description']}\n\n{_settings_of(found, f'{name}[].{each}.')}"


def _settings_of(schema: dict[str, Any], prefix: str, within: str | None = None) -> str:
    required = schema.get("required", [])
    rows = []
    for name, inner in schema["properties"].items():
        meaning = f"{inner['description']}."
        if (_group(inner) or _group_in_list(inner)) is not None:
            # the headings of the groups, as GitHub makes links of them
            place = f"{within}{name}" if within is not None and name != "price" else name
            meaning += f" See [{name}](#{place})."
        rows.append([f"`{prefix}{name}`", _kind(inner), _default(inner, is_required=name in required), meaning])
    return table(["setting", "type", "default", "meaning"], rows)


def _group(schema: dict[str, Any]) -> str | None:
    """Return the name of the group of settings that a setting is, if it is one."""
    found = next((each["$ref"] for each in _branches(schema) if "$ref" in each), None)
    return None if found is None else str(found).rpartition("/")[2]


def _group_in_list(schema: dict[str, Any]) -> str | None:
    """Return the name of the group of settings of which a setting is a list, if it is one."""
    return next((found for each in _branches(schema) if (found := _group(each.get("items", {})))), None)


def _branches(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return schema.get("anyOf") or [schema]


def _kind(schema: dict[str, Any]) -> str:
    branches = [each for each in _branches(schema) if each.get("type") != "null"]
    if any(each.get("type") == "number" for each in branches):
        branches = [each for each in branches if each.get("type") == "number"]  # a number may also be given as text
    return " or ".join(_kind_of(each) for each in branches)


def _kind_of(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return "group"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema["type"]
    if kind == "array" and "$ref" in schema["items"]:
        return "list of groups"
    if kind in {"integer", "number"}:
        low, above, high = (schema.get(word) for word in ("minimum", "exclusiveMinimum", "maximum"))
        name = "whole number" if kind == "integer" else "number"
        return f"{name}, {f'{low:,} to' if low is not None else f'above {above:,} up to'} {high:,}"
    if kind == "object" and isinstance(inner := schema.get("additionalProperties"), dict):
        return f"mapping of {_plural(inner)}"
    return {"string": "text", "object": "mapping", "boolean": "true or false"}[kind]


def _plural(schema: dict[str, Any]) -> str:
    return {"string": "texts", "array": "lists"}[schema["type"]]


def _default(schema: dict[str, Any], *, is_required: bool) -> str:
    if is_required:
        return "required"
    if schema.get("default") is None:
        return ""
    return "empty" if schema["default"] == "" else f"`{json.dumps(schema['default']).strip(chr(34))}`"


def parameters() -> str:
    """Return a table of the request parameters that are refused, with the reasons."""
    rows = []
    for reason, remedy, services in _REFUSED:
        names = sorted({name for names in services.values() for name in names.split()})
        rows.append([f"It {reason}", ", ".join(f"`{name}`" for name in names), _sentence(remedy)])
    return table(["reason", "parameters", "what to do"], rows)


def commands() -> str:
    """Return a section for each command: its usage, its help, its arguments and options."""
    context = click.Context(cli, info_name="parquill", **cli.context_settings)
    parts = [table(["command", "purpose"], [[f"[{name}](#parquill-{name})", _first(c)] for name, c in _commands()])]
    parts.extend(_command(name, command, context) for name, command in _commands())
    return "\n".join(parts)


def _commands() -> list[tuple[str, click.Command]]:
    return list(cli.commands.items())


def _first(command: click.Command) -> str:
    return _unwrap(command.help or "").partition("\n")[0]


def _command(name: str, command: click.Command, parent: click.Context) -> str:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join(["parquill", name, *command.collect_usage_pieces(context)])
    rows = []
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option) and "--help" not in parameter.opts:
            names = ", ".join(f"`{each}`" for each in parameter.opts)
            value = "" if parameter.is_flag else f"`{parameter.make_metavar(context)}`"
            rows.append([names, value, _shown_default(parameter), _unwrap(parameter.help or "")])
    options = table(["option", "value", "default", "meaning"], rows) if rows else ""
    return (
        "\n\n".join(filter(None, [f"## parquill {name}", f"    {usage}", _unwrap(command.help or ""), options])) + "\n"
    )


def _shown_default(option: click.Option) -> str:
    return f"`{option.default}`" if option.show_default and not option.is_flag else ""


def _unwrap(text: str) -> str:
    """Return a help text with one line for each paragraph; a command line becomes a code block."""
    paragraphs = [" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n")]
    return "\n\n".join(f"    {part}" if part.startswith("parquill ") else part for part in paragraphs)


def exit_codes() -> str:
    """Return a table of the exit codes."""
    return table(
        ["exit code", "meaning", "what to do"],
        [[str(code), *map(_sentence, texts)] for code, texts in EXIT_CODES.items()],
    )


def error_states() -> str:
    """Return a table of the errors: their name in Prefect, what they mean, and what to do."""
    advice = dict(re.findall(r"── (\w+) +exit \d+ +(.*)", errors.__doc__ or ""))
    rows = []
    for name, advised in advice.items():
        kind: type[ParquillError] = getattr(errors, name)
        state = NAMES.get(kind, "Cancelled" if kind is Interrupted else "")
        state = state or next(NAMES[each] for each in kind.__mro__ if each in NAMES)
        rows.append([state, str(kind.exit_code), (kind.__doc__ or "").partition("\n")[0], _sentence(advised)])
    return table(["state in Prefect", "exit code", "meaning", "what to do"], rows)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def events() -> str:
    """Return a table of the events and their payloads."""
    rows = [[f"`{name}`", when, ", ".join(f"`{key}`" for key in keys)] for name, (when, keys) in EVENTS.items()]
    return table(["event", "when", "payload"], rows)


def labels() -> str:
    """Return a table of the labels that a trigger can match."""
    return table(["label", "value"], [[f"`{name}`", value] for name, value in LABELS.items()])


def columns() -> str:
    """Return a table of the columns of the results."""
    rows = []
    for field in result_fields(pa.struct([])):
        kind = "struct or string" if field.name == "parsed" else str(field.type).replace("double", "float64")
        rows.append([f"`{field.name}`", kind, MEANINGS[field.name]])
    return table(["column", "type", "meaning"], rows)


def error_codes() -> str:
    """Return a table of the error codes of rows that were sent."""
    rows = [
        [f"`{rule.code}`", rule.status, rule.money.value, rule.sentence, NEXT_STEPS[rule.retry]]
        for rule in TABLE.values()
        if rule.code
    ]
    return table(["error code", "status", "money", "meaning", "next"], rows)


def advice() -> str:
    """Return a table of what to do about each error code."""
    return table(["error code", "what to do"], [[f"`{code}`", _sentence(text)] for code, text in ADVICE.items()])


def unsent_codes() -> str:
    """Return a table of the error codes of rows that were not sent."""
    rows = [[f"`{code}`", "rejected", meaning] for code, meaning in ROW_CODES.items()]
    rows += [[f"`{code}`", "not_sent", meaning] for code, meaning in NOT_SENT_CODES.items()]
    return table(["error code", "status", "meaning"], rows)


def http_statuses() -> str:
    """Return a table of the error codes that HTTP statuses give."""
    codes: dict[str, list[str]] = {}
    for status, code in outcomes._BY_HTTP.items():
        codes.setdefault(code, []).append(str(status))
    rows = [[", ".join(found), f"`{code}`"] for code, found in codes.items()]
    return table(["HTTP status", "error code"], rows)


def summary_keys() -> str:
    """Return a table of the keys of summary.json."""
    return _keys(SUMMARY_KEYS)


def estimate_keys() -> str:
    """Return a table of the keys of `estimate --json`."""
    return _keys(FLAT_KEYS | ESTIMATE_KEYS)


def pilot_keys() -> str:
    """Return a table of the keys that `estimate --json` has only sometimes."""
    return _keys(PILOT_KEYS | ERROR_KEYS)


def _keys(keys: dict[str, str]) -> str:
    return table(["key", "meaning"], [[f"`{name}`", meaning] for name, meaning in keys.items()])


def chat_fields() -> str:
    """Return a table of the fields of chat messages that are sent and dropped."""
    rows = [
        [action, ", ".join(f"`{name}`" for name in sorted(names))]
        for action, names in (("sent", SENT), ("dropped", DROPPED))
    ]
    return table(["", "fields"], rows)


MAKERS: dict[str, Callable[[], str]] = {
    maker.__name__.replace("_", "-"): maker
    for maker in (
        settings,
        parameters,
        commands,
        exit_codes,
        error_states,
        events,
        labels,
        columns,
        error_codes,
        unsent_codes,
        advice,
        http_statuses,
        summary_keys,
        estimate_keys,
        pilot_keys,
        chat_fields,
    )
}


def fill(text: str) -> str:
    """Return a page with its generated parts updated from the code."""
    return _PART.sub(lambda part: f"{part[1]}\n{MAKERS[part[2]]()}\n{part[3]}", text)


def parts_of(text: str) -> list[str]:
    """Return the names of the generated parts of a page."""
    return [part[1] for part in _PART.findall(text)]


def main() -> None:
    """Fill all pages."""
    for page in sorted(FOLDER.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        page.write_text(fill(text), encoding="utf-8")


if __name__ == "__main__":
    main()
