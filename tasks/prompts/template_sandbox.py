"""Jinja2's sandbox, in which no single step makes a text (or list, or number) of more than MAX_CHARACTERS.

The sandbox of Jinja2 only bounds `range`: `{{ "x" * 10**10 }}` takes the memory of the whole machine before the length
of the prompt can be checked. Text that loops put together is bounded in `template`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import TemplateRuntimeError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CHARACTERS = 1 << 26
_BITS_OF_A_CHARACTER = 8
_WIDE = re.compile(r"\d{8,}")  # in a format: a number that pads to more than that


class TooMuchText(TemplateRuntimeError):
    """A step of a template would make more text than any prompt can hold."""


class Sandbox(ImmutableSandboxedEnvironment):
    """A sandbox that raises TooMuchText if an operator, a filter or a method of a text would make too much."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters = {name: _bounded(name, filter_) for name, filter_ in self.filters.items()}

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an intercepted operator. Raises TooMuchText."""
        if operator == "*":
            size = max(_length(left) * _count(right), _length(right) * _count(left))
        elif operator == "**":
            size = _count(left).bit_length() * _count(right) // _BITS_OF_A_CHARACTER
        else:
            size = _size("format", left, right if isinstance(right, tuple) else (right,))
        check_size(size)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method. Raises TooMuchText."""
        method = getattr(obj, "__wrapped__", obj)  # Jinja2 wraps the `format` of a text
        check_size(_size(getattr(method, "__name__", ""), getattr(method, "__self__", None), (*args, *kwargs.values())))
        return super().call(context, obj, *args, **kwargs)


def _bounded(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    # some filters get the environment or the context first
    index = 1 if hasattr(filter_, "jinja_pass_arg") else 0

    @functools.wraps(filter_)  # keeps the mark of the argument that it wants
    def bounded(*args: Any, **kwargs: Any) -> Any:
        value = args[index] if len(args) > index else None
        check_size(_size(name, value, (*args[index + 1 :], *kwargs.values())))
        return filter_(*args, **kwargs)

    return bounded


def check_size(size: int) -> None:
    """Raise TooMuchText for more than MAX_CHARACTERS."""
    if size > MAX_CHARACTERS:
        raise TooMuchText


def _size(name: str, value: Any, arguments: Sequence[Any]) -> int:
    """Return an upper bound for the result of a filter or method; 0 if it makes nothing larger."""
    texts = [each for each in arguments if isinstance(each, str)]
    widest = max(map(_count, arguments), default=0)
    if name == "replace" and isinstance(value, str) and len(texts) > 1:
        return len(value) + value.count(texts[0]) * len(texts[1])
    if name == "join":  # the value is the list for the filter, the separator for the method
        items = max((_length(each) for each in (value, *arguments) if not isinstance(each, str)), default=0)
        return items * max((len(each) for each in (value, *texts) if isinstance(each, str)), default=0)
    if name in {"indent", "expandtabs"} and isinstance(value, str):
        steps = value.count("\n") + value.count("\t") + 1
        return len(value) + steps * max(widest, *map(len, texts), 0)
    if name in {"format", "format_map"} and isinstance(value, str) and _WIDE.search(value):
        return MAX_CHARACTERS + 1
    return widest if name in {"center", "ljust", "rjust", "zfill", "format", "batch", "slice", "tojson"} else 0


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple | range) else 0


def _count(value: Any) -> int:
    return abs(value) if isinstance(value, int) else 0
