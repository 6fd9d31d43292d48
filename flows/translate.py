"""Nightly translation: each text into each language, with a glossary and a tone; the main flow does the rest."""

from __future__ import annotations

from datetime import date as Date  # noqa: N812 - the parameter below is called `date`
from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from parquill.flows.complete_prompts import complete_prompts
from parquill.tasks.job import Usd
from parquill.tasks.job_file import make_job, merge
from parquill.tasks.states import ends_with_state
from parquill.tasks.steps import FLOW

SYSTEM = "You are a translator. Translate the user's text into {{ language }}; answer with the translation alone."
TERMS = " Use these terms: {{ vars.glossary.get(language, {}) | tojson }}."
TONE = " Tone: {{ vars.tone }}."


@flow(name="translate", flow_run_name="translate into {languages}", **FLOW)
@ends_with_state
def translate(
    input: str,  # noqa: A002 - the contract's name
    output: str,
    languages: Annotated[list[str], Field(min_length=1)],
    name: str = "translate",
    text_column: str = "text",
    glossary: dict[str, dict[str, str]] | str | None = None,
    tone: str | None = None,
    model: str = "gpt-4o-mini",
    max_output_tokens: Annotated[int, Field(ge=1, le=10_000_000)] = 500,
    run_usd: Usd | None = None,
    settings: dict[str, Any] | None = None,
    date: Date | None = None,
) -> dict[str, Any]:
    """Translate a column of text into each of several languages within a budget, and give the summary.

    Args:
        input: Parquet file, folder, glob or URI; {date}, {date-1} and {month} are of the scheduled day.
        output: Folder or URI of the results: one row for each text and language.
        languages: Languages to translate into, by name or code, for example fr or Brazilian Portuguese.
        name: The job's name, in this UI and in the ledger.
        text_column: The column that holds the text.
        glossary: Terms by language, {fr: {basket: panier}}, or a YAML file that holds them.
        tone: How it should sound, for example friendly, informal address.
        model: The model's name, as the service knows it.
        max_output_tokens: The longest translation in tokens; it bounds what a row can cost.
        run_usd: The most that one run may cost, in dollars; left out there is no limit.
        settings: Any other setting of a job, for example {endpoint: {...}, limits: {...}, id_column: id}.
        date: The day of dates in paths and of prices; default the scheduled day in the job's time zone.
    """
    variables = {name: value for name, value in (("glossary", glossary), ("tone", tone)) if value is not None}
    system = SYSTEM + (TERMS if glossary is not None else "") + (TONE if tone is not None else "")
    job = {
        "name": name,
        "input": input,
        "output": output,
        "for_each": {"language": languages},
        "vars": variables,
        "prompt": {"system": system, "user": "{{ " + text_column + " }}"},
        "model": model,
        "max_output_tokens": max_output_tokens,
        "parameters": {"temperature": 0},
        "budget": {"run_usd": run_usd},
    }
    return complete_prompts.fn(make_job(merge(job, settings or {})), date)
