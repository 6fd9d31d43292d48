"""`parquill diff`: show what differs between the results of two outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parquill.flows.cli.console import print_result
from parquill.flows.cli.report import find_latest
from parquill.flows.cli.rows import INDENT, shorten
from parquill.tasks.errors import BadInput
from parquill.tasks.money.amounts import format_column, nano_to_usd, usd_text
from parquill.tasks.results.difference import Difference, compare_outputs
from parquill.tasks.results.export import plain_row
from parquill.tasks.storage.published import result_batches


def find_difference(before: str, after: str, on: Sequence[str], rows: int) -> Difference:
    """Compare the latest results of two jobs or outputs. Raises BadJob, BadInput, DiskFailed."""
    parts = []
    for location in (before, after):
        found = list(find_latest(location, (), None).parts)
        if not found:
            raise BadInput(f"{location} has no results yet")
        parts.append(found)
    return compare_outputs(lambda: result_batches(parts[0]), lambda: result_batches(parts[1]), on, rows)


def show_difference(found: Difference) -> None:
    """Show counts, costs and examples."""
    for name, value in _figures(found).items():
        print_result(f"{name:<21} {value}")
    for row in found.examples:
        print_result(f"--- {', '.join(f'{name} {value}' for name, value in row.key.items())}")
        for word, side in (("before", row.before), ("after", row.after)):
            answer = side["completion"] if side["completion"] is not None else side["error_message"]
            print_result(f"{INDENT}{word}: {side['status']}: {shorten(answer)}")
    if found.changed > len(found.examples):
        print_result(f"{len(found.examples):,} of {found.changed:,} changed rows; `--rows` shows more")


def difference_json(found: Difference) -> dict[str, Any]:
    """Return counts, costs and examples as one JSON object."""
    return {
        "rows_before": found.rows[0],
        "rows_after": found.rows[1],
        "same": found.same,
        "changed": found.changed,
        "only_before": found.only_before,
        "only_after": found.only_after,
        "statuses": [{"before": old, "after": new, "rows": rows} for (old, new), rows in found.statuses.most_common()],
        "cost_usd_before": usd_text(nano_to_usd(found.cost_nano[0])),
        "cost_usd_after": usd_text(nano_to_usd(found.cost_nano[1])),
        "examples": [{"key": plain_row(row.key), "before": row.before, "after": row.after} for row in found.examples],
    }


def _figures(found: Difference) -> dict[str, str]:
    statuses = ", ".join(f"{old} to {new} {rows:,}" for (old, new), rows in found.statuses.most_common())
    costs = format_column(list(found.cost_nano))
    return {
        "rows": f"{found.rows[0]:,} before, {found.rows[1]:,} after",
        "same answer": f"{found.same:,}",
        "changed": f"{found.changed:,}",
        **({"statuses that changed": statuses} if statuses else {}),
        **({"only before": f"{found.only_before:,}"} if found.only_before else {}),
        **({"only after": f"{found.only_after:,}"} if found.only_after else {}),
        "cost": f"{costs[0]} before, {costs[1]} after",
    }
