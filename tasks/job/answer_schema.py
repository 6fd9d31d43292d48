"""The JSON schema of a job's `response_format`, checked and compiled once.

Numbers are compared as decimals: 0.07 is a multiple of 0.01, a whole number of twenty digits keeps all of them, and 1.0
is an integer. Binary floating point would accept some values that the schema refuses, and refuse some that it accepts.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

from jsonschema import SchemaError, ValidationError
from jsonschema.validators import extend, validator_for
from referencing import Registry

from parquill.tasks.errors import BadJob
from parquill.tasks.job.answer_type import check_references, parsed_type
from parquill.tasks.job.parameters import refuse_unwritable
from parquill.tasks.job.response_format import schema_of


def check_format(response_format: dict[str, Any]) -> None:
    """Refuse a normalized response_format that no answer could be validated against. Raises BadJob."""
    schema = schema_of(response_format)
    if schema is not None:
        compile_schema(schema)
    parsed_type(response_format)


def compile_schema(schema: dict[str, Any]) -> Any:
    """Compile a jsonschema validator for answers whose numbers are decimals. Raises BadJob if `schema` is invalid."""
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
    # an empty registry, so that a $ref to another host is never fetched
    return extend(validator, multiple, type_checker=types)(exact, registry=Registry())


def _exact(value: Any) -> Any:
    """Return a schema with its floats as the decimals that were written."""
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
