"""The `translate` flow: each text into each language, with a glossary and a tone. The main flow does the rest."""

from __future__ import annotations

from datetime import date as Date  # noqa: N812 - the parameter below is called `date`
from typing import Annotated, Any

from pydantic import Field

from parquill.flows.complete_prompts import complete_prompts
from parquill.tasks.job.glossary import read_glossary
from parquill.tasks.job.load import PlainText
from parquill.tasks.job.presets import Phrase, preset_job
from parquill.tasks.job.settings import JobName, Usd
from parquill.tasks.orchestration.python_flow import Input, python_flow
from parquill.tasks.orchestration.states import returns_state
from parquill.tasks.prompts.template import column_expression, column_template
from parquill.tasks.results.completed_run import CompletedRun

SYSTEM = "You are a translator. Translate the user's text into {{ LANGUAGE }}; answer with the translation alone."
TERMS = "{% if vars.glossary.get(LANGUAGE) %} Use these terms: {{ vars.glossary[LANGUAGE] | tojson }}.{% endif %}"
TONE = " Tone: {{ vars.tone }}."
GIVEN = {"vars.glossary": "glossary", "vars.tone": "tone"}  # and what every ready flow gives


@python_flow("translate")
@returns_state
def translate(
    input: Input,  # noqa: A002 - the contract's name
    output: str,
    languages: Annotated[list[Phrase], Field(min_length=1)],
    name: JobName = "translate",
    text_column: Annotated[str, Field(min_length=1)] = "text",
    language_column: Annotated[str, Field(pattern=r"^[^\W\d]\w*$")] = "language",
    glossary: dict[str, dict[str, str]] | Phrase | None = None,
    tone: Phrase | None = None,
    model: str = "gpt-6-luna",
    max_output_tokens: Annotated[int, Field(ge=1, le=10_000_000)] = 500,
    run_usd: Usd | None = None,
    settings: dict[str, Any] | None = None,
    date: Date | None = None,
) -> CompletedRun:
    """Translate a column of text into each of several languages within a budget, and return the run with its results.

    Args:
        input: Parquet, CSV or JSONL: file, folder, glob or URI; {date}, {date-1}, {month} are of the scheduled day.
            From Python also a DataFrame or an Arrow table.
        output: Folder or URI of the results: one row for each text and language.
        languages: Languages to translate into, by name or code, for example fr or Brazilian Portuguese.
        name: The job's name, in this UI and in the ledger.
        text_column: The column that holds the text.
        language_column: The new column that says which language a row is in; choose another name if the input already
            has a column of this name.
        glossary: Terms by language, {fr: {basket: panier}}, or a YAML or JSON file that holds them.
        tone: The tone, for example friendly, informal address.
        model: The model's name, as the service knows it. A model that can answer without thinking first is asked to,
            unless `settings` has parameters.
        max_output_tokens: The longest translation in tokens; it bounds what a row can cost.
        run_usd: The most that one run may cost, in dollars; without it there is no limit.
        settings: Any other setting of a job, for example {endpoint: {...}, limits: {...}, id_column: id}.
        date: The day of `{date}` in paths and of prices; default the scheduled day in the job's time zone.
    """
    variables: dict[str, Any] = {}
    if glossary is not None:
        variables["glossary"] = read_glossary(glossary, languages)
    if tone is not None:
        variables["tone"] = PlainText(tone)
    system = SYSTEM + (TERMS if glossary is not None else "") + (TONE if tone is not None else "")
    job = {
        "name": name,
        "input": input,
        "output": output,
        "for_each": {language_column: languages},
        "vars": variables,
        "prompt": {
            "system": system.replace("LANGUAGE", column_expression(language_column)),
            "user": column_template(text_column),
        },
        "model": model,
        "max_output_tokens": max_output_tokens,
        "budget": {"run_usd": run_usd},
    }
    given = {**GIVEN, f"for_each.{language_column}": "languages"}
    return complete_prompts.fn(preset_job(job, settings or {}, given), date)
