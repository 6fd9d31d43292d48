"""`parquill estimate --compare`: the same rows at the prices of several models."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from parquill.tasks.errors import BadJob
from parquill.tasks.job.reasoning import thinks
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.money.estimate import estimate_json
from parquill.tasks.money.gate import check_budget
from parquill.tasks.money.prices import ModelPrice, find_price, price_of
from parquill.tasks.money.shutdowns import find_shutdown
from parquill.tasks.prompts.base import RunOptions
from parquill.tasks.prompts.prepare import estimate_job

THINKS = "thinks before it answers, so its answers may cost more than predicted from the answers of the job's model"


def compare_models(job: ResolvedJob, options: RunOptions, models: Sequence[str], today: date) -> dict[str, Any]:
    """Estimate a job for its own model and for others; return the estimates, the cheapest first.

    Models that are shut down by `today` have a note. The lengths of answers are predicted from the job's own past for
    every model; only tokens, price and window differ.
    Raises BadJob for a model without a price, BadInput.
    """
    entries: list[dict[str, Any]] = []
    rows = 0
    for model in dict.fromkeys([job.model, *models]):
        # `price` and `tokenizer` of the job apply to its own model only
        other = job if model == job.model else job.model_copy(update={"model": model, "price": None, "tokenizer": None})
        price = _price_of(job, other, options.day)
        total = estimate_job(other, options, past_of=job, price=price)
        rows, estimate = total.rows, total.result()
        shutdown = find_shutdown(model, job.endpoint.base_url)
        entries.append(
            {
                "model": model,
                "lane": "live",
                "estimate": estimate_json(other, estimate),
                "prices": {"source": price.source, "version": price.version},
                "prompt_tokens_note": estimate.tokens_note or None,
                "thinking_note": THINKS if thinks(other) and not thinks(job) else None,
                "shutdown_note": shutdown.sentence(today) if shutdown is not None else None,
                "fits_window": "too_long" not in estimate.rejected,
                "rows_too_long": estimate.rejected.get("too_long", 0),
                "fits_budget": check_budget(other, estimate, price).fits,
            }
        )
    entries.sort(key=lambda entry: float(entry["estimate"]["cost_usd_expected"]))
    return {"rows": rows, "models": entries}


def _price_of(job: ResolvedJob, other: ResolvedJob, day: date) -> ModelPrice:
    """Return the price at the job's address; for another model that is not sold there, the price of its own seller.

    Nothing is sent at such a price; `prices.source` names the seller. Raises BadJob.
    """
    try:
        return price_of(other, day)
    except BadJob:
        if other.model == job.model:
            raise
        return find_price(other.model, None, day)
