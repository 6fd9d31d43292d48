"""What an admin key of OpenAI can read: limits of the organization and its project, and its usage and costs.

https://developers.openai.com/api/reference/resources/admin has the calls. They cost nothing. The key is used for them
alone, never for completions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from parquill.tasks.errors import BadJob, ParquillError
from parquill.tasks.job.api_key import read_key
from parquill.tasks.job.endpoint import Endpoint
from parquill.tasks.job.key import Key
from parquill.tasks.llm.address_check import Get, get
from parquill.tasks.llm.replies import parse_json
from parquill.tasks.llm.service_usage import ServiceFigures, bucket_results, read_cost, read_use

MAX_PAGES: Final = 20
MAX_BUCKET_PAGES: Final = 100  # a page has at least a day
_PAGE: Final = 100


_PROJECT_HEADER: Final = "OpenAI-Project"


def project_of(endpoint: Endpoint) -> str | None:
    """Return the project that the headers of an endpoint name, if any."""
    named = {name.casefold(): variable for name, variable in endpoint.headers_env.items()}
    variable = named.get(_PROJECT_HEADER.casefold())
    return None if variable is None else os.environ.get(variable, "").strip() or None


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

    @classmethod
    def of(cls, endpoint: Endpoint) -> AdminApi:
        """Return the organization behind an endpoint. Raises BadJob without an admin key."""
        if (named := endpoint.admin_key_env) is None:
            raise BadJob(f"{endpoint.base_url} has no admin key: name its variable in `endpoint.admin_key_env`")
        only = {"base_url": endpoint.base_url, "allow_http": endpoint.allow_http, "api_key_env": named}
        key = read_key(Endpoint.model_validate(only))
        assert key is not None  # noqa: S101 - the endpoint names one
        return cls(endpoint.base_url, key)

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

    def keys(self, project: str | None) -> dict[str, str]:
        """Map the id of each key of a project, or of all, to its value as the service shows it, such as sk-ab...yz."""
        projects = [project] if project is not None else [each.get("id") for each in self._list("/projects")]
        found = (key for each in projects for key in self._list(f"/projects/{each}/api_keys"))
        return {
            key["id"]: key["redacted_value"]
            for key in found
            if isinstance(key.get("id"), str) and isinstance(key.get("redacted_value"), str)
        }

    def figures(self, first: date, last: date) -> ServiceFigures:
        """Return usage and costs of some days, both included."""
        span = f"start_time={_seconds(first)}&end_time={_seconds(last + timedelta(days=1))}&bucket_width=1d&limit=31"
        groups = "".join(f"&group_by={name}" for name in ("model", "batch", "service_tier", "api_key_id"))
        uses, costs = (
            self._buckets(f"/usage/completions?{span}{groups}"),
            self._buckets(f"/costs?{span}&group_by=line_item&group_by=api_key_id"),
        )
        try:
            return ServiceFigures(
                [read_use(day, result) for day, result in bucket_results(uses)],
                [read_cost(day, result) for day, result in bucket_results(costs)],
            )
        except ValueError as error:
            raise ParquillError(f"{self._base} has figures that cannot be read: {error}") from None

    def _buckets(self, path: str) -> Iterator[Any]:
        page = ""
        for _ in range(MAX_BUCKET_PAGES):
            found = self._get(f"{path}{page}") or {}
            data, following = found.get("data"), found.get("next_page")
            yield from data if isinstance(data, list) else ()
            if found.get("has_more") is not True:
                return
            if not isinstance(following, str):
                break
            page = f"&page={quote(following, safe='')}"
        # promise: reconcile: figures that are not complete are not compared
        raise ParquillError(f"{self._base}{path.partition('?')[0]} has more pages than can be read")

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


def find_keys(names: set[str], api: AdminApi, project: str | None) -> dict[str, str]:
    """Return the service's id of each key whose variable is set here: of the one whose ends are those of its value."""
    values = {name: value.strip() for name in names if (value := os.environ.get(name, "")).strip()}
    if not values:
        return {}
    shown = api.keys(project)
    found = {}
    for name, value in values.items():
        fitting = [identity for identity, ends in shown.items() if _fits(value, ends)]
        if len(fitting) == 1:
            found[name] = fitting[0]
    return found


def _fits(value: str, shown: str) -> bool:
    head, *_, tail = re.split(r"\.{2,}|…|\*+", shown) if re.search(r"\.{2,}|…|\*", shown) else (shown, shown)
    return len(head) + len(tail) <= 2 * len(value) and value.startswith(head) and value.endswith(tail)


def _seconds(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp())


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
