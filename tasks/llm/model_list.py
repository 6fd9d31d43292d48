"""Reads the lists of models that services return for GET /models, in all formats, and finds a job's model in them.

OpenAI and most others answer {"data": [{"id": ...}]}. Google writes `models/NAME`, Fireworks `accounts/ACCOUNT/models/
NAME`, the native APIs of Google and Fireworks {"models": [{"name": ...}]}, Ollama `NAME:latest`, Together a bare array.
Some lists are only a part of what the service serves.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from parquill.tasks.llm.replies import clean_label

_NAMES = ("id", "name", "model")
_LISTS = ("data", "models", "result", "items")
_MORE = ("has_more", "nextPageToken", "next_page_token", "next_page", "next")
# The prefix of a name: the resource's path, with an account or a publisher in it.
_PATH = re.compile(r"^/?(?:(?:accounts|publishers|projects|locations|organizations)/[^/]+/)*models/", re.IGNORECASE)
_DATE = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8}|\d{2}-\d{4}|\d{4}|\d{3}|latest)$")
# Hosts whose lists are incomplete: Azure lists what can be deployed, but requests name deployments; Hugging Face,
# Fireworks and Bedrock serve more than they list.
_PARTIAL_HOSTS = re.compile(
    r"(?:.+\.)?(?:azure\.com|azure\.us|azure\.cn|huggingface\.co|fireworks\.ai|amazonaws\.com|api\.aws)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class ModelList:
    """The names that a service lists, each with its shutdown date if the list has one.

    `why_partial` says why a model that is not listed may be served all the same; None for a complete list.
    """

    names: dict[str, Any]
    why_partial: str | None = None

    def name_of(self, model: str) -> str | None:
        """Return the name under which the list has a model; None if it is not listed."""
        if model in self.names:
            return model
        wanted = _bare(model)
        # a request may name a model without the date of its newest version, or with `-latest`
        ways = ((_bare, wanted), (_undated, wanted.removesuffix("-latest")))
        for written, sought in ways:
            for name in self.names:
                if written(name) == sought:
                    return name
        # OpenRouter's `:free`, `:nitro` and others choose among the sellers of one model
        base = model.partition(":")[0]
        return base if "/" in base and base in self.names else None

    def nearest(self, model: str) -> list[str]:
        """Return the names closest to a model's; the first ones of the list if none is close."""
        bare = {_bare(name): name for name in self.names}
        near = difflib.get_close_matches(_bare(model), bare, 5, 0.5)
        return [bare[name] for name in near] or sorted(self.names)[:10]


def read_model_list(document: Any, base_url: str) -> ModelList | None:
    """Read the list that a service returned; None if it is empty or not a list of models."""
    names: dict[str, Any] = {}
    owners = set()
    for entry in _entries(document):
        name = entry if isinstance(entry, str) else next((entry[key] for key in _NAMES if _is_name(entry, key)), None)
        label = clean_label(name)
        if not label:
            continue
        names[label] = entry.get("shutdown_date") if isinstance(entry, dict) else None
        owners.add(entry.get("owned_by") if isinstance(entry, dict) else None)
    if not names:
        return None
    return ModelList(names, _why_partial(document, names, owners, base_url))


def _entries(document: Any) -> Iterator[Any]:
    lists = [document] if isinstance(document, list) else []
    if isinstance(document, dict):
        lists = [document[name] for name in _LISTS if isinstance(document.get(name), list)]
    for found in lists:
        yield from (entry for entry in found if isinstance(entry, dict | str))


def _is_name(entry: dict[str, Any], key: str) -> bool:
    return isinstance(entry.get(key), str) and bool(entry[key])


def _why_partial(document: Any, names: dict[str, Any], owners: set[Any], base_url: str) -> str | None:
    if isinstance(document, dict) and any(document.get(name) for name in _MORE):
        # promise: doctor: a model list with more pages does not prove that a model is missing
        return "the list has more pages"
    if any("*" in name for name in names):
        return "the list has patterns"
    if "llamacpp" in owners:
        return "this server answers to any name"
    if _PARTIAL_HOSTS.fullmatch(urlsplit(base_url).hostname or ""):
        return "this service lists only a part of what it serves"
    return None


def _bare(name: str) -> str:
    """Return a name without its path and `:latest`, in lower case."""
    return _PATH.sub("", name).removesuffix(":latest").casefold()


def _undated(name: str) -> str:
    return _DATE.sub("", _bare(name))
