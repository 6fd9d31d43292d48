"""A response_format can be written in several forms, and is kept in one."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import orjson
import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.job.resolved import ResolvedJob, resolve
from parquill.tasks.job.response_format import ResponseFormat, read_format, schema_of
from parquill.tasks.llm.protocol import APIS
from parquill.tasks.prompts.request import KeyMaker
from tests.tools.small_jobs import resolved_job

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
LOOSE = {"type": "json_schema", "name": "answer", "strict": False, "schema": SCHEMA}
JSON_MODE = {"type": "json_object"}


def _job(response_format: Any, api: str = "chat") -> ResolvedJob:
    least = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "gpt-4o-mini"}
    return resolved_job({**least, "max_output_tokens": 7, "endpoint": {"api": api}, "response_format": response_format})


def _resolved(response_format: Any) -> Any:
    return resolve(_job(response_format), date(2026, 11, 1)).response_format


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, None),
        (SCHEMA, SCHEMA),
        ({"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}, SCHEMA),
        ({"type": "json_schema", "name": "answer", "strict": True, "schema": SCHEMA}, SCHEMA),
        ({"type": "json_schema", "strict": True, "schema": SCHEMA}, SCHEMA),
        ({"type": "json_schema", "schema": SCHEMA}, LOOSE),
        ({"type": "json_schema", "strict": False, "schema": SCHEMA}, LOOSE),
        ({"type": "json_schema", "strict": None, "schema": SCHEMA}, LOOSE),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, LOOSE),
        (LOOSE, LOOSE),
        (
            {
                "type": "json_schema",
                "json_schema": {"name": "x-1", "description": "d", "schema": SCHEMA, "strict": True},
            },
            {"type": "json_schema", "name": "x-1", "description": "d", "strict": True, "schema": SCHEMA},
        ),
        (JSON_MODE, JSON_MODE),
        ({"type": ["object", "null"]}, {"type": ["object", "null"]}),
    ],
    ids=str,
)
def test_one_form_of_each_is_kept(given: Any, kept: Any) -> None:
    """The wrapper of either OpenAI API is accepted.

    Equal requests are kept in one form, and that form stays the same when it is read again.
    """
    assert _job(given).response_format == kept
    assert _job(kept).response_format == kept


def test_two_formats_have_two_keys() -> None:
    """Formats that are sent differently have different keys.

    A wrapper around a plain schema has the key of the schema.
    """
    formats = [None, SCHEMA, LOOSE, JSON_MODE, {**LOOSE, "strict": True, "name": "x"}, {**LOOSE, "description": "d"}]
    keys = {KeyMaker(_job(found)).key([{"role": "user", "content": "x"}], None, ["a", "0"]) for found in formats}
    assert len(keys) == len(formats)
    wrapped = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
    assert KeyMaker(_job(wrapped)).key([], None, []) == KeyMaker(_job(SCHEMA)).key([], None, [])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"type": "text"}, "leave it out"),
        ({"type": "json_object", "schema": SCHEMA}, "unknown member 'schema'"),
        ({"type": "json_schema"}, "has no `schema`"),
        ({"type": "json_schema", "schema": {}}, "has no `schema`"),
        ({"type": "json_schema", "schema": 5}, "has no `schema`"),
        ({"type": "json_schema", "json_schema": "x"}, "must be a mapping"),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}, "strict": True}, "unknown member 'strict'"),
        ({"type": "json_schema", "schema": SCHEMA, "srict": True}, "unknown member 'srict'; it can have desc"),
        ({"type": "json_schema", "schema": SCHEMA, "name": "two words"}, "letters, digits"),
        ({"type": "json_schema", "schema": SCHEMA, "name": "x" * 65}, "letters, digits"),
        ({"type": "json_schema", "schema": SCHEMA, "strict": "yes"}, "must be true or false"),
        ({"type": "json_schema", "schema": SCHEMA, "description": 5}, "must be text"),
    ],
    ids=str,
)
def test_a_wrapper_with_a_mistake_is_refused(given: Any, expected: str) -> None:
    """A wrapper with an unknown or wrong member is refused by that member, before anything is read."""
    with pytest.raises(BadJob, match=expected) as caught:
        _job(given)
    assert "response_format" in str(caught.value)


def test_files_hold_a_schema_or_a_wrapper(tmp_path: Path) -> None:
    """A file can hold a schema or a wrapper, and a wrapper can name the file of its schema."""
    plain, wrapper, bad = tmp_path / "schema.json", tmp_path / "format.yaml", tmp_path / "bad.json"
    plain.write_bytes(orjson.dumps(SCHEMA))
    wrapper.write_text(f"type: json_schema\nschema: {plain}\nstrict: false\n")
    bad.write_text('{"type": "json_schema", "strict": false}')
    assert _resolved(str(plain)) == SCHEMA
    assert _resolved(str(wrapper)) == LOOSE
    assert _resolved({"type": "json_schema", "schema": str(plain), "strict": True}) == SCHEMA
    assert _resolved({"type": "json_schema", "schema": str(plain)}) == LOOSE
    assert _resolved(JSON_MODE) == JSON_MODE
    assert _resolved(None) is None
    with pytest.raises(BadJob, match="`response_format`: has no `schema`"):
        _resolved(str(bad))
    with pytest.raises(BadJob, match=r"cannot read `response_format\.schema`"):
        _resolved({"type": "json_schema", "schema": str(tmp_path / "none.json")})


def test_what_is_asked_for() -> None:
    """The kept form holds the schema, the name and the strictness that an answer must follow."""
    assert read_format(None) is None
    assert read_format(SCHEMA) == ResponseFormat(SCHEMA)
    assert read_format(LOOSE) == ResponseFormat(SCHEMA, "answer", False)
    assert read_format(JSON_MODE) == ResponseFormat(None)
    assert [schema_of(found) for found in (None, SCHEMA, LOOSE, JSON_MODE)] == [None, SCHEMA, SCHEMA, None]


@pytest.mark.parametrize("strict", [True, False])
def test_a_wrapper_is_sent_as_given(*, strict: bool) -> None:
    """The name, the description and the strictness of a wrapper are sent under the names of each API."""
    given = {"type": "json_schema", "name": "x", "description": "d", "schema": SCHEMA, "strict": strict}
    expected = {"name": "x", "description": "d", "schema": SCHEMA, "strict": strict}
    chat = orjson.loads(APIS["chat"](_job(given)).body("[]", None))
    assert chat["response_format"] == {"type": "json_schema", "json_schema": expected}
    responses = orjson.loads(APIS["responses"](_job(given, "responses")).body("[]", None))
    assert responses["text"] == {"format": {"type": "json_schema", **expected}}


def test_json_mode_is_sent() -> None:
    """JSON mode is sent without a schema."""
    chat = orjson.loads(APIS["chat"](_job(JSON_MODE)).body("[]", None))
    assert chat["response_format"] == JSON_MODE
    responses = orjson.loads(APIS["responses"](_job(JSON_MODE, "responses")).body("[]", None))
    assert responses["text"] == {"format": JSON_MODE}
