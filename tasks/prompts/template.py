"""Prompt templates: Jinja2, sandboxed, strict, compiled once. Values are data and are never parsed as templates.

A template names a column, `{{ text }}`, or looks it up if its name is not a word, `{{ row["product title"] }}`. In
both cases, the columns that a template needs are known before the first row.
"""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from jinja2 import (
    StrictUndefined,
    Template,
    TemplateError,
    TemplateSyntaxError,
    UndefinedError,
    meta,
    nodes,
)
from jinja2.visitor import NodeTransformer

from parquill.tasks.errors import BadJob, RowFault
from parquill.tasks.prompts import template_json as json_text
from parquill.tasks.prompts.template_nulls import (
    FOR_NULLS,
    NotPrintable,
    Null,
    NullValue,
    finalize,
    mark_nulls,
    null_of,
)
from parquill.tasks.prompts.template_sandbox import Sandbox, TooMuchText, check_size

ROW = "row"
# {text}, { text }, ${text}, {text!r}, {text:>5}, %(text)s
_BRACES = re.compile(r"\$?\{([^{}!:\n\"']{1,80})(?:![rsa])?(?::[^{}\n]{0,20})?\}|%\(([^()\n\"']{1,80})\)[sdr]")
OWN_NAMES = frozenset({"self", "vars"})


def _environment() -> Sandbox:
    # promise: S4 templates render in a sandbox
    env = Sandbox(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True, finalize=finalize)
    env.policies["json.dumps_function"] = json_text.dumps
    env.policies["json.dumps_kwargs"] = {}
    env.tests["none"] = lambda value: value is None or isinstance(value, Null)
    env.tests["defined"] = lambda value: isinstance(value, Null) or not isinstance(value, StrictUndefined)
    env.tests["undefined"] = lambda value: isinstance(value, StrictUndefined) and not isinstance(value, Null)
    env.globals.pop("lipsum", None)
    return env


def column_template(name: str) -> str:
    """Return the template that shows a column of any name."""
    return f"{{{{ {column_expression(name)} }}}}"


def column_expression(name: str) -> str:
    """Return the expression for a column of any name."""
    plain = f"{{{{ {name} }}}}"
    try:
        (shown,) = _environment().parse(plain).body
        if isinstance(shown, nodes.Output) and name not in OWN_NAMES:
            (only,) = shown.nodes
            if isinstance(only, nodes.Name) and only.name == name:
                return name
    except (TemplateSyntaxError, ValueError, RecursionError):  # not a word, or more than one
        pass
    return f"{ROW}[{json.dumps(name, ensure_ascii=False)}]"


class _Lookups(NodeTransformer):
    """Turns `row["a column"]` and `row.column` into names, so that the needed columns are known as for other names.

    A column `row` keeps its own `fields` (None if they are unknown: then only columns whose names are not words are
    looked up).
    """

    def __init__(self, known: list[str], fields: Collection[str] | None, *, is_own: bool) -> None:
        self._known, self._fields, self._is_own = known, fields, is_own
        self.columns: dict[str, str] = {}

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802 - the visitor's name
        """Replace a lookup. Raises BadJob for a name that is not a column."""
        self.generic_visit(node)
        return self._column(node, node.arg.value) if isinstance(node.arg, nodes.Const) else node

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Node:  # noqa: N802
        """Replace a lookup. Raises BadJob for a name that is not a column."""
        self.generic_visit(node)
        return self._column(node, node.attr)

    def visit_Name(self, node: nodes.Name) -> nodes.Node:  # noqa: N802
        """Keep names apart that Python treats as one: it reads letters such as ﬁ as f and i."""
        if node.ctx == "load" and node.name in self._known and unicodedata.normalize("NFKC", node.name) != node.name:
            return self._name(node.name, node.lineno)
        return node

    def _column(self, node: nodes.Getitem | nodes.Getattr, name: Any) -> nodes.Node:
        if self._is_own or not (isinstance(node.node, nodes.Name) and node.node.name == ROW):
            return node
        if ROW in self._known and (name not in self._known or self._is_of_the_column(str(name))):
            return node
        if name not in self._known:
            raise BadJob(f"looks up {name!r} in `row`, {_hint(str(name), self._known)}")
        return self._name(name, node.lineno)

    def _is_of_the_column(self, name: str) -> bool:
        return name.isidentifier() and (self._fields is None or name in self._fields)

    def _name(self, column: str, line: int) -> nodes.Name:
        alias = f"{self._known.index(column)}_of_row"  # no name in a template begins with a digit
        self.columns[alias] = column
        return nodes.Name(alias, "load", lineno=line)


