"""Looks at an input for `parquill init`: which column has the texts, and whether its ids are unique."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from parquill.flows.cli.starter import InputPrompt, read_starter, write_starter
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.prompts.source import Source, find_source, read_batches
from parquill.tasks.prompts.template import column_template
from parquill.tasks.results.escaping import one_line

# What columns of texts are called, the likeliest first.
_TEXT_NAMES = ("prompt", "text", "content", "body", "description", "review", "message", "comment", "question", "title")
_ID = re.compile(r"(?:^|_)(?:id|uuid|key|url|path|file|date|lang|language)$", re.IGNORECASE)
# Ids of a larger input are not compared: `run` compares all of them.
MAX_IDS = 1_000_000
MAX_COLUMNS, MAX_NAME = 12, 40  # in the comment
types = pa.types


def describe_input(location: str) -> InputPrompt:
    """Read the columns of an input, and its ids. Raises BadInput, BadJob."""
    resolved, _ = resolve_job(read_starter(write_starter(location=location)), None, None, ())
    source = find_source(resolved.input)
    names = source.schema.names
    shown = [one_line(name)[:MAX_NAME] for name in names[:MAX_COLUMNS]]
    if len(names) > MAX_COLUMNS:
        shown.append(f"and {len(names) - MAX_COLUMNS} more")
    return InputPrompt(column_template(_text_column(source.schema)), tuple(shown), _id_column(source))


def _text_column(schema: pa.Schema) -> str:
    texts: list[str] = [field.name for field in schema if _is_text(field.type)]
    for wanted in _TEXT_NAMES:
        for name in texts:
            if name.casefold() == wanted:
                return name
    found: list[str] = [name for name in texts if not _ID.search(name)] or texts or schema.names
    return found[0]


def _is_text(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _id_column(source: Source) -> str | None:
    """Return the column `id` if it has a different value in every row, as far as they are compared."""
    for field in source.schema:
        if field.name.casefold() == "id" and (types.is_integer(field.type) or _is_text(field.type)):
            ids = [batch.column(field.name) for _, _, batch in read_batches(source, MAX_IDS, [field.name])]
            column = pa.chunked_array(ids, field.type)
            if types.is_dictionary(field.type):
                column = column.cast(field.type.value_type)
            if len(column) and not column.null_count and pc.count_distinct(column).as_py() == len(column):
                return str(field.name)
    return None
