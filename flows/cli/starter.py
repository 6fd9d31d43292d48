"""The job file that `parquill init` writes: the starter, changed for a provider, a model and an input."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import NamedTuple

from parquill.data import FOLDER
from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import make_job, parse_yaml
from parquill.tasks.job.reasoning import SMALL_OUTPUT_TOKENS, answers_at_once, thinks, warn_of_thinking
from parquill.tasks.job.settings import Job
from parquill.tasks.money.prices import price_of
from parquill.tasks.money.shutdowns import find_shutdown

STARTER = (FOLDER / "jobs" / "starter.yaml").read_text(encoding="utf-8")
STARTER_PROVIDER = "openai"  # the starter's own, which has a model too
SCHEMA_FILE = "job.schema.json"
RESOURCE = "RESOURCE"  # in the address of a service where each customer has an own one
_COMMENT_COLUMN = 36


class Provider(NamedTuple):
    """A service of data/providers.toml, as `init` writes it into `endpoint` and `price`."""

    base_url: str
    api_key_env: str | None = None
    auth: str | None = None
    is_free: bool = False
    note: str | None = None


class InputPrompt(NamedTuple):
    """What `init` writes about an input: the template of the user's message, and the columns."""

    user: str
    columns: tuple[str, ...]
    id_column: str | None


@cache
def providers() -> Mapping[str, Provider]:
    """Return the services that `init` knows, by name."""
    found = tomllib.loads((FOLDER / "providers.toml").read_text(encoding="utf-8"))
    return {name: Provider(**given) for name, given in found.items()}


def write_starter(
    provider: str | None = None,
    model: str | None = None,
    location: str | None = None,
    prompt: InputPrompt | None = None,
) -> str:
    """Return the text of a job file. Without arguments it is the starter as it stands."""
    text = STARTER
    if location is not None:
        text = _with_line(text, "input: ", f"input: {_yaml(location)}")
    if prompt is not None:
        text = _with_prompt(text, prompt)
    if model is not None:
        text = _with_line(text, "model: ", f"model: {_yaml(model)}")
    if provider is not None:
        text = _with_provider(text, providers()[provider])
    return text if model is None else _with_thinking(text)


def starter_for(path: Path, text: str = STARTER) -> str:
    """Return the job file to write at `path`; it names the schema that `parquill schema` wrote beside it, if any."""
    line = f"# yaml-language-server: $schema={SCHEMA_FILE}\n"
    return (line if (path.parent / SCHEMA_FILE).is_file() else "") + text


def warn_of_starter(today: date, text: str = STARTER) -> list[str]:
    """Warn about a job file that was just written: its model may be shut down, think first, or lack a price."""
    job = read_starter(text)
    shutdown = find_shutdown(job.model, job.endpoint.base_url)
    warnings = (
        shutdown.sentence(today) if shutdown is not None else None,
        warn_of_thinking(job),
        _lacks_price(job, today),
    )
    return [sentence for sentence in warnings if sentence is not None]


def next_steps(job: Job, path: Path, *, has_input: bool) -> str:
    """Say what to do with a job file that was just written."""
    check = "check prompt and budget" if has_input else "set input, prompt and budget"
    own = f"write your resource for {RESOURCE} in endpoint.base_url, " if RESOURCE in job.endpoint.base_url else ""
    return f"{own}{check}, then run: parquill preview {path}"


def _lacks_price(job: Job, today: date) -> str | None:
    try:
        price_of(job, today)
    except BadJob as error:
        return str(error)
    return None


def read_starter(text: str) -> Job:
    """Read what `write_starter` has written. Raises BadJob for a model or an input that no job can have."""
    return make_job(parse_yaml(text, "the starter"))


def _with_provider(text: str, provider: Provider) -> str:
    # a note is long, so it gets its own line
    note = "" if provider.note is None else f"  # {provider.note}\n"
    text = _with_line(text, "  base_url: ", f"{note}  base_url: {provider.base_url}")
    if provider.api_key_env is None:
        text = _with_line(text, "  api_key_env: ", "  api_key_env: null", "no key is needed")
    else:
        text = _with_line(text, "  api_key_env: ", f"  api_key_env: {provider.api_key_env}")
    if provider.auth is not None:
        text = _with_line(text, "  # auth: ", f"  auth: {provider.auth}")
    if provider.is_free:
        free = "price: {usd_per_mtok_input: 0, usd_per_mtok_output: 0}"
        text = _with_line(text, "# price: ", free, "there is no charge")
    return text


def _with_prompt(text: str, prompt: InputPrompt) -> str:
    columns = ", ".join(prompt.columns)
    text = _with_line(text, "  user: ", f"  # columns of the input: {columns}\n  user: {_yaml(prompt.user)}")
    if prompt.id_column is None:
        return text
    return _with_line(text, "# id_column: ", f"id_column: {_yaml(prompt.id_column)}")


def _with_thinking(text: str) -> str:
    """Switch the model's thinking off if it can be switched off, or else leave it room."""
    job = read_starter(text)
    if answers_at_once(job.model, job.endpoint.api):
        return text  # the starter switches it off
    text = _with_line(text, "parameters: ", "# parameters: {}", "passed on to the service")
    if thinks(read_starter(text)):
        comment = "bounds the cost; this model thinks first, within these tokens"
        text = _with_line(text, "max_output_tokens: ", f"max_output_tokens: {SMALL_OUTPUT_TOKENS}", comment)
    return text


def _with_line(text: str, start: str, line: str, comment: str | None = None) -> str:
    """Replace the line that begins with `start`. Keeps the line's comment unless another one is given."""
    (old,) = [each for each in text.splitlines() if each.startswith(start)]
    if comment is None:
        found = re.search(r"  # (.*)", old.removeprefix("  # "))
        comment = found.group(1) if found is not None else ""
    *above, last = line.split("\n")
    commented = f"{last:<{_COMMENT_COLUMN - 2}}  # {comment}" if comment else last
    return text.replace(f"{old}\n", "\n".join([*above, commented]) + "\n")


def _yaml(value: str) -> str:
    """Write text as a YAML value, without quotes where it is surely read as text."""
    if re.fullmatch(r"[A-Za-z./_][\w./@+-]*(?:[:=][\w./@+-]+)*", value, re.ASCII) and parse_yaml(value, "") == value:
        return value
    if '"' in value and "'" not in value and value.isprintable():
        return f"'{value}'"
    return json.dumps(value, ensure_ascii=False)  # JSON is YAML
