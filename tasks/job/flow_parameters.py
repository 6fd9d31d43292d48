"""Validate the parameters of a flow by the types of its signature.

Prefect could do so before the flow begins, but then a bad job ends as Failed, under a name that Prefect chose, with
several lines that show the values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from parquill.tasks.errors import BadJob
from parquill.tasks.job.settings import Job
from parquill.tasks.job.validation import explain


class Arguments:
    """The arguments that a function takes; `signature` is that of the function, with its type names resolved."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.signature = inspect.signature(function, eval_str=True)
        self._types = {
            name: TypeAdapter[Any](parameter.annotation) for name, parameter in self.signature.parameters.items()
        }

    def validate(self, given: inspect.BoundArguments) -> None:
        """Replace the given values by validated ones. Raises BadJob with one sentence per fault, without the values."""
        faults: list[str] = []
        for name, value in given.arguments.items():
            kind = self._types[name]
            try:
                given.arguments[name] = kind.validate_python(value)
            except ValidationError as error:
                # name the settings of a job as in a job file
                is_job = self.signature.parameters[name].annotation is Job
                faults += explain(error, None if is_job else name)
        if faults:
            raise BadJob("; ".join(faults))