def _look_up(tree: nodes.Template, env: Sandbox, known: list[str], fields: Collection[str] | None) -> dict[str, str]:
    """Let a template look up columns in `row`, unless it sets a variable of that name. Returns names and columns.

    Raises BadJob.
    """
    is_own = any(node.name == ROW and node.ctx != "load" for node in tree.find_all(nodes.Name))
    lookups = _Lookups(known, fields, is_own=is_own)
    lookups.visit(tree)
    tree.set_environment(env)
    return lookups.columns


class Templates:
    """The compiled templates of a job.

    `columns` are the names that the templates use, in the order of `names`; `render` takes their values.
    """

    def __init__(
        self,
        system: str | None,
        user: str,
        names: Iterable[str],
        variables: Mapping[str, Any] | None,
        fields_of_row: Collection[str] | None = None,
    ) -> None:
        """Compile. Raises BadJob for a syntax error or a name that is not a column, nor from `for_each` or `vars`.

        `fields_of_row` are the fields of a column named `row`, if they are known.
        """
        env = _environment()
        known = list(names)
        # if a job sets `vars`, the name means these; a column of this name is `row["vars"]`
        # promise: input: a job's `vars` take precedence over a column of that name
        given = {"vars"} if variables is not None else set()
        for name in known:
            env.globals.pop(name, None)  # a column named `range` or `dict` takes precedence
        used: set[str] = set()
        self._parts: list[tuple[str, Template]] = []
        trees: dict[str, nodes.Template] = {}
        self._lookups: dict[str, str] = {}
        for role, text in (("system", system), ("user", user)):
            if text is None:
                continue
            tree = self._compile(env, role, text, known, fields_of_row)
            trees[role] = tree
            # promise: input: a template with an unknown filter is refused at load time
            _check_names_of(tree, env, role)
            wanted = meta.find_undeclared_variables(tree) - set(env.globals) - set(self._lookups) - given
            reserved = (OWN_NAMES - given) & {node.name for node in tree.find_all(nodes.Name)} & set(known)
            for name in reserved:
                raise BadJob(f"`prompt.{role}`: {name!r} is a reserved name in templates; rename the column")
            for name in sorted(wanted - set(known)):
                raise BadJob(f"`prompt.{role}` uses {name!r}, {_hint(name, known)}")
            used |= wanted
        used |= set(self._lookups.values())
        self.columns = [name for name in known if name in used]
        # promise: input: a column in the braces of another template language is refused
        if not self.columns:
            _refuse_other_braces(trees, known)
        self._vars = dict(variables or {})

    def _compile(
        self, env: Sandbox, role: str, text: str, known: list[str], fields_of_row: Collection[str] | None
    ) -> nodes.Template:
        """Compile one template, and keep it and the columns that it looks up. Raises BadJob."""
        try:
            tree = env.parse(text)
            self._lookups |= _look_up(tree, env, known, fields_of_row)
            self._parts.append((role, env.from_string(tree)))
        except BadJob as error:
            raise BadJob(f"`prompt.{role}` {error}") from None
        except TemplateSyntaxError as error:
            raise BadJob(f"`prompt.{role}`, line {error.lineno}: {error.message}{_advise(text, known)}") from None
        except (RecursionError, MemoryError, SyntaxError):
            raise BadJob(f"`prompt.{role}` is nested too deeply") from None
        # Jinja computes constant expressions while it compiles, and `"a".b ~ "c"` raises whatever its parts raise
        # promise: input: a template with a constant expression that fails is refused
        except Exception as error:  # noqa: BLE001 - no cell is involved, only the template
            reason = str(error) if isinstance(error, TemplateError) else type(error).__name__
            raise BadJob(f"`prompt.{role}` has an expression that cannot be computed: {reason}") from None
        return tree

    def render(self, values: Mapping[str, Any]) -> list[dict[str, str]]:
        """Return the chat messages of one row. Raises RowFault."""
        context = {name: mark_nulls(value, name) for name, value in values.items()}
        context |= {alias: context[name] for alias, name in self._lookups.items()}
        context["vars"] = self._vars
        messages = []
        for role, template in self._parts:
            try:
                text = _join(template.generate(context))
            except NullValue:
                raise RowFault("null_value", f"a null reached prompt.{role}; {FOR_NULLS}") from None
            except NotPrintable as error:
                raise RowFault(
                    "template_error",
                    f"prompt.{role} shows a {error}; use | join(', '), | tojson or a field of it",
                ) from None
            except json_text.NotJson as error:
                raise RowFault(
                    "template_error",
                    f"prompt.{role} writes a value of type {error} with | tojson, which JSON cannot hold",
                ) from None
            except TooMuchText:
                raise RowFault("template_error", f"prompt.{role} makes more text than any prompt can hold") from None
            except UndefinedError as error:
                cause = null_of(str(error.message), values)
                if cause is not None:
                    raise RowFault("null_value", f"{cause} is null; {FOR_NULLS}") from None
                raise RowFault("template_error", f"prompt.{role}: a name or key is missing in this row") from None
            except (
                TemplateError,
                # promise: input: an error that a template raises rejects only its row
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


def _refuse_other_braces(trees: Mapping[str, nodes.Template], known: list[str]) -> None:
    """Refuse a prompt that names columns only in the form of other languages, such as {text}. Raises BadJob."""
    for role, tree in trees.items():
        for data in tree.find_all(nodes.TemplateData):
            for match in _BRACES.finditer(data.data):
                name = (match.group(1) or match.group(2)).strip()
                if name in known:
                    written = column_template(name)
                    raise BadJob(
                        f"`prompt.{role}` has {match.group()}, which is plain text: did you mean {written}? To send "
                        f'these characters themselves, write {{{{ "{match.group()}" }}}}'
                    )


def _join(pieces: Iterable[str]) -> str:
    """Return the text of a template. Raises TooMuchText once it is longer than any prompt."""
    whole, length = [], 0
    for piece in pieces:
        length += len(piece)
        # promise: input: the text that a template renders is bounded in size
        check_size(length)
        whole.append(piece)
    return "".join(whole)


def _check_names_of(tree: nodes.Template, env: Sandbox, role: str) -> None:
    """Find unknown filters and tests behind an `if`, which Jinja2 would find only with a row. Raises BadJob."""
    for kind, word, known in ((nodes.Filter, "filter", env.filters), (nodes.Test, "test", env.tests)):
        for node in tree.find_all(kind):
            if node.name not in known:
                near = difflib.get_close_matches(node.name, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise BadJob(f"`prompt.{role}`, line {node.lineno}: No {word} named {node.name!r}{hint}")


def _advise(text: str, known: list[str]) -> str:
    """Say how to write a column whose name is not a word, if the template holds one."""
    named = next((name for name in known if name and not name.isidentifier() and name in text), None)
    return f"; the column {named!r} is written {column_template(named)}" if named is not None else ""


def _hint(name: str, known: list[str]) -> str:
    """Say which columns exist, the closest name first, and whether only the case differs."""
    if name == ROW:
        return 'which takes the name of a column in quotes: row["..."]'
    same = next((k for k in known if k.casefold() == name.casefold()), None)
    if same:
        return f"but the column is written {same!r}"
    near = difflib.get_close_matches(name, known, 1)
    shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    return (f"did you mean {near[0]!r}? " if near else "which is not a column; ") + f"the columns are {shown}"
