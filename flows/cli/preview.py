"""`parquill preview`: the first rows as they would be sent."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from parquill.tasks.job.api_key import header_names
from parquill.tasks.job.lanes import lane_of
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.llm.protocol import APIS
from parquill.tasks.money.prices import price_of
from parquill.tasks.prompts.base import RunOptions
from parquill.tasks.prompts.planner import Planner
from parquill.tasks.prompts.prepare import open_source
from parquill.tasks.prompts.shards import plan_of_batch
from parquill.tasks.records import Action


class _Rows:
    def __init__(self) -> None:
        self.batches: list[pa.RecordBatch] = []

    def write(self, batch: pa.RecordBatch, to_send: int) -> None:  # noqa: ARG002 - a Sink
        self.batches.append(batch)


def preview_rows(job: ResolvedJob, options: RunOptions, rows: int) -> list[dict[str, Any]]:
    """Return the requests of the first rows: source, URL, header names, body, tokens, or why a row is rejected.

    Raises BadJob, BadInput. Sends nothing, needs no key.
    """
    found = _Rows()
    price = price_of(job, options.day)
    job = job.in_lane(lane_of(price.asked))
    with tempfile.TemporaryDirectory(prefix="parquill-") as scratch:
        Planner(job, open_source(job), price, Path(scratch)).plan(found, rows)
    first = job.each_endpoint[0]
    api = APIS[first.endpoint.api](first)
    headers = header_names(first.endpoint)
    others = [
        {
            "url": APIS[each.endpoint.api](each).url,
            "headers": header_names(each.endpoint),
            "model": each.model,
        }
        for each in job.each_endpoint[1:]
    ]
    shown = []
    for batch in found.batches:
        columns = plan_of_batch(batch)
        for values in zip(*columns.values(), strict=True):
            plan = dict(zip(columns, values, strict=True))
            shown.append(
                {
                    "source_file": plan["source_file"],
                    "row_number": plan["row_number"],
                    "url": api.url,
                    "headers": headers,
                    **({"or_to": others} if others else {}),
                    "prompt_tokens": plan["prompt_tokens"],
                    "body": orjson.loads(api.body(plan["messages"], plan["parameters"])) if plan["messages"] else None,
                    "error": plan["error_message"]
                    or ("the same request as an earlier row" if plan["action"] == Action.SAME else None),
                }
            )
    return shown[:rows]
