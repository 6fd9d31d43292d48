"""The day from which a model no longer answers: from `data/shutdowns.toml`, or from the service's list of models."""

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


def without_date(model: str) -> str:
    """Return the name of a model without the date of its version: gpt-4o-2024-08-06 is gpt-4o."""
    return _SNAPSHOT.sub("", model)


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The day from which a model no longer answers, and the model that its service recommends instead, if any."""

    model: str
    day: date
    instead: str | None
    source: str

    def is_past(self, today: date) -> bool:
        """Whether the model is already shut down."""
        return self.day <= today

    def sentence(self, today: date) -> str:
        """The warning to show today."""
        advice = f"; change `model` to {self.instead}" if self.instead else "; change `model`"
        if self.is_past(today):
            return f"the model {self.model} was shut down on {self.day} ({self.source}){advice}"
        left = (self.day - today).days
        days = "1 day" if left == 1 else f"{left:,} days"
        return f"the model {self.model} shuts down on {self.day}, in {days} ({self.source}){advice}"


def find_shutdown(model: str, base_url: str | None) -> Shutdown | None:
    """Return the known shutdown of a model at an address; None if the table has none for the address's seller."""
    seller = provider_of(base_url)
    if seller is None:
        return None
    known = _known()
    for name in _names(model):
        if (entry := known.get((seller.id, name))) is not None:
            return Shutdown(model, entry["day"], entry.get("instead"), entry["source"])
    return None


def listed_shutdown(model: str, value: Any) -> Shutdown | None:
    """Read a shutdown day in a service's list of models, a text that starts with YYYY-MM-DD; None for other values."""
    try:
        day = date.fromisoformat(value[:10]) if isinstance(value, str) else None
    except ValueError:
        return None
    return None if day is None else Shutdown(model, day, None, "the service's list of models")


def _names(model: str) -> list[str]:
    """The names under which the table may have a model: its own, its base model's if fine-tuned, and one without date.

    >>> _names("ft:gpt-4o-mini-2024-07-18:shop::abc")
    ['ft:gpt-4o-mini-2024-07-18:shop::abc', 'gpt-4o-mini-2024-07-18', 'gpt-4o-mini']
    """
    names = [model.removeprefix("models/")]
    if model.startswith("ft:"):
        names.append(model.split(":")[1])
    if _SNAPSHOT.search(names[-1]):
        # promise: warnings: a dated model name is also looked up without its date
        names.append(_SNAPSHOT.sub("", names[-1]))
    return names


@cache
def _known() -> dict[tuple[str, str], dict[str, Any]]:
    document = tomllib.loads((FOLDER / "shutdowns.toml").read_text(encoding="utf-8"))
    return {(entry["seller"], name): entry for entry in document["shutdown"] for name in entry["models"]}
