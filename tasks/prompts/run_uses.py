"""What a run bought, as the ledger keeps it: by day, model, lane, service and key."""

from __future__ import annotations

from datetime import UTC, date, timedelta

from parquill.tasks.job.endpoint import Endpoint
from parquill.tasks.money.ledger_uses import BilledUse
from parquill.tasks.prompts.run import Run
from parquill.tasks.records import Totals, Use

_BEGIN = date(1970, 1, 1)


def uses_of(run: Run, totals: Totals) -> list[BilledUse]:
    """Return what the requests of a run came to, by day, model, lane, service and key; without those that cost nothing.

    Where no record says it, the day is that of the run's start, the lane that of the run, and the model the job's.
    """
    places = dict(zip(run.job.labels_of_endpoints, run.job.each_endpoint, strict=True))
    first = next(iter(places.values()))
    started = (run.started_at.astimezone(UTC).date() - _BEGIN).days
    summed: dict[tuple[str, str, str, str, str], Use] = {}
    for key, use in totals.uses.items():
        if not (use.billed or use.in_doubt_nano):
            continue
        place = places.get(key.endpoint, first)  # the settings may have changed since
        day = _BEGIN + timedelta(days=started if key.day is None else key.day)
        names = (
            day.isoformat(),
            key.model or place.model,
            key.lane or run.lane,
            place.endpoint.base_url,
            name_of_key(place.endpoint),
        )
        summed.setdefault(names, Use()).add(use)
    return [
        BilledUse(*names, use.billed, use.prompt_tokens, use.completion_tokens, use.settled_nano, use.in_doubt_nano)
        for names, use in sorted(summed.items())
    ]


def name_of_key(endpoint: Endpoint) -> str:
    """Return the name of the variable or block with an endpoint's key, `azure` for its tokens, or nothing."""
    return "azure" if endpoint.auth == "azure" else endpoint.api_key_env or endpoint.api_key_block or ""
