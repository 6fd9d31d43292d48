"""The organization's endpoints: rate limits, usage and costs, for an admin key.

Names of line items are like `gpt-6-luna, input_tokens`, as documented; for batches there is no documented example, so
`gpt-6-luna batch, input_tokens` here is an assumption.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from .answers import BadRequestError
from .batch_files import page_of
from .bills import NOTHING, Line, Tokens, costs
from .exchange import Reply, Request
from .forms import read_number, read_query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .fake_openai import Service

_WIDTHS = {"1m": (60, 60, 1440), "1h": (3_600, 24, 168), "1d": (86_400, 7, 31)}
_COST_WIDTHS = {"1d": (86_400, 7, 180)}
_FILTERS = {"models": "model", "api_key_ids": "api_key_id", "project_ids": "project_id", "user_ids": "user_id"}
_USAGE_GROUPS = ("project_id", "user_id", "api_key_id", "model", "batch", "service_tier")
_COST_GROUPS = ("project_id", "user_id", "api_key_id", "line_item")
_QUERY = {"start_time", "end_time", "bucket_width", "group_by", "limit", "page"}
_LINE_ITEMS = {
    "input": "input_tokens",
    "cached": "cached_input_tokens",
    "cache_write": "cache_write_input_tokens",
    "output": "output_tokens",
}
_LAST_TIME = 10**12
_DEFAULT_RPM, _DEFAULT_TPM = 10_000, 2_000_000


def rate_limits(service: Service, _request: Request, project: str, query: bytes) -> Reply:
    """GET /organization/projects/ID/rate_limits."""
    options = service.options
    if project != options.admin.project_id:
        raise BadRequestError(f"No such project: {project}", status=404)
    asked = read_query(query, {"after", "before", "limit"})
    documents = []
    for model in service.models:
        limit: dict[str, Any] = {
            "object": "project.rate_limit",
            "id": f"rl-{model}",
            "model": model,
            "max_requests_per_1_minute": _DEFAULT_RPM if options.rpm is None else options.rpm,
            "max_tokens_per_1_minute": _DEFAULT_TPM if options.tpm is None else options.tpm,
        }
        tokens = options.batch.token_limit(model)
        documents.append(limit if tokens is None else limit | {"batch_1_day_max_input_tokens": tokens})
    return Reply(200, orjson.dumps(page_of(documents, asked, 100, 100)))


def projects(service: Service, _request: Request, _identity: str, query: bytes) -> Reply:
    """GET /organization/projects."""
    asked = read_query(query, {"after", "limit", "include_archived"})
    project = {"object": "organization.project", "id": service.options.admin.project_id, "status": "active"}
    return Reply(200, orjson.dumps(page_of([project], asked, 20, 100)))


def api_keys(service: Service, _request: Request, project: str, query: bytes) -> Reply:
    """GET /organization/projects/ID/api_keys: those that were used, of whose values only the ends are shown."""
    if project != service.options.admin.project_id:
        raise BadRequestError(f"No such project: {project}", status=404)
    asked = read_query(query, {"after", "limit"})
    documents = [
        {
            "object": "organization.project.api_key",
            "id": identity,
            "name": None,
            "redacted_value": f"{key[:3].decode()}...{key[-3:].decode()}",
        }
        for identity, key in service.keys.items()
    ]
    return Reply(200, orjson.dumps(page_of(documents, asked, 20, 100)))


def spend_limit(service: Service, _request: Request, project: str, query: bytes) -> Reply:
    """GET /organization/spend_limit and GET /organization/projects/ID/spend_limit; 404 without a limit."""
    read_query(query, set())
    options = service.options.admin
    if project not in {"", options.project_id}:
        raise BadRequestError(f"No such project: {project}", status=404)
    cents = options.project_spend_limit_cents if project else options.spend_limit_cents
    if cents is None:
        raise BadRequestError("No spend limit is set", status=404)
    return Reply(
        200,
        orjson.dumps(
            {
                "object": "project.spend_limit" if project else "organization.spend_limit",
                "threshold_amount": cents,
                "currency": "USD",
                "interval": "month",
                "enforcement": {
                    "status": "enforcing" if service.books.bills.spent_cents(options) >= cents else "inactive"
                },
            }
        ),
    )


def usage(service: Service, _request: Request, _identity: str, query: bytes) -> Reply:
    """GET /organization/usage/completions."""
    asked = read_query(query, _QUERY | set(_FILTERS) | {"batch"})
    groups = _groups(asked, _USAGE_GROUPS)
    batch = asked.get("batch", [None])[-1]

    def results(entries: list[tuple[dict[str, Any], Line, Tokens]]) -> Iterator[dict[str, Any]]:
        sums: dict[tuple[Any, ...], Tokens] = {}
        for keys, _, tokens in entries:
            if batch is None or keys["batch"] == (batch == "true"):
                place = tuple(keys[name] for name in groups)
                sums[place] = sums.get(place, NOTHING).plus(tokens)
        for place, tokens in sorted(sums.items(), key=lambda one: str(one[0])):
            parts = tokens.parts()
            yield {
                "object": "organization.usage.completions.result",
                "input_tokens": tokens.prompt,
                "input_cached_tokens": tokens.cached,
                "input_cache_write_tokens": tokens.cache_write,
                "input_uncached_tokens": parts["input"],
                "output_tokens": tokens.completion,
                "input_audio_tokens": 0,
                "output_audio_tokens": 0,
                "num_model_requests": tokens.requests,
                "api_source": None,
            } | _named(_USAGE_GROUPS, groups, place)

    return _page(service, asked, _WIDTHS, results)


def cost_page(service: Service, _request: Request, _identity: str, query: bytes) -> Reply:
    """GET /organization/costs."""
    asked = read_query(query, _QUERY | {"project_ids", "api_key_ids", "line_items"})
    groups = _groups(asked, _COST_GROUPS)
    options = service.options.admin

    def results(entries: list[tuple[dict[str, Any], Line, Tokens]]) -> Iterator[dict[str, Any]]:
        sums: dict[tuple[Any, ...], tuple[Decimal, int]] = {}
        for keys, line, tokens in entries:
            counts = tokens.parts()
            for kind, usd in costs(line, tokens, options).items():
                item = f"{line.model}{' batch' if line.batch else ''}, {_LINE_ITEMS[kind]}"
                if counts[kind] and item in asked.get("line_items", [item]):
                    place = tuple((keys | {"line_item": item})[name] for name in groups)
                    before, count = sums.get(place, (Decimal(0), 0))
                    sums[place] = (before + usd, count + counts[kind])
        for place, (usd, count) in sorted(sums.items(), key=lambda one: str(one[0])):
            value = usd if options.cost_decimals is None else round(usd, options.cost_decimals)
            by_item = "line_item" in groups
            yield {
                "object": "organization.costs.result",
                "amount": {"value": float(value), "currency": "usd"},
                "quantity": count if by_item else None,
                "quantity_unit": "tokens" if by_item else None,
                "api_source": None,
            } | _named(_COST_GROUPS, groups, place)

    return _page(service, asked, _COST_WIDTHS, results)


def _groups(asked: dict[str, list[str]], known: tuple[str, ...]) -> list[str]:
    groups = asked.get("group_by", [])
    for name in groups:
        if name not in known:
            message = f"Invalid 'group_by': '{name}'. Supported values are {list(known)}."
            raise BadRequestError(message, param="group_by", code="invalid_value")
    return groups


def _named(known: tuple[str, ...], groups: list[str], place: tuple[Any, ...]) -> dict[str, Any]:
    """Return all fields that can be grouped by; the others are null."""
    return dict.fromkeys(known) | dict(zip(groups, place, strict=True))


def _page(
    service: Service,
    asked: dict[str, list[str]],
    widths: dict[str, tuple[int, int, int]],
    results: Callable[[list[tuple[dict[str, Any], Line, Tokens]]], Iterator[dict[str, Any]]],
) -> Reply:
    """Return the buckets of a page, also those without results."""
    options = service.options.admin
    name = asked.get("bucket_width", ["1d"])[-1]
    if name not in widths:
        message = f"Invalid 'bucket_width': '{name}'. Supported values are {sorted(widths)}."
        raise BadRequestError(message, param="bucket_width", code="invalid_value")
    width, default, most = widths[name]
    start = read_number(asked, "start_time", None, _LAST_TIME)
    end = min(read_number(asked, "end_time", _LAST_TIME, _LAST_TIME), int(service.clock.now) + 1)
    count = read_number(asked, "limit", default, most)
    if options.page_buckets is not None:
        count = min(count, options.page_buckets)
    page = asked.get("page", ["page_" + str(start - start % width)])[-1]
    if not page.removeprefix("page_").isdigit():
        raise BadRequestError(f"Invalid 'page': '{page}'.", param="page", code="invalid_value")
    first = int(page.removeprefix("page_"))
    entries = list(_entries(service, asked, start, end))
    buckets = []
    for begin in list(range(first, end, width))[:count]:
        inside = [one for one in entries if begin <= one[1].minute < begin + width]
        buckets.append(
            {
                "object": "bucket",
                "start_time": begin,
                "end_time": begin + width,
                "results": list(results(inside)),
            }
        )
    next_first = first + count * width
    more = next_first < end
    page_document = {"object": "page", "data": buckets, "has_more": more}
    page_document["next_page"] = f"page_{next_first}" if more else None
    return Reply(200, orjson.dumps(page_document))


def _entries(
    service: Service, asked: dict[str, list[str]], start: int, end: int
) -> Iterator[tuple[dict[str, Any], Line, Tokens]]:
    """Yield the sums of the asked time, with the names by which they can be grouped."""
    options = service.options.admin
    shown_until = service.clock.now - options.late_s
    for line, tokens in service.books.bills.sums(options):
        keys = {
            "project_id": line.project_id or options.project_id,
            "user_id": line.user_id,
            "api_key_id": line.key_id,
            "model": line.model,
            "batch": line.batch,
            "service_tier": line.tier,
        }
        in_time = start - start % 60 <= line.minute < end and line.minute <= shown_until
        if in_time and all(keys[key] in asked.get(name, [keys[key]]) for name, key in _FILTERS.items()):
            yield keys, line, tokens
