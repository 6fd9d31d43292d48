"""Holds an answer against the job's response_format.

Numbers are read as decimals: 0.07 is a multiple of 0.01, a whole number of twenty digits keeps all of them, and 1.0 is
an integer. What binary floating point made of them would match where the text does not, and the other way round.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import orjson
import pyarrow as pa
from jsonschema import SchemaError, ValidationError
from jsonschema.validators import extend, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from parquill.tasks.errors import BadJob
from parquill.tasks.job.parameters import refuse_unwritable
from parquill.tasks.job.response_format import schema_of
from parquill.tasks.llm.wrapping import NotJson, find_object
from parquill.tasks.storage.columns import check_references, fit, parsed_type

# Of one number: a double has 17 digits and exponents to 308; what is far beyond only costs time.
MOST_DIGITS, LARGEST_EXPONENT = 1_000, 400


class AnswerFormat:
    """A response_format, its JSON schema compiled once; `kind` is the Arrow type of its answers."""

    def __init__(self, response_format: dict[str, Any]) -> None:
        """`response_format` is in its one form. Raises BadJob for a schema that is none."""
        schema = schema_of(response_format)
        self._validator = None if schema is None else _compile(schema)
        found = parsed_type(response_format)
        assert found is not None  # noqa: S101 - a response_format has a type
        self.kind: pa.DataType = found

    def parse(self, text: str | None) -> Any:
        """The answer as JSON if it matches, shaped for `kind`; None for any other. What is around it is left out."""
        try:
            value = find_object(text or "", _read, self._is_valid)
            if not self._is_valid(value):
                return None
            return fit(value, self.kind)
        except (RecursionError, ArithmeticError, TypeError, ValueError):
            return None

    def _is_valid(self, value: Any) -> bool:
        if self._validator is None:
            return isinstance(value, dict)
        try:
            return bool(self._validator.is_valid(value))
        except (RecursionError, Unresolvable, ArithmeticError, TypeError, ValueError):
            return False


def _compile(schema: dict[str, Any]) -> Any:
    check_references(schema, schema)
    try:
        refuse_unwritable(schema)
        validator = validator_for(schema)
        validator.check_schema(schema)
        exact = _exact(schema)
    except SchemaError as error:
        raise BadJob(f"`response_format` is not a JSON schema: {error.message}") from None
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise BadJob("`response_format` is not a JSON schema") from None
    multiple = {name: _check_multiple for name in ("multipleOf", "divisibleBy") if name in validator.VALIDATORS}
    types = validator.TYPE_CHECKER.redefine_many({"integer": _is_integer, "number": _is_number})
    # an empty registry: a $ref to another host is never fetched
    return extend(validator, multiple, type_checker=types)(exact, registry=Registry())


def _exact(value: Any) -> Any:
    """A schema with its floats as the decimals that were written."""
    if isinstance(value, dict):
        return {name: _exact(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_exact(inner) for inner in value]
    return Decimal(repr(value)) if isinstance(value, float) else value


def _is_number(_: Any, value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def _is_integer(_: Any, value: Any) -> bool:
    return _is_number(_, value) and value == int(value)


def _check_multiple(_validator: Any, divisor: Any, value: Any, _schema: Any) -> Iterator[ValidationError]:
    if _is_number(None, value) and (Fraction(value) / Fraction(divisor)).denominator != 1:
        yield ValidationError("is not a multiple")


def _read(text: str) -> Any:
    """JSON as RFC 8259 has it, numbers as they are written. Raises NotJson."""
    try:
        value = json.loads(text, parse_float=_decimal, parse_int=_whole, parse_constant=_refuse)
        if "\\ud" in text or "\\uD" in text:  # half of a character
            orjson.dumps(value, default=str)
    except (ValueError, RecursionError, ArithmeticError, TypeError):
        raise NotJson from None
    return value


def _decimal(text: str) -> Decimal:
    number = Decimal(text) if len(text) <= MOST_DIGITS else None
    if number is None or not -LARGEST_EXPONENT <= number.adjusted() <= LARGEST_EXPONENT:
        raise NotJson
    return number


def _whole(text: str) -> int | Decimal:
    return int(text) if len(text) < 19 else _decimal(text)


def _refuse(_: str) -> Any:
    raise NotJson  # NaN, Infinity
