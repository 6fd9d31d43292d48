"""What a flow is given, validated by the types of its signature.

Prefect would do so before the flow begins; but then a bad job is plainly Failed, under a name of Prefect's own, with
several lines in which the values stand.
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
    """The arguments that a function takes; `signature` is its own, with types instead of their names."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.signature = inspect.signature(function, eval_str=True)
        self._types = {
            name: TypeAdapter[Any](parameter.annotation) for name, parameter in self.signature.parameters.items()
        }

    def validate(self, given: inspect.BoundArguments) -> None:
        """Put true values into the place of those given. Raises BadJob, in one sentence a fault, without the values."""
        faults: list[str] = []
        for name, value in given.arguments.items():
            kind = self._types[name]
            try:
                given.arguments[name] = kind.validate_python(value)
            except ValidationError as error:
                # the settings of a job have the names that they have in a job file
                is_job = self.signature.parameters[name].annotation is Job
                faults += explain(error, None if is_job else name)
        if faults:
            raise BadJob("; ".join(faults))
