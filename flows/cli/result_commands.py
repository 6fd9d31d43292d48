"""Commands that look at what runs have written and spent."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import click

from parquill.flows.cli.group import cli, print_json
from parquill.flows.cli.options import Day, Percent, Whole

DEFAULT_SAMPLE = 10


@cli.command()
@click.argument("location", metavar="JOB|OUTPUT")
@click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Override a setting (YAML value).")
@click.option("--date", "day", type=Day(), help="Day for {date} in paths.")
@click.option("--failed", is_flag=True, help="List the rows that are not ok.")
@click.option("--sample", type=Whole(1, 10_000), help="Show N random rows with their answers.")
@click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="Of rows with this value, such as status=refused.")
@click.option("--html", metavar="FILE", help="Write report.html again, from the results; - is stdout.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def report(
    location: str,
    overrides: Sequence[str],
    day: date | None,
    failed: bool,
    sample: int | None,
    where: Sequence[str],
    html: str | None,
    as_json: bool,
) -> None:
    """Show the latest summary of a job or an output.

    --sample and --where show rows of its results instead: 10 rows, unless --sample says how many.
    """
    from parquill.flows.cli.console import print_line, show_summary
    from parquill.flows.cli.lists import show_failed
    from parquill.flows.cli.report import STDOUT, find_latest, write_page
    from parquill.flows.cli.rows import parse_where, show_sample
    from parquill.tasks.results.export import plain_row
    from parquill.tasks.results.samples import sample_rows
    from parquill.tasks.storage.published import failed_rows, result_batches

    try:
        conditions = parse_where(where)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--where") from None
    if failed and (sample is not None or conditions):
        raise click.UsageError("--failed lists every row that is not ok; use it without --sample and --where")
    if html is not None and (failed or sample is not None or conditions or as_json):
        raise click.UsageError("--html writes the whole page; use it alone")
    latest = find_latest(location, overrides, day)
    if html is not None:
        write_page(latest, html)
        if html != STDOUT:
            print_line(f"wrote {html}")
        return
    if sample is not None or conditions:
        found = sample_rows(result_batches(latest.parts), sample or DEFAULT_SAMPLE, conditions)
        if as_json:
            rows = [plain_row({**given, **own}) for given, own in found.rows]
            print_json({"matching": found.matching, "rows": rows})
        else:
            show_sample(found, conditions)
        return
    not_ok = failed_rows(latest.parts) if failed else None
    if as_json:
        print_json({**latest.summary, **({"failed": list(not_ok)} if not_ok is not None else {})})
        return
    show_summary(latest.summary, latest.output, latest.output_uri)
    if not_ok is not None:
        show_failed(not_ok)


@cli.command()
@click.argument("location", metavar="JOB|OUTPUT")
@click.option("--csv", "csv_file", metavar="FILE", help="Write CSV; - is stdout.")
@click.option("--jsonl", "jsonl_file", metavar="FILE", help="Write JSON lines; - is stdout.")
@click.option("--so-far", is_flag=True, help="Export the answers that an unfinished run has so far.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Override a setting (YAML value).")
@click.option("--date", "day", type=Day(), help="Day for {date} in paths.")
def export(
    location: str,
    csv_file: str | None,
    jsonl_file: str | None,
    so_far: bool,
    overrides: Sequence[str],
    day: date | None,
) -> None:
    """Write the results of the latest run as CSV or JSON lines.

    Money is exact, lists and structs are JSON, and bytes are Base64.
    """
    from parquill.flows.cli.console import print_line
    from parquill.flows.cli.export import STDOUT, export_results

    file = csv_file or jsonl_file
    if file is None or (csv_file and jsonl_file):
        raise click.UsageError("name one file: --csv FILE or --jsonl FILE")
    rows = export_results(location, overrides, day, file, as_csv=csv_file is not None, so_far=so_far)
    print_line(f"{rows:,} rows" if file == STDOUT else f"wrote {rows:,} rows to {file}")


@cli.command()
@click.argument("before", metavar="JOB|OUTPUT")
@click.argument("after", metavar="JOB|OUTPUT")
@click.option("--on", metavar="COLUMN,...", help="Columns that identify a row; default: its file and row number.")
@click.option("--rows", type=Whole(0, 1_000), default=10, show_default=True, help="How many changed rows to show.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def diff(before: str, after: str, on: str | None, rows: int, as_json: bool) -> None:
    """Compare the results of two outputs row by row.

    It shows how many answers and statuses differ, what each output cost, and some of the rows that changed.
    """
    from parquill.flows.cli.diff import difference_json, find_difference, show_difference

    columns = [name.strip() for name in (on or "").split(",") if name.strip()]
    found = find_difference(before, after, columns, rows)
    print_json(difference_json(found)) if as_json else show_difference(found)


@cli.command()
@click.argument("job", required=False)
@click.option("--month", metavar="YYYY-MM", help="Default: this month (UTC).")
@click.option(
    "--resolve",
    type=click.Choice(["paid", "unpaid"]),
    is_flag=False,
    flag_value="paid",
    help="Settle what is in doubt as paid (default), or as unpaid if the service's bill shows that.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def spend(job: str | None, month: str | None, resolve: str | None, as_json: bool) -> None:
    """Show what a month has cost by day, job and model.

    It also forecasts the month's total. JOB is a job file or a job's name.
    """
    from parquill.flows.cli.console import print_result
    from parquill.flows.cli.spend import parse_query, read_spending, show_spending

    today = datetime.now(UTC).date()
    found = read_spending(parse_query(job, month, today), today, resolve)
    if as_json:
        print_json(found)
    else:
        for line in show_spending(found):
            print_result(line)


@cli.command()
@click.argument("job", required=False, type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Override a setting (YAML value).")
@click.option("--month", metavar="YYYY-MM", help="Default: this month (UTC).")
@click.option(
    "--file",
    "files",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Usage or costs that were exported as CSV or JSON, instead of an admin key.",
)
@click.option("--key", "keys", multiple=True, metavar="NAME=ID", help="The service's id of the key in a variable.")
@click.option("--tolerance", type=Percent(), default="1", show_default=True, help="The difference that still matches.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def reconcile(
    job: Path | None,
    overrides: Sequence[str],
    month: str | None,
    files: Sequence[Path],
    keys: Sequence[str],
    tolerance: Decimal,
    as_json: bool,
) -> None:
    """Compare the ledger with the usage and costs of the service.

    They are compared by day, model, lane and key. The service is OpenAI, or the endpoint of JOB; its figures are read
    with an admin key from the variable in endpoint.admin_key_env. Exit 1 says that they differ.
    """
    from parquill.flows.cli.console import print_result
    from parquill.flows.cli.reconcile import find_difference, show_difference
    from parquill.tasks.job.load import load_job
    from parquill.tasks.money.calendar_months import read_month

    pairs = [pair.partition("=") for pair in keys]
    if any(not (name and identity) for name, _, identity in pairs):
        raise click.BadParameter("it is NAME=ID, such as OPENAI_API_KEY=key_abc123", param_hint="--key")
    now = datetime.now(UTC)
    found = find_difference(
        None if job is None else load_job(job, overrides),
        read_month(month, now.date()),
        files,
        {name: identity for name, _, identity in pairs},
        tolerance,
        now,
    )
    if as_json:
        print_json(found)
    else:
        for line in show_difference(found):
            print_result(line)
    if not found["matches"]:
        sys.exit(1)
