"""The checks of `parquill doctor`: each is ok, warns, or says what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from parquill.tasks.errors import ParquillError


class Hint(str):
    """The text of a check that warns but does not fail."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. A check that is ok may still warn."""

    name: str
    ok: bool
    message: str
    warns: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def check(name: str, look_at: Callable[[], str]) -> Check:
    """Return what a look finds; a ParquillError is a failure."""
    try:
        answer = look_at()
        return Check(name, True, str(answer), isinstance(answer, Hint))
    except ParquillError as error:
        return Check(name, False, str(error))
