"""Checks an answer against the job's response_format.

Numbers are read as decimals: 0.07 is a multiple of 0.01, a whole number of twenty digits keeps all of them, and 1.0 is
an integer. Binary floating point would accept texts that do not match and refuse texts that do.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
from referencing.exceptions import Unresolvable

from parquill.tasks.job.answer_schema import compile_schema
from parquill.tasks.job.answer_type import parsed_type, shape_value
from parquill.tasks.job.response_format import schema_of
from parquill.tasks.llm.wrapping import NotJson, find_object

# Of one number: a double has 17 digits and exponents up to 308; numbers far beyond that only cost time.
MAX_DIGITS, MAX_EXPONENT = 1_000, 400


class AnswerFormat:
    """A response_format, its JSON schema compiled once; `kind` is the Arrow type of its answers."""

    def __init__(self, response_format: dict[str, Any]) -> None:
        """`response_format` is in its normal form. Raises BadJob for an invalid schema."""
        schema = schema_of(response_format)
        self._validator = None if schema is None else compile_schema(schema)
        found = parsed_type(response_format)
        assert found is not None  # noqa: S101 - a response_format has a type
        self.kind: pa.DataType = found

    def parse(self, text: str | None) -> Any:
        """Return the answer as JSON, shaped for `kind`; None if it does not match. Text around the JSON is dropped."""
        try:
            value = find_object(text or "", _read, self._is_valid)
            if not self._is_valid(value):
                return None
            return shape_value(value, self.kind)
        except (RecursionError, ArithmeticError, TypeError, ValueError):
            return None

    def _is_valid(self, value: Any) -> bool:
        if self._validator is None:
            return isinstance(value, dict)
        try:
            return bool(self._validator.is_valid(value))
        except (RecursionError, Unresolvable, ArithmeticError, TypeError, ValueError):
            return False


def _read(text: str) -> Any:
    """Read JSON by RFC 8259, with numbers as they are written. Raises NotJson."""
    try:
        # promise: answers: numbers are validated as exact decimals
        # promise: answers: NaN is not accepted as JSON
        value = json.loads(text, parse_float=_decimal, parse_int=_whole, parse_constant=_refuse)
        if "\\ud" in text or "\\uD" in text:  # half of a character
            orjson.dumps(value, default=str)
    except (ValueError, RecursionError, ArithmeticError, TypeError):
        raise NotJson from None
    return value


def _decimal(text: str) -> Decimal:
    number = Decimal(text) if len(text) <= MAX_DIGITS else None
    if number is None or not -MAX_EXPONENT <= number.adjusted() <= MAX_EXPONENT:
        raise NotJson
    return number


def _whole(text: str) -> int | Decimal:
    return int(text) if len(text) < 19 else _decimal(text)


def _refuse(_: str) -> Any:
    raise NotJson  # NaN, Infinity
