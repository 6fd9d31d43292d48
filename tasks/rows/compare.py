"""The same rows at several models' prices, and at the batch price where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from parquill.tasks.errors import BadJob
from parquill.tasks.job import Job
from parquill.tasks.money.estimate import estimate_json
from parquill.tasks.money.gate import judge
from parquill.tasks.money.prices import Price, find_price, price_of
from parquill.tasks.rows.base import RunOptions
from parquill.tasks.rows.prepare import estimate_job


def compare_models(job: Job, options: RunOptions, models: Sequence[str]) -> dict[str, Any]:
    """Estimate a placed job for its own model and for others; the cheapest first.

    Lengths of answers are predicted from the job's own past for every model: what differs is tokens, price and window.
    Raises BadJob for a model without a price, BadInput.
    """
    entries: list[dict[str, Any]] = []
    rows = 0
    for model in dict.fromkeys([job.model, *models]):
        # own price and tokenizer are those of the job's own model
        other = job if model == job.model else job.model_copy(update={"model": model, "price": None, "tokenizer": None})
        standard, batch = (_price_of(job, other, options.day, batch=batch) for batch in (False, True))
        total = estimate_job(other, options, past_of=job, price=standard, other_prices=[batch])
        rows = total.rows
        for place, (processing, price) in enumerate((("standard", standard), ("batch", batch))):
            if processing == "batch" and price.bands == standard.bands:
                continue  # no batch price is known
            priced = total.result(place)
            verdict = judge(other, priced, price)
            entries.append(
                {
                    "model": model,
                    "processing": processing,
                    "estimate": estimate_json(priced),
                    "prices": {"source": price.source, "version": price.version},
                    "prompt_tokens_note": priced.tokens_note or None,
                    "fits_window": "too_long" not in priced.rejected,
                    "rows_too_long": priced.rejected.get("too_long", 0),
                    "fits_budget": verdict.fits,
                }
            )
    entries.sort(key=lambda entry: float(entry["estimate"]["cost_usd_expected"]))
    return {"rows": rows, "models": entries}


def _price_of(job: Job, other: Job, day: date, *, batch: bool) -> Price:
    """The price at the job's address; that of its own seller for another model that the address does not sell.

    Nothing is sent at such a price, and `prices.source` names the seller. Raises BadJob.
    """
    try:
        return price_of(other, day, batch=batch)
    except BadJob:
        if other.model == job.model:
            raise
        return find_price(other.model, None, day, batch=batch)
