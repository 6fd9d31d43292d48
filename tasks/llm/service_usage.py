"""What a service says it counted and charged: usage and costs by day, as its admin API answers or as it was exported.

The figures are those of an organization at OpenAI: https://developers.openai.com/api/reference/resources/admin has
the calls `usage/completions` and `costs`. An export from its usage page has the same fields, as CSV or JSON.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from parquill.tasks.errors import BadJob
from parquill.tasks.job.lanes import LaneName, lane_of
from parquill.tasks.llm.replies import parse_json
from parquill.tasks.money.reconciliation import CountedUse, ServiceCost

MAX_FILE_BYTES = 256 << 20
MAX_DIGITS, MAX_DECIMALS = 18, 15
NO_LINE_ITEM = "(no line item)"
_LANES: dict[str, LaneName] = {"batch": "batch", "flex": "flex"}  # words of a line item
_USAGE_FIELDS = ("start_time", "model", "num_model_requests", "input_tokens", "output_tokens")


@dataclass(slots=True)
class ServiceFigures:
    """Usage and costs by day; None for what was not asked for or is in no file."""

    uses: list[CountedUse] | None = None
    costs: list[ServiceCost] | None = None

    def add(self, other: ServiceFigures) -> None:
        """Add figures of another source."""
        for name in self.__slots__:
            known, more = getattr(self, name), getattr(other, name)
            if more is not None:
                setattr(self, name, [*(known or ()), *more])

    def of_month(self, month: str) -> ServiceFigures:
        """Return the figures of one month."""
        return ServiceFigures(
            None if self.uses is None else [use for use in self.uses if use.day.startswith(month)],
            None if self.costs is None else [cost for cost in self.costs if cost.day.startswith(month)],
        )


def read_use(start_time: Any, result: Mapping[str, Any]) -> CountedUse:
    """Read a result of `usage/completions`. Raises ValueError."""
    is_batch, tier = str(result.get("batch")).lower(), _text(result.get("service_tier"))
    if (model := _text(result.get("model"))) is None:
        raise ValueError("names no model: group usage by model, batch, service tier and API key")
    return CountedUse(
        day=_day(start_time),
        model=model,
        # promise: reconcile: usage that is not grouped by lane is of no lane in particular
        lane="batch" if is_batch == "true" else lane_of(tier) if tier or is_batch == "false" else None,
        key=_text(result.get("api_key_id")),
        requests=_whole(result.get("num_model_requests")),
        prompt_tokens=_whole(result.get("input_tokens")),
        completion_tokens=_whole(result.get("output_tokens")),
    )


def read_cost(start_time: Any, result: Mapping[str, Any]) -> ServiceCost:
    """Read a result of `costs`, grouped by line item, such as `gpt-4o batch, input_tokens`. Raises ValueError."""
    amount = result.get("amount")
    value, currency = (
        (amount.get("value"), amount.get("currency"))
        if isinstance(amount, Mapping)
        else (result.get("amount_value"), result.get("amount_currency"))
    )
    if str(currency or "usd").lower() != "usd":
        raise ValueError("has another currency than usd")
    item = _text(result.get("line_item")) or NO_LINE_ITEM
    words = item.replace(",", " ").lower().split()
    return ServiceCost(
        day=_day(start_time),
        model=" ".join(word for word in item.partition(",")[0].split() if word.lower() not in _LANES),
        # promise: reconcile: a line item that names no lane is not taken for one of the live lane
        lane=next((lane for word, lane in _LANES.items() if word in words), None),
        key=_text(result.get("api_key_id")),
        usd=_amount(value),
    )


def read_export(path: Path) -> ServiceFigures:
    """Read usage or costs that were exported as CSV or JSON. Raises BadJob, which says what is wrong with the file."""
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_FILE_BYTES else b""
    except OSError as error:
        raise BadJob(f"{path} cannot be read: {error.strerror}") from None
    if size > MAX_FILE_BYTES:
        raise BadJob(f"{path} has {size >> 20:,} MiB, more than the {MAX_FILE_BYTES >> 20} that are read: export days")
    text = data.decode("utf-8-sig", "replace").strip()
    try:
        results = list(_json_results(text) if text[:1] in {"{", "["} else _csv_results(text))
    except (csv.Error, ValueError) as error:
        raise BadJob(f"{path} cannot be read: {error}") from None
    uses: list[CountedUse] = []
    costs: list[ServiceCost] = []
    for number, (start_time, result) in enumerate(results, start=1):
        try:
            if "amount" in result or "amount_value" in result:
                costs.append(read_cost(start_time, result))
            elif all(name in result for name in _USAGE_FIELDS[1:]):
                uses.append(read_use(start_time, result))
            else:
                raise BadJob(
                    f"{path} is neither usage nor costs as OpenAI exports them: usage has {', '.join(_USAGE_FIELDS)}; "
                    "costs have start_time, amount_value and line_item"
                )
        except ValueError as error:
            raise BadJob(f"{path}, entry {number:,}: {error}") from None
    return ServiceFigures(uses or None, costs or None)


def bucket_results(buckets: Iterable[Any]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Yield the results of the buckets of a page, each with the start of its bucket."""
    for bucket in buckets:
        if isinstance(bucket, Mapping) and isinstance(results := bucket.get("results", bucket.get("result")), list):
            yield from ((bucket.get("start_time"), result) for result in results if isinstance(result, Mapping))


def _json_results(text: str) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    document = parse_json(text.encode())
    if document is None:
        raise ValueError("it is not JSON")
    for page in document if isinstance(document, list) else [document]:
        if not isinstance(page, Mapping):
            raise ValueError("it is neither a page nor a list of pages, buckets or results")  # noqa: TRY004 - as above
        if page.get("has_more") is True and not isinstance(document, list):
            # promise: reconcile: an export that is not complete is refused
            raise ValueError("it is one page of several: put all pages into one list")
        if isinstance(buckets := page.get("data"), list):
            yield from bucket_results(buckets)
        elif "results" in page or "result" in page:
            yield from bucket_results([page])
        else:
            yield page.get("start_time"), page


def _csv_results(text: str) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    head = text.partition("\n")[0]
    for row in csv.DictReader(io.StringIO(text), delimiter="\t" if "\t" in head else ","):
        figures = [row[name] for name in ("amount_value", *_USAGE_FIELDS[2:]) if name in row]
        if any(figures) or not figures:  # a day without usage is a row with its times alone
            yield row.get("start_time"), row


def _day(start_time: Any) -> str:
    try:
        return datetime.fromtimestamp(int(float(start_time)), UTC).date().isoformat()
    except (TypeError, ValueError, OverflowError, OSError):
        raise ValueError(f"{start_time!r} is not a start_time in seconds since 1970") from None


def _whole(value: Any) -> int:
    try:
        number = Decimal(str(value or 0))
        # promise: reconcile: a figure of a million digits is refused before it is computed
        if number.is_finite() and number.adjusted() < MAX_DIGITS and 0 <= number == int(number):
            return int(number)
    except InvalidOperation:
        pass
    raise ValueError(f"{str(value)[:40]!r} is not a count")


def _amount(value: Any) -> Decimal:
    try:
        usd = Decimal(str(value))
    except InvalidOperation:
        usd = Decimal("NaN")
    if not usd.is_finite() or usd.adjusted() >= MAX_DIGITS:
        raise ValueError(f"{str(value)[:40]!r} is not an amount")
    return round(usd, MAX_DECIMALS)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
