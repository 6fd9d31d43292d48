"""Holds an answer against the job's response_format."""

from __future__ import annotations

from typing import Any

import orjson
import pyarrow as pa
from jsonschema import SchemaError, ValidationError
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from parquill.tasks.disk.schemas import check_references, fit, parsed_type
from parquill.tasks.errors import BadJob
from parquill.tasks.parameters import refuse_unwritable


class AnswerFormat:
    """A JSON schema, compiled once; `kind` is the Arrow struct of its answers."""

    def __init__(self, schema: dict[str, Any]) -> None:
        """Raises BadJob for a schema that is none."""
        check_references(schema, schema)
        try:
            refuse_unwritable(schema)
            validator = validator_for(schema)
            validator.check_schema(schema)
        except SchemaError as error:
            raise BadJob(f"`response_format` is not a JSON schema: {error.message}") from None
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise BadJob("`response_format` is not a JSON schema") from None
        # an empty registry: a $ref to another host is never fetched
        self._validator = validator(schema, registry=Registry())
        found = parsed_type(schema)
        assert found is not None  # noqa: S101 - a schema has a type
        self.kind: pa.DataType = found

    def parse(self, text: str | None) -> Any:
        """The answer as JSON if it matches, else None."""
        try:
            value = orjson.loads(text or "")
            self._validator.validate(value)
            fit(value, self.kind)
        except (
            orjson.JSONDecodeError,
            ValidationError,
            RecursionError,
            Unresolvable,
            OverflowError,
            TypeError,
            ValueError,
        ):
            return None
        return value
