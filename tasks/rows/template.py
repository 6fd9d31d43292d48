"""Prompt templates: Jinja2, sandboxed, strict, compiled once. Values are data and are never parsed as templates."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from jinja2 import (
    StrictUndefined,
    TemplateError,
    TemplateSyntaxError,
    UndefinedError,
    meta,
    nodes,
)

from parquill.tasks.errors import BadJob, RowFault
from parquill.tasks.rows.sandbox import Sandbox, TooMuchText, check_size


class NullValue(Exception):
    """A null reached the text of a prompt."""


class ShownAsPython(Exception):
    """A list or a struct would be shown with Python's brackets and quotes."""


class _Null(StrictUndefined):
    """A null cell: false in a test, replaced by `default`, and an error wherever it would become text."""

    def __bool__(self) -> bool:  # type: ignore[override]
        return False

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        return other is None or isinstance(other, _Null)

    def __ne__(self, other: object) -> bool:  # type: ignore[override]
        return not self == other

    # a list or a filter that shows what is in it would make it text
    __repr__ = StrictUndefined.__str__

    __hash__ = object.__hash__  # type: ignore[assignment]


def _mark_nulls(value: Any, name: str, null: type[_Null] = _Null) -> Any:
    """A cell with its nulls, also those in structs and lists, made into ones that cannot become text."""
    if value is None:
        return null(name=name)
    if isinstance(value, dict):
        return {key: _mark_nulls(inner, f"{name}.{key}", _InnerNull) for key, inner in value.items()}
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise RowFault("invalid_utf8", f"{name} is not valid UTF-8") from None
    if isinstance(value, list | tuple):  # an Arrow map is a list of pairs
        return type(value)(_mark_nulls(inner, f"{name}[]", _InnerNull) for inner in value)
    return value


def _json_null(value: Any) -> None:
    # inside a document null is a value; a whole cell that is null must still be handled
    if not isinstance(value, _InnerNull):
        raise TypeError


def _visible(value: Any) -> Any:
    # called for every {{ ... }}: "None" must never be sent to a model as text
    if value is None:
        raise NullValue
    if isinstance(value, list | tuple | dict):
        raise ShownAsPython("struct" if isinstance(value, dict) else "list")
    return value


class _InnerNull(_Null):
    """A null field of a struct or item of a list: as a null cell, but JSON may hold it."""


def _environment() -> Sandbox:
    env = Sandbox(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True, finalize=_visible)
    # JSON has a word for a null
    env.policies["json.dumps_kwargs"] = {"sort_keys": True, "default": _json_null}
    env.tests["none"] = lambda value: value is None or isinstance(value, _Null)
    env.tests["defined"] = lambda value: isinstance(value, _Null) or not isinstance(value, StrictUndefined)
    env.tests["undefined"] = lambda value: isinstance(value, StrictUndefined) and not isinstance(value, _Null)
    env.globals.pop("lipsum", None)
    return env


class Templates:
    """The compiled templates of a job.

    `columns` are the names that the templates use, in the order of `names`; `render` takes their values.
    """

    def __init__(
        self, system: str | None, user: str, names: Iterable[str], variables: Mapping[str, Any] | None
    ) -> None:
        """Compile; raises BadJob for a syntax error or a name that no column, `for_each` or `vars` gives."""
        env = _environment()
        known = list(names)
        for name in known:
            env.globals.pop(name, None)  # a column called `range` or `dict` is the column
        used: set[str] = set()
        self._parts = []
        for role, text in (("system", system), ("user", user)):
            if text is None:
                continue
            try:
                tree = env.parse(text)
                self._parts.append((role, env.from_string(text)))
            except TemplateSyntaxError as error:
                raise BadJob(f"`prompt.{role}`, line {error.lineno}: {error.message}") from None
            except (RecursionError, MemoryError, SyntaxError):
                raise BadJob(f"`prompt.{role}` is nested too deeply") from None
            _check_names_of(tree, env, role)
            wanted = meta.find_undeclared_variables(tree) - set(env.globals)
            reserved = {"self", "vars"} & {node.name for node in tree.find_all(nodes.Name)} & set(known)
            for name in reserved:
                raise BadJob(f"`prompt.{role}`: {name!r} is a name of the templates' own; rename the column")
            for name in sorted(wanted - set(known) - ({"vars"} if variables is not None else set())):
                raise BadJob(f"`prompt.{role}` uses {name!r}, {_hint(name, known)}")
            used |= wanted
        self.columns = [name for name in known if name in used]
        self._vars = dict(variables or {})

    def render(self, values: Mapping[str, Any]) -> list[dict[str, str]]:
        """Give the chat messages of one row. Raises RowFault."""
        context = {name: _mark_nulls(value, name) for name, value in values.items()}
        context["vars"] = self._vars
        messages = []
        for role, template in self._parts:
            try:
                text = _join(template.generate(context))
            except NullValue:
                raise RowFault(
                    "null_value", f"a null reached prompt.{role}; handle it with default('', true)"
                ) from None
            except ShownAsPython as error:
                raise RowFault(
                    "template_error",
                    f"prompt.{role} shows a {error}; say how, with | join(', '), | tojson or a field of it",
                ) from None
            except TooMuchText:
                raise RowFault("template_error", f"prompt.{role} makes more text than any prompt can hold") from None
            except UndefinedError as error:
                nulls = [name for name, value in values.items() if value is None]
                told = str(error.message)
                inner = any(told.startswith((f"'{name}.", f"'{name}[]")) for name in values)
                if told.endswith(" is undefined") and (inner or told.split("'")[1] in nulls):
                    raise RowFault(
                        "null_value", f"{str(error.message).split(' is ')[0]} is null; handle it with default('', true)"
                    ) from None
                raise RowFault("template_error", f"prompt.{role}: a name or key is not there for this row") from None
            except (
                TemplateError,
                ArithmeticError,
                LookupError,
                TypeError,
                ValueError,
                AttributeError,
                RecursionError,
                MemoryError,
            ) as error:
                raise RowFault("template_error", f"prompt.{role}: {type(error).__name__} for this row") from None
            messages.append({"role": role, "content": text})
        return messages


def _join(pieces: Iterable[str]) -> str:
    """The text of a template. Raises TooMuchText once it is longer than any prompt."""
    whole, length = [], 0
    for piece in pieces:
        length += len(piece)
        check_size(length)
        whole.append(piece)
    return "".join(whole)


def _check_names_of(tree: nodes.Template, env: Sandbox, role: str) -> None:
    """Find unknown filters and tests where Jinja2 would find them with a row only: behind an `if`. Raises BadJob."""
    for kind, word, known in ((nodes.Filter, "filter", env.filters), (nodes.Test, "test", env.tests)):
        for node in tree.find_all(kind):
            if node.name not in known:
                near = difflib.get_close_matches(node.name, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise BadJob(f"`prompt.{role}`, line {node.lineno}: No {word} named {node.name!r}{hint}")


def _hint(name: str, known: list[str]) -> str:
    """Say which names there are, the nearest first, with a word on case."""
    same = next((k for k in known if k.casefold() == name.casefold()), None)
    if same:
        return f"but the column is written {same!r}"
    near = difflib.get_close_matches(name, known, 1)
    shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    return (f"did you mean {near[0]!r}? " if near else "which is no column; ") + f"the columns are {shown}"
