"""When a model answers no request any more: `data/shutdowns.toml`, or the day that the service itself gives."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Any

from parquill.data import FOLDER
from parquill.tasks.job.providers import provider_of

_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The day from which a model answers no request, and what its service recommends instead, if it says."""

    model: str
    day: date
    instead: str | None
    source: str

    def is_past(self, today: date) -> bool:
        """Whether the model is gone already."""
        return self.day <= today

    def sentence(self, today: date) -> str:
        """What to say of it today."""
        advice = f"; change `model` to {self.instead}" if self.instead else "; change `model`"
        if self.is_past(today):
            return f"the model {self.model} was shut down on {self.day} ({self.source}){advice}"
        left = (self.day - today).days
        days = "1 day" if left == 1 else f"{left:,} days"
        return f"the model {self.model} shuts down on {self.day}, in {days} ({self.source}){advice}"


def find_shutdown(model: str, base_url: str | None) -> Shutdown | None:
    """The known shutdown of a model at an address; None where the table has none for the seller of the address."""
    seller = provider_of(base_url)
    if seller is None:
        return None
    known = _known()
    for name in _names(model):
        if (entry := known.get((seller.id, name))) is not None:
            return Shutdown(model, entry["day"], entry.get("instead"), entry["source"])
    return None


def listed_shutdown(model: str, value: Any) -> Shutdown | None:
    """The shutdown that a service's list of models gives for a model, as YYYY-MM-DD; None for anything else."""
    try:
        day = date.fromisoformat(value[:10]) if isinstance(value, str) else None
    except ValueError:
        return None
    return None if day is None else Shutdown(model, day, None, "the service's list of models")


def _names(model: str) -> list[str]:
    """The names under which the table may have a model: its own, without a date, and what a fine-tuned one is made of.

    >>> _names("ft:gpt-4o-mini-2024-07-18:shop::abc")
    ['ft:gpt-4o-mini-2024-07-18:shop::abc', 'gpt-4o-mini-2024-07-18', 'gpt-4o-mini']
    """
    names = [model.removeprefix("models/")]
    if model.startswith("ft:"):
        names.append(model.split(":")[1])
    if _SNAPSHOT.search(names[-1]):
        names.append(_SNAPSHOT.sub("", names[-1]))
    return names


@cache
def _known() -> dict[tuple[str, str], dict[str, Any]]:
    document = tomllib.loads((FOLDER / "shutdowns.toml").read_text(encoding="utf-8"))
    return {(entry["seller"], name): entry for entry in document["shutdown"] for name in entry["models"]}
