"""The `summarize` flow: each text in a few sentences, in a style and a language. The main flow does the rest."""

from __future__ import annotations

from datetime import date as Date  # noqa: N812 - the parameter below is called `date`
from typing import Annotated, Any

from pydantic import Field

from parquill.flows.complete_prompts import complete_prompts
from parquill.tasks.job.load import PlainText
from parquill.tasks.job.presets import Phrase, preset_job
from parquill.tasks.job.settings import JobName, Usd
from parquill.tasks.orchestration.python_flow import Input, python_flow
from parquill.tasks.orchestration.states import returns_state
from parquill.tasks.prompts.template import column_template
from parquill.tasks.results.completed_run import CompletedRun

SYSTEM = "Summarize the user's text in {{ vars.length }}; answer with the summary alone."
STYLE = " Style: {{ vars.style }}."
LANGUAGE = " Write in {{ vars.language }}."
GIVEN = {f"vars.{name}": name for name in ("length", "style", "language")}  # and what every ready flow gives


@python_flow("summarize")
@returns_state
def summarize(
    input: Input,  # noqa: A002 - the contract's name
    output: str,
    name: JobName = "summarize",
    text_column: Annotated[str, Field(min_length=1)] = "text",
    length: Phrase = "two sentences",
    style: Phrase | None = None,
    language: Phrase | None = None,
    model: str = "gpt-6-luna",
    max_output_tokens: Annotated[int, Field(ge=1, le=10_000_000)] = 150,
    run_usd: Usd | None = None,
    settings: dict[str, Any] | None = None,
    date: Date | None = None,
) -> CompletedRun:
    """Summarize a column of text within a budget, and return the run with its results.

    Args:
        input: Parquet, CSV or JSONL: file, folder, glob or URI; {date}, {date-1}, {month} are of the scheduled day.
            From Python also a DataFrame or an Arrow table.
        output: Folder or URI of the results: one row for each text.
        name: The job's name, in this UI and in the ledger.
        text_column: The column that holds the text.
        length: The length in plain words, for example two sentences, or 50 words.
        style: The style, for example neutral, or headlines.
        language: The language to write in; by default that of the text.
        model: The model's name, as the service knows it. A model that can answer without thinking first is asked to,
            unless `settings` has parameters.
        max_output_tokens: The longest summary in tokens; it bounds what a row can cost.
        run_usd: The most that one run may cost, in dollars; without it there is no limit.
        settings: Any other setting of a job, for example {endpoint: {...}, limits: {...}, id_column: id}.
        date: The day of `{date}` in paths and of prices; default the scheduled day in the job's time zone.
    """
    given = (("length", length), ("style", style), ("language", language))
    system = SYSTEM + (STYLE if style is not None else "") + (LANGUAGE if language is not None else "")
    job = {
        "name": name,
        "input": input,
        "output": output,
        "vars": {name: PlainText(value) for name, value in given if value is not None},
        "prompt": {"system": system, "user": column_template(text_column)},
        "model": model,
        "max_output_tokens": max_output_tokens,
        "budget": {"run_usd": run_usd},
    }
    return complete_prompts.fn(preset_job(job, settings or {}, GIVEN), date)
