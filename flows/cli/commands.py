"""The `parquill` command: it parses arguments, calls other modules, and shows what they return."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click

from parquill.flows.cli import result_commands  # noqa: F401 - its commands register themselves
from parquill.flows.cli.group import Reported, cli, print_json
from parquill.flows.cli.options import Day, PilotRows, Whole, job_options, override_options
from parquill.flows.cli.prefect_server import set_prefect_defaults
from parquill.tasks.errors import Interrupted, ParquillError
from parquill.tasks.job.load import load_job
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.job.settings import MAX_ROWS, Job
from parquill.tasks.orchestration.redaction import safe_error
from parquill.tasks.records import STATUSES
from parquill.tasks.results.escaping import one_line

__all__ = ["cli", "main"]


@cli.command()
@click.argument("path", type=click.Path(path_type=Path), default=Path("job.yaml"))
@click.option("--provider", metavar="NAME", help="Write for a service: openai, azure, ollama and others.")
@click.option("--model", metavar="NAME", help="The model, as the service lists it.")
@click.option("--input", "location", metavar="PATH", help="Use this input, and make the prompt of its columns.")
def init(path: Path, provider: str | None, model: str | None, location: str | None) -> None:
    """Write a commented job file to start from.

    PATH is job.yaml if it is left out. With --provider, the file has the service's address, the name of its key and
    what its models need.
    """
    from parquill.flows.cli.starter import (
        STARTER_PROVIDER,
        next_steps,
        providers,
        read_starter,
        starter_for,
        warn_of_starter,
        write_starter,
    )

    if provider is not None and provider not in providers():
        raise click.BadParameter(f"{provider!r} is not known; use {', '.join(providers())}", param_hint="--provider")
    if model is None and provider not in {None, STARTER_PROVIDER}:
        raise click.UsageError(f"--provider {provider} needs --model NAME, as the service lists the model")
    prompt = None
    if location is not None:
        from parquill.flows.cli.input_prompt import describe_input

        prompt = describe_input(location)
    text = write_starter(provider, model, location, prompt)
    job = read_starter(text)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(starter_for(path, text))
    except FileExistsError:
        raise ParquillError(f"{path} already exists; name another file") from None
    except OSError as error:
        raise ParquillError(f"cannot write {path}: {error.strerror}") from None
    click.echo(f"wrote {path}; {next_steps(job, path, has_input=location is not None)}")
    for warning in warn_of_starter(datetime.now(UTC).date(), text):
        click.echo(f"warning: {warning}", err=True)


@cli.command()
def schema() -> None:
    """Print the JSON schema of a job file, for editors.

    Write it to job.schema.json before `init`, and the job file that `init` writes points to it.
    """
    from parquill.tasks.job.json_schema import job_schema

    print_json(job_schema())


@cli.command()
@job_options
@click.option("--rows", type=Whole(1, 1000), default=3, show_default=True, help="How many requests to show.")
def preview(job: Path, overrides: Sequence[str], day: date | None, as_json: bool, rows: int) -> None:
    """Show the first requests as they would be sent.

    Nothing is sent, and no key is needed.
    """
    from parquill.flows.cli.lists import show_preview
    from parquill.flows.cli.preview import preview_rows

    found = preview_rows(*_resolve(load_job(job, overrides), day), rows)
    print_json({"rows": found}) if as_json else show_preview(found)


@cli.command()
@job_options
@click.option("--limit", type=Whole(1, MAX_ROWS), help="Only the first N rows of the input.")
@click.option(
    "--pilot",
    type=PilotRows(),
    metavar="N|auto",
    help="Complete and pay for N rows first; `run` continues from them. `auto`: as many rows as an estimate within "
    "±5 % needs, for at most 1 % of the budget.",
)
@click.option("--compare", metavar="MODEL,...", help="Price the same rows for these models too.")
@click.option("--prices-on", type=Day(), help="Use the prices of another day.")
def estimate(
    job: Path,
    overrides: Sequence[str],
    day: date | None,
    as_json: bool,
    limit: int | None,
    pilot: int | None,
    compare: str | None,
    prices_on: date | None,
) -> None:
    """Count what the job would cost; send nothing.

    Exit 3 when it does not fit the budget. Only `--pilot` sends requests and needs a key.
    """
    from parquill.flows.cli.console import print_line, print_result, show_estimate
    from parquill.tasks.llm.dry_run import estimate_without_pilot

    if pilot is not None and prices_on is not None:
        raise click.UsageError("--pilot pays today's prices; to use --prices-on, leave out --pilot")
    resolved, options = _resolve(load_job(job, overrides), day, limit)
    if prices_on is not None:
        options = replace(options, day=prices_on)
    found = _pilot(resolved, options, pilot) if pilot is not None else None
    if found is not None and found.sentence:
        (print_line if as_json else print_result)(found.sentence)
    if compare:
        from parquill.flows.cli.compare import compare_models
        from parquill.flows.cli.lists import show_comparison

        models = [name.strip() for name in compare.split(",") if name.strip()]
        table = compare_models(resolved, options, models, datetime.now(UTC).date())
        print_json(table) if as_json else show_comparison(table)
        return
    found = found or estimate_without_pilot(resolved, options)
    if as_json:
        print_json(found.as_dict())
    else:
        show_estimate(found.job, found.estimate, found.verdict, found.price, found.completed, error=found.error)
    if found.error is not None:
        raise Reported(found.error)
    if not found.verdict.fits:
        sys.exit(3)


def _pilot(job: ResolvedJob, options: Any, rows: int) -> Any:
    from parquill.flows.cli.console import print_line, show_bar
    from parquill.flows.cli.signals import interrupted_by_signals, stop_on_signal
    from parquill.tasks.llm.dry_run import estimate_with_pilot

    with interrupted_by_signals(), stop_on_signal(), show_bar():
        found = estimate_with_pilot(job, options, rows or None)
    if found is None:
        print_line("no pilot was run: every row already has its answer")
    return found


@cli.command("try")
@job_options
@click.option("--rows", type=Whole(1, 1_000), default=5, show_default=True, help="How many rows to complete.")
def try_some(job: Path, overrides: Sequence[str], day: date | None, as_json: bool, rows: int) -> None:
    """Complete a few rows; show prompt, answer and price.

    The rows are spread over the input, from short to long. They are paid, and `run` reuses their answers.
    """
    from parquill.flows.cli.console import show_bar
    from parquill.flows.cli.signals import interrupted_by_signals, stop_on_signal
    from parquill.flows.cli.try_rows import show_trial, try_rows

    resolved, options = _resolve(load_job(job, overrides), day)
    with interrupted_by_signals(), stop_on_signal(), show_bar():
        trial = try_rows(resolved, options, rows)
    if as_json:
        print_json({"rows": [row.as_dict() for row in trial.rows], "message": trial.sentence})
    else:
        show_trial(trial)


@cli.command()
@job_options
@click.option("--limit", type=Whole(1, MAX_ROWS), help="Only the first N rows of the input.")
@click.option("--redo", metavar="STATUS,...", help=f"Complete rows with these statuses again: {', '.join(STATUSES)}.")
def run(
    job: Path, overrides: Sequence[str], day: date | None, as_json: bool, limit: int | None, redo: str | None
) -> None:
    """Complete the job within its budget, or resume it.

    It estimates, sends within budget and limits, and writes results and summary. The same command resumes a run that
    was stopped, and sends nothing when nothing is left to do.
    """
    from parquill.flows.cli.run import run_job

    statuses: list[Any] = [name.strip() for name in redo.split(",")] if redo else []
    unknown = [name for name in statuses if name not in STATUSES]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is not a status; use {', '.join(STATUSES)}", param_hint="--redo")
    summary, error = run_job(load_job(job, overrides), day, limit, statuses, as_json=as_json)
    if as_json and summary is not None:
        print_json(summary)
    if error is not None:
        raise Reported(error) if as_json and summary is not None else error


@cli.command()
@click.argument("job", required=False, type=click.Path(path_type=Path))
@override_options
@click.option("--send", is_flag=True, help="Also complete and pay for one row at each endpoint, which `run` reuses.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def doctor(job: Path | None, overrides: Sequence[str], send: bool, as_json: bool) -> None:
    """Check what a run needs: key, endpoint, model, Prefect.

    It also checks price, tokenizer, input and ledger. Each check is ok, warns, or says what to do.
    """
    from parquill.flows.cli.doctor import examine
    from parquill.flows.cli.lists import show_checks

    if send and job is None:
        raise click.BadParameter("it needs a JOB, of which it completes a row", param_hint="--send")
    found = load_job(job, overrides) if job else None
    checks = examine(found)
    if send and found is not None and all(check.ok for check in checks):
        from parquill.flows.cli.doctor_send import send_rows

        checks += send_rows(*_resolve(found, None))
    if as_json:
        print_json({"ok": all(check.ok for check in checks), "checks": [check.as_dict() for check in checks]})
    else:
        show_checks(checks)
    if not all(check.ok for check in checks):
        sys.exit(1)


@cli.command()
@click.argument("run", required=False)
@click.option("--decline", is_flag=True, help="Decline: the run ends, and nothing is sent.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def approve(run: str | None, decline: bool, as_json: bool) -> None:
    """Approve a waiting run, or list the waiting runs.

    A run waits if its expected cost is above `budget.approval_usd`. RUN is the flow run's id or name, or the name of
    its job.
    """
    from parquill.flows.cli.approve import answer, question_of, waiting
    from parquill.flows.cli.console import print_result

    if run is None:
        found = [{"id": str(each.id), "name": each.name, **question_of(each)} for each in waiting()]
        if as_json:
            print_json({"waiting": found})
        for each in found if not as_json else ():
            print_result(f"{each['id']}  {each['name']}: {each['question']} (until {each['until']})")
        if not found and not as_json:
            print_result("no run waits for approval")
        return
    name = answer(run, approve=not decline)
    word = "declined" if decline else "approved"
    print_json({"run": name, "answer": word}) if as_json else print_result(f"{name} is {word}")


@cli.command("serve-model", context_settings={"ignore_unknown_options": True})
@click.option("--port", type=Whole(0, 65535), default=8089, show_default=True, help="0 picks a free one.")
@click.option("--slots", type=Whole(1, 64), default=4, show_default=True, help="Requests at once.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def serve_model(port: int, slots: int, command: Sequence[str]) -> None:
    """Serve a small local model; no key, no cost.

    It runs until Ctrl-C, or while COMMAND runs. {url} in COMMAND is its address. For example:

    parquill serve-model -- parquill run job.yaml --set endpoint.base_url={url} --set endpoint.api_key_env=null
    """
    from parquill.flows.cli.serve_model import serve_while

    sys.exit(serve_while(port, slots, command))


def _resolve(job: Job, day: date | None, limit: int | None = None) -> tuple[ResolvedJob, Any]:
    from parquill.tasks.prompts.resolve import resolve_job

    return resolve_job(job, day, limit, ())


def _complain(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the reader of stderr is gone: the exit code is left
        click.echo(text, err=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with the documented codes; an error is one sentence on stderr."""
    set_prefect_defaults()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.exit(cli.main(words, prog_name="parquill", standalone_mode=False) or 0)
    except Reported as reported:
        _complain(f"parquill: {one_line(reported.error)}")
        sys.exit(reported.error.exit_code)
    except ParquillError as error:
        if "--json" in words:
            print_json({"error": str(error), "exit_code": error.exit_code})
        _complain(f"parquill: {one_line(error)}")
        sys.exit(error.exit_code)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(Interrupted.exit_code)
    except Exception as error:
        if os.environ.get("PARQUILL_TRACEBACK"):
            raise
        _complain(f"parquill: {safe_error(error)}")
        sys.exit(1)
