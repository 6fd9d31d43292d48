"""The job file that `parquill init` writes."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from parquill.tasks.job.load import make_job, parse_yaml
from parquill.tasks.job.reasoning import warn_of_thinking
from parquill.tasks.money.shutdowns import find_shutdown

STARTER = """\
# A Parquill job. Commented lines show what else can be set, with its default or an example.
# Look at it before you pay: parquill preview job.yaml, parquill estimate job.yaml
name: my-job                        # names the job in the Prefect UI

input: prompts.parquet              # a file, a folder or a glob; {date} and {date-1} may stand in the path
output: runs/my-job                 # results/, summary.json and report.html go here
# state: runs/.state                # jobs that share it reuse each other's answers; default OUTPUT/.parquill
# timezone: Europe/Paris            # of {date}; default UTC
# id_column: id                     # must be unique
# for_each: {language: [fr, de]}    # one output row for each input row and value
# vars: {glossary: glossary.yaml}   # a mapping, or a file that holds one, for the templates

prompt:                             # or messages_column: a column of chat messages
  system: Summarize the text in one sentence.
  user: "{{ text }}"                # {{ column | default('', true) }} where a null is fine

model: gpt-6-luna
max_output_tokens: 120              # bounds the cost; a longer answer is cut, and its row is `truncated`
parameters: {reasoning_effort: none}   # passed on to the service; this model would think first, within the 120 tokens
# response_format: schema.json      # a JSON schema; the validated answer is in the column `parsed`. For services that
                                    # know no schema: {type: json_object}

endpoint:
  base_url: https://api.openai.com/v1
  api: chat                         # chat, responses or completions
  api_key_env: OPENAI_API_KEY       # the NAME of the variable; a key never stands in a job file
  # auth: api-key                   # the key's header, for Azure and gateways that take no Authorization: Bearer
  # headers_env: {X-Tenant: TENANT} # more headers, each with the NAME of the variable of its value
  # query: {api-version: 2024-10-21}
  # limit_name: max_completion_tokens   # what the service calls max_output_tokens; detected by default
# price: {usd_per_mtok_input: 0, usd_per_mtok_output: 0}   # for a model without a public price

budget:
  run_usd: 1.00                     # never exceeded: a run is refused before it starts, or stopped on the way
  when_short: refuse                # or partial: complete what fits

limits:
  max_at_once: 64
  # requests_per_minute: 5000
  # tokens_per_minute: 2000000
  # shared: openai                  # runs with this name share both, through the ledger

# retry: {attempts: 6, timeout_s: 120, in_doubt: resend, patience_s: 1800}
# tolerate: {rejected: 0.01, not_ok: 0.0}
# column_prefix: ""
# labels: {team: search}
"""

SCHEMA_FILE = "job.schema.json"


def starter_for(path: Path) -> str:
    """Return the job file to write at `path`; it names the schema that `parquill schema` wrote beside it, if any."""
    line = f"# yaml-language-server: $schema={SCHEMA_FILE}\n"
    return (line if (path.parent / SCHEMA_FILE).is_file() else "") + STARTER


def warn_of_starter(today: date, text: str = STARTER) -> list[str]:
    """Warn about the job file that was just written: the model that an old release names may be shut down."""
    job = make_job(parse_yaml(text, "the starter"))
    shutdown = find_shutdown(job.model, job.endpoint.base_url)
    told = (shutdown.sentence(today) if shutdown is not None else None, warn_of_thinking(job))
    return [sentence for sentence in told if sentence is not None]
