"""`parquill estimate --compare`: the same rows at the prices of several models and lanes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from parquill.tasks.errors import BadJob
from parquill.tasks.job.lanes import LANES_OF_API, LaneName
from parquill.tasks.job.reasoning import thinks
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.money.estimate import estimate_json
from parquill.tasks.money.gate import check_budget
from parquill.tasks.money.model_price import ModelPrice
from parquill.tasks.money.prices import find_price, price_of
from parquill.tasks.money.shutdowns import find_shutdown
from parquill.tasks.prompts.base import RunOptions
from parquill.tasks.prompts.prepare import estimate_job

THINKS = "thinks before it answers, so its answers may cost more than predicted from the answers of the job's model"


def compare_models(job: ResolvedJob, options: RunOptions, models: Sequence[str], today: date) -> dict[str, Any]:
    """Estimate a job for its own model and for others, in each lane that a run can buy; the cheapest comes first.

    Models that are shut down by `today` have a note. The lengths of answers are predicted from the job's own past for
    every model; only tokens, price and window differ.
    Raises BadJob for a model without a price, BadInput.
    """
    entries: list[dict[str, Any]] = []
    rows = 0
    for model in dict.fromkeys([job.model, *models]):
        # `price` and `tokenizer` of the job apply to its own model only
        other = job if model == job.model else _with_model(job, model)
        prices = _prices_of(job, other, options.day)
        total = estimate_job(
            other.in_lane("live"), options, past_of=job, price=prices[0][1], other_prices=[p for _, p in prices[1:]]
        )
        rows = total.rows
        shutdown = find_shutdown(model, job.endpoint.base_url)
        for index, (lane, price) in enumerate(prices):
            bought, estimate = other.in_lane(lane), total.result(index)
            entries.append(
                {
                    "model": model,
                    "lane": lane,
                    "estimate": estimate_json(bought, estimate),
                    "prices": {"source": price.source, "version": price.version},
                    "prompt_tokens_note": estimate.tokens_note or None,
                    "thinking_note": THINKS if thinks(other) and not thinks(job) else None,
                    "shutdown_note": shutdown.sentence(today) if shutdown is not None else None,
                    "fits_window": "too_long" not in estimate.rejected,
                    "rows_too_long": estimate.rejected.get("too_long", 0),
                    "fits_budget": check_budget(bought, estimate, price).fits,
                }
            )
    entries.sort(key=lambda entry: float(entry["estimate"]["cost_usd_expected"]))
    return {"rows": rows, "models": entries}


def _with_model(job: ResolvedJob, model: str) -> ResolvedJob:
    own: dict[str, None] = {"model": None, "price": None}
    endpoints = job.endpoints and [each.model_copy(update=own) for each in job.endpoints]
    return job.model_copy(update={"model": model, "price": None, "tokenizer": None, "endpoints": endpoints})


def _prices_of(job: ResolvedJob, other: ResolvedJob, day: date) -> list[tuple[LaneName, ModelPrice]]:
    """Return the price in each lane that a run can buy at the job's address, the live lane first.

    A model that is not sold there has the price of its own seller. Nothing is sent at such a price; `prices.source`
    names the seller. Raises BadJob.
    """
    # the job's own price is that of its lane
    lanes = LANES_OF_API[other.endpoint.api] if job.lane == "auto" or other.price is None else (job.lane,)
    if job.endpoints is not None:  # batches have one endpoint
        lanes = tuple(lane for lane in lanes if lane != "batch")
    prices: list[tuple[LaneName, ModelPrice]] = []
    for lane in lanes:
        try:
            prices.append((lane, price_of(other.in_lane(lane), day)))
        except BadJob:
            if lane == "live" and other.model == job.model:
                raise
    return prices or [("live", find_price(other.model, None, day))]
