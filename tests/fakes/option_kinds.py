"""How options are declared, read and changed: each field of a group has its reader and one line about it."""

from __future__ import annotations

from dataclasses import field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from .draws import OutputLaw
from .faults import Rule, read_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_Group = TypeVar("_Group")


class BadOptionError(ValueError):
    """An option is unknown or has an impossible value."""


def option(default: Any, read: Callable[[Any], Any], about: str) -> Any:
    """Declare an option."""
    return field(default=default, metadata={"read": read, "about": about})


def group(make: Callable[[], Any], about: str) -> Any:
    """Declare an option that is a group of options; what is given changes the group and does not replace it."""
    return field(default_factory=make, metadata={"about": about})


def changed(options: _Group, values: Any) -> _Group:
    """Return a group of options with some changed; an unknown name or an impossible value is a BadOptionError."""
    known = {each.name: each.metadata for each in fields(options)}  # type: ignore[arg-type]
    if not hasattr(values, "items"):
        raise BadOptionError(f"an object of options is wanted, not {values!r}")
    given: Mapping[str, Any] = values
    unknown = set(given) - set(known)
    if unknown:
        raise BadOptionError(f"unknown options {sorted(unknown)}; known are {sorted(known)}")
    read = {}
    for name, value in given.items():
        try:
            reader = known[name].get("read")
            read[name] = changed(getattr(options, name), value) if reader is None else reader(value)
        except BadOptionError as error:
            raise BadOptionError(f"{name}: {error}") from None
    return replace(options, **read)  # type: ignore[type-var]


def number(value: Any) -> float:
    """Read a number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise BadOptionError(f"a number of at least 0 is wanted, not {value!r}")
    return float(value)


def whole(value: Any) -> int:
    """Read a whole number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadOptionError(f"a whole number of at least 0 is wanted, not {value!r}")
    return value


def flag(value: Any) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise BadOptionError(f"true or false is wanted, not {value!r}")
    return value


def text(value: Any) -> str:
    """Read a text; a number becomes one."""
    if isinstance(value, bool | list | dict) or value is None:
        raise BadOptionError(f"a text is wanted, not {value!r}")
    return str(value)


def positive(value: Any) -> float:
    """Read a number above 0."""
    read = number(value)
    if read == 0:
        raise BadOptionError("a number above 0 is wanted")
    return read


def ratio(value: Any) -> float:
    """Read a number from 0 to 1."""
    read = number(value)
    if read > 1:
        raise BadOptionError(f"a number from 0 to 1 is wanted, not {value!r}")
    return read


def one_of(*choices: str) -> Callable[[Any], str]:
    """Return a reader of one of these words."""

    def read(value: Any) -> str:
        if value not in choices:
            raise BadOptionError(f"{' or '.join(choices)} is wanted, not {value!r}")
        return str(value)

    return read


def law(value: Any) -> str:
    """Read a law of output tokens."""
    given = text(value)
    try:
        OutputLaw.read(given)
    except ValueError as error:
        raise BadOptionError(str(error)) from None
    return given


PROMPT_LAWS = "estimate, fixed:N, tiktoken:ENCODING or scaled:RATIO:OVERHEAD:ENCODING"


def prompt_law(value: Any) -> str:
    """Read how prompt tokens are counted."""
    given = text(value)
    kind, _, rest = given.partition(":")
    if given == "estimate" or (kind == "fixed" and rest.isdigit()) or (kind == "tiktoken" and rest):
        return given
    parts = rest.split(":")
    if kind == "scaled" and len(parts) == 3 and all(part.replace(".", "", 1).isdigit() for part in parts[:2]):
        return given
    raise BadOptionError(f"{PROMPT_LAWS} is wanted, not {given!r}")


def names(value: Any) -> tuple[str, ...]:
    """Read a list of names."""
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise BadOptionError(f"a list of names is wanted, not {value!r}")
    return tuple(value)


def rules(value: Any) -> tuple[Rule, ...]:
    """Read the faults of requests."""
    return _rules(value, rows=False)


def row_rules(value: Any) -> tuple[Rule, ...]:
    """Read the faults of the rows of batches."""
    return _rules(value, rows=True)


def _rules(value: Any, *, rows: bool) -> tuple[Rule, ...]:
    try:
        return read_rules(value, rows=rows)
    except (TypeError, ValueError) as error:
        raise BadOptionError(str(error)) from None


def or_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a reader that also takes null."""
    return lambda value: None if value is None else read(value)
