"""Each line of a JSON lines file is one row, its keys are columns, and a refusal names the line of a fault."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parquill.tasks.errors import BadInput, RowFault
from parquill.tasks.prompts import json_kinds, text_stream
from parquill.tasks.prompts.cells import cells
from parquill.tasks.prompts.source import find_source, read_batches


def _write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def _rows(path: Path) -> list[dict[str, Any]]:
    source = find_source(str(path))
    found = [row for _, _, batch in read_batches(source) for row in batch.to_pylist()]
    assert len(found) == source.rows
    return found


def _refusal(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        find_source(str(path))
    message = str(caught.value)
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def test_types(tmp_path: Path) -> None:
    """Text stays text, objects and lists become structs and lists, and a missing key is null."""
    path = _write(
        tmp_path / "a.jsonl",
        {"id": 1, "day": "2024-01-02", "ok": True, "o": {"x": 1}, "l": [1, 2]},
        "   ",
        "",
        {"id": 2, "n": 0.5, "o": {"y": "z"}, "l": []},
        {"id": 3, "none": None, "e": {}, "le": [], "o": {"x": None}, "l": [None]},
    )
    source = find_source(str(path))
    assert {field.name: str(field.type) for field in source.schema} == {
        "id": "int64",
        "day": "string",
        "ok": "bool",
        "o": "struct<x: int64, y: string>",
        "l": "list<item: int64>",
        "n": "double",
        "none": "string",
        "e": "string",
        "le": "list<item: string>",
    }
    first, second, third = _rows(path)
    none = dict.fromkeys(["n", "none", "e", "le"])
    assert first == {"id": 1, "day": "2024-01-02", "ok": True, "o": {"x": 1, "y": None}, "l": [1, 2], **none}
    assert (second["o"], second["l"], second["day"]) == ({"x": None, "y": "z"}, [], None)
    assert (third["e"], third["le"], third["o"], third["l"]) == ("{}", [], {"x": None, "y": None}, [None])


def test_whole_numbers_keep_their_digits(tmp_path: Path) -> None:
    """Integers over 64 bits become decimals without passing through floating point, and longer ones are refused."""
    path = _write(tmp_path / "a.jsonl", {"n": 1}, {"n": 12345678901234567890}, {"n": -(10**38) + 1})
    assert [row["n"] for row in _rows(path)] == [Decimal(1), Decimal(12345678901234567890), Decimal(-(10**38) + 1)]
    path = _write(tmp_path / "b.jsonl", {"n": 2**63 - 1}, {"n": -(2**63) + 1})
    assert find_source(str(path)).schema.field("n").type == pa.int64()
    assert [row["n"] for row in _rows(path)] == [2**63 - 1, -(2**63) + 1]
    assert _refusal(_write(tmp_path / "c.jsonl", {"n": 10**38})).startswith(", line 1: 'n' has a number of more than")


def test_whole_and_fractional_numbers(tmp_path: Path) -> None:
    """A key with integers and fractions is floating point with a note, and a number that would change is refused."""
    path = _write(tmp_path / "a.jsonl", {"n": 1, "o": [{"m": 2}]}, {"n": 1.5, "o": [{"m": 2.5}]})
    assert [row["n"] for row in _rows(path)] == [1.0, 1.5]
    assert [note.partition(" has whole")[0] for note in find_source(str(path)).notes] == ["'n'", "'o[].m'"]
    for lines in ([{"n": 2**53 + 1}, {"n": 1.5}], [{"n": 1.5}, {"n": 2**53 + 1}]):
        message = _refusal(_write(tmp_path / "b.jsonl", *lines))
        assert message.startswith(", line 2: 'n' has fractional numbers and a whole number over 2^53 (line 1)")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([{"a": 1}, {}, {"a": "x"}], ", line 3: 'a' is text here, but a number in line 1; write it the same way"),
        ([{"a": True}, {"a": 0}], ", line 2: 'a' is a number here, but true or false in line 1"),
        ([{"a": {"b": "x"}}, {"a": {"b": [1]}}], ", line 2: 'a.b' is a list here, but text in line 1"),
        ([{"a": [{"b": 1}]}, {"a": [{"b": "x"}]}], ", line 2: 'a[].b' is text here, but a number in line 1"),
        ([{"a": [1, "x"]}], ", line 1: 'a[]' is text here, but a number in line 1"),
        (['{"a": 1}', '{"a": 1, "a": 2}'], ", line 2: the key 'a' is there twice in one object"),
        (['{"a": {"b": 1, "b": 2}}'], ", line 1: the key 'b' is there twice in one object"),
        (['{"a": 1}', '{"a": CANARY'], ", line 2 is not JSON (Expecting value in column 7); each line is one"),
        (["", "{", '"a": 1', "}"], ", line 2 is not JSON"),
        (['[{"a": 1}]'], ", line 1 is a JSON list; each line is one object, whose keys are columns"),
        (['"a"'], ", line 1 is a JSON value; each line is one object"),
        (['{"a": NaN}'], ", line 1: NaN is not JSON; write null"),
        (['{"a": 1e999}'], ", line 1: a number is too large for floating point; write it as text"),
        (['{"a": ' + "9" * 5_000 + "}"], ", line 1 is nested too deeply or has a number that is too long"),
        (['{"a": ' + "[" * 200_000 + "]" * 200_000 + "}"], ", line 1 is nested too deeply"),
        (['{"a": ' + "[" * 60 + "]" * 60 + "}"], ", line 1: a value is nested deeper than 50 levels"),
    ],
)
@pytest.mark.parametrize("block", [1 << 20, 8])
def test_a_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[Any], expected: str, block: int
) -> None:
    """A damaged line or a key of two types stops the job before any row is counted.

    The refusal has lines, not values.
    """
    monkeypatch.setattr(text_stream, "BLOCK_BYTES", block)
    message = _refusal(_write(tmp_path / "a.jsonl", *lines))
    assert message.startswith(expected)
    assert "CANARY" not in message


def test_bytes_that_are_not_utf_8(tmp_path: Path) -> None:
    """A file with bytes that are not UTF-8 is refused with the line."""
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": "\xe4"}\n')
    assert _refusal(tmp_path / "a.jsonl").startswith(", line 2: the text is not UTF-8")


@pytest.mark.parametrize("wrap", [lambda text: text, lambda text: [{"content": text}]], ids=["text", "nested"])
def test_a_lone_surrogate_is_a_fault_of_its_row(tmp_path: Path, wrap: Any) -> None:
    """Half a surrogate pair rejects only its own row, as in Parquet, and a whole pair is one character."""
    path = _write(tmp_path / "a.jsonl", {"a": wrap("x")}, {"a": wrap("\ud800")}, {"a": wrap("\U0001f600")})
    ((_, _, batch),) = read_batches(find_source(str(path)))
    first, bad, last = cells(batch["a"])
    assert (first, last) == (wrap("x"), wrap("\U0001f600"))
    assert isinstance(bad, RowFault)
    assert bad.code == "invalid_utf8"


def test_too_many_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects with free keys are refused with advice before each key becomes a field of every row."""
    monkeypatch.setattr(json_kinds, "MAX_KEYS", 20)
    path = _write(tmp_path / "a.jsonl", *[{"o": {f"key {n}": 1}} for n in range(30)])
    assert ", line 20: the objects have more than 20 different keys" in _refusal(path)


_VALUES = st.recursive(
    st.none() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=8,
)


def _filled(value: Any, kind: pa.DataType) -> Any:
    """Return a value as its column holds it: missing keys are null."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        return {field.name: _filled(value.get(field.name), field.type) for field in kind}
    if pa.types.is_list(kind):
        return [_filled(each, kind.value_type) for each in value]
    return "{}" if value == {} else value


@given(values=st.lists(_VALUES, max_size=5), block=st.integers(1, 60))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_values_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[Any], block: int) -> None:
    """Each row has the values of its object, or a key of two types is refused; no other error is possible."""
    monkeypatch.setattr(text_stream, "BLOCK_BYTES", block)
    path = _write(tmp_path / "a.jsonl", *[{"k": 1, "v": value} for value in values], {"k": 2, "v": None})
    try:
        source = find_source(str(path))
    except BadInput as error:
        assert "here, but" in str(error)  # noqa: PT017 - it may or may not be raised
        return
    kind = source.schema.field("v").type
    assert [row["v"] for row in _rows(path)] == [*(_filled(value, kind) for value in values), None]
