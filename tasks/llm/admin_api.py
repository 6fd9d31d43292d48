"""What an admin key of OpenAI can read: rate limits, and hard spend limits of the organization and its project.

https://developers.openai.com/api/reference/resources/admin has the calls. They cost nothing. The key is used for them
alone, never for completions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from parquill.tasks.errors import ParquillError
from parquill.tasks.job.key import Key
from parquill.tasks.llm.address_check import Get, get
from parquill.tasks.llm.replies import parse_json

MAX_PAGES: Final = 20
_PAGE: Final = 100


class ProjectLimits(NamedTuple):
    """The limits of a project for one model: requests and tokens a minute, and tokens that may wait in batches."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    batch_tokens: int | None


class SpendLimit(NamedTuple):
    """A hard limit of what may be spent in a month, in cents, and whether it stops requests now."""

    of: str
    cents: int
    is_enforcing: bool


class AdminApi:
    """The organization behind an address, read with an admin key. Each method raises ParquillError."""

    def __init__(self, base_url: str, key: Key, ask: Get = get) -> None:
        self._base, self._key, self._ask = f"{base_url}/organization", key, ask

    def only_project(self) -> str | None:
        """Return the id of the organization's project if it has exactly one that is active."""
        found = [each["id"] for each in self._list("/projects") if each.get("status", "active") == "active"]
        return found[0] if len(found) == 1 and isinstance(found[0], str) else None

    def limits(self, project: str, model: str) -> ProjectLimits | None:
        """Return a project's limits for a model; None if the service lists none for it."""
        for each in self._list(f"/projects/{project}/rate_limits"):
            if each.get("model") == model:
                names = ("max_requests_per_1_minute", "max_tokens_per_1_minute", "batch_1_day_max_input_tokens")
                return ProjectLimits(*(_whole(each.get(name)) for name in names))
        return None

    def spend_limits(self, project: str | None) -> list[SpendLimit]:
        """Return the hard limits of the organization and of a project; a limit that is not set is left out."""
        places = {"the organization": "/spend_limit"}
        if project is not None:
            places["the project"] = f"/projects/{project}/spend_limit"
        found = []
        for of, path in places.items():
            document = self._get(path, may_lack=True)
            cents = _whole((document or {}).get("threshold_amount"))
            if cents:
                enforcement = (document or {}).get("enforcement")
                is_enforcing = isinstance(enforcement, Mapping) and enforcement.get("status") == "enforcing"
                found.append(SpendLimit(of, cents, is_enforcing))
        return found

    def _list(self, path: str) -> Iterator[Mapping[str, Any]]:
        after = ""
        for _ in range(MAX_PAGES):
            page = self._get(f"{path}?limit={_PAGE}{after}") or {}
            data = page.get("data")
            entries = [each for each in data if isinstance(each, Mapping)] if isinstance(data, list) else []
            yield from entries
            last = page.get("last_id") or (entries[-1].get("id") if entries else None)
            if page.get("has_more") is not True or not isinstance(last, str):
                return
            after = f"&after={last}"

    def _get(self, path: str, *, may_lack: bool = False) -> Mapping[str, Any] | None:
        try:
            reply = self._ask(f"{self._base}{path}", self._key.headers())
        except Exception:  # noqa: BLE001 - whatever it is, it may hold the header
            # promise: S2 a failure of an admin call is replaced by an error without the key
            raise ParquillError(f"{self._base} does not answer") from None
        if reply.status_code in {401, 403}:
            raise ParquillError(f"{self._base} refuses the admin key (HTTP {reply.status_code})")
        if reply.status_code == 404 and may_lack:
            return None
        document = parse_json(reply.content) if reply.status_code == 200 else None
        if not isinstance(document, Mapping):
            raise ParquillError(f"{self._base}{path.partition('?')[0]} answered HTTP {reply.status_code}")
        return document


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
