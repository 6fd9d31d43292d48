"""What all groups of settings share: they are frozen and closed, and their text can be shown and written as UTF-8."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


def _no_bool(value: Any) -> Any:
    # bool is an int in Python: `max_at_once: yes` must not become 1
    # promise: input: a boolean is not accepted as a number
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")  # noqa: TRY004 - pydantic reads ValueError
    return value


def refuse_surrogates(value: Any) -> Any:
    """Raise ValueError for a lone surrogate anywhere in settings: UTF-8 cannot hold it, but JSON can escape it."""
    try:
        _look_for_surrogates(value)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    return value


def _look_for_surrogates(value: Any) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("holds half of a character (a lone surrogate)") from None
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            _look_for_surrogates(name)
            _look_for_surrogates(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _look_for_surrogates(inner)


def _one_line(value: str) -> str:
    if any(unicodedata.category(character) in {"Cc", "Zl", "Zp"} for character in value):
        # promise: input: a name with a line break or control character is refused
        raise ValueError("holds a line break or another control character")
    return value


Number = BeforeValidator(_no_bool)
# text that is shown in tables, in names of runs and in the ledger of all jobs
OneLine = AfterValidator(_one_line)


class Settings(BaseModel):
    """Frozen, keyword-only, and closed: an unknown name is an error."""

    # promise: input: an unknown setting is refused
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
