"""Explains why almost nothing can be reused: which settings of rows or requests changed since the run that paid.

The sentences show only settings, and of texts and schemas only that they changed. They never contain a value of `vars`,
a cell or an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parquill.tasks.job.endpoint import identity_of
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.money.estimate import EstimateSum
from parquill.tasks.storage.disk import read_json
from parquill.tasks.storage.folders import RunFolder

FEW = 0.05  # if fewer of the rows are reused, the reason is shown
_PLAIN = ("input", "model", "max_output_tokens", "parameters_column", "messages_column", "dedupe")
MAX_COMPARED_RUNS = 100  # the latest
_BEST = 3  # the rank of a run of the same job that sent as much as matters
_SECOND = len("20261129-120000")  # of a run's id: ids of one second do not sort
_MAX_SHOWN = 60  # characters of a value that is shown


def explain_reuse(job: ResolvedJob, total: EstimateSum, runs: Sequence[RunFolder]) -> str | None:
    """Return one sentence if a state folder has answers but almost no row can reuse them; None otherwise.

    `runs` are the runs of the state folder.
    """
    rows = total.rows - sum(total.rejected.values())
    if not rows or total.reused >= FEW * rows:
        return None
    found = _run_to_compare(job, rows, runs)
    if found is None:
        return None
    run_id, before = found
    since = f"since run {run_id}"
    if before.get("name") != job.name:
        since += f" of the job {before.get('name')}"
    count = f"only {total.reused:,}" if total.reused else "none"
    message = f"{count} of {rows:,} rows can be reused"
    changes = list(_changes(before, job.model_dump(mode="json")))
    if changes:
        message = f"{message}: {', '.join(changes)} {since}"
        is_replaced = before.get("output") == job.output and before.get("input") != job.input
        return f"{message}, whose results this run replaces" if is_replaced else message
    message += f": no setting that goes into a request changed {since}, which has no answers to these rows"
    if not job.dedupe and job.id_column is None:
        message += " (with `dedupe: false` and no `id_column` a row is also identified by its file and number)"
    return message


def _run_to_compare(job: ResolvedJob, rows: int, runs: Sequence[RunFolder]) -> tuple[str, Mapping[str, Any]] | None:
    """Return the latest run that sent something: a large one of this job, else any of this job, else any run."""
    best: tuple[tuple[int, str], str, Mapping[str, Any]] | None = None
    for run in sorted(runs, key=lambda run: run.run_id, reverse=True)[:MAX_COMPARED_RUNS]:
        if best is not None and best[0][0] == _BEST and run.run_id[:_SECOND] != best[1][:_SECOND]:
            break  # the others began before
        settings, plan = read_json(run.path / "job.json"), read_json(run.plan)
        if settings is None or plan is None or "restored" in plan or not run.has_journals():
            continue
        mine = settings.get("name") == job.name
        sent = sum(shard["to_send"] for shard in plan["shards"])
        # by start time: ids within one second are not in order
        rank = (2 * mine + (mine and sent >= FEW * rows), str(plan["started_at"]))
        if best is None or rank > best[0]:
            best = (rank, run.run_id, settings)
    return None if best is None else best[1:]


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Yield the input and each setting of a request key that differs, with both values if short and plain."""
    before, after = old.get("endpoint") or {}, new["endpoint"]
    if _address(before) != _address(after):
        yield _told("endpoint.name" if after.get("name") else "endpoint.base_url", _address(before), _address(after))
    if before.get("api") != after["api"]:
        yield _told("endpoint.api", before.get("api"), after["api"])
    for name in _PLAIN:
        if old.get(name) != new.get(name):
            yield _told(name, old.get(name), new.get(name))
    yield from _inside("parameters", old, new, shown=True)
    yield from _inside("prompt", old, new, shown=False)
    if old.get("response_format") != new.get("response_format"):
        yield "response_format changed"
    yield from _inside("vars", old, new, shown=False)
    yield from _inside("for_each", old, new, shown=True)
    if not new.get("dedupe") and old.get("id_column") != new.get("id_column"):
        yield _told("id_column", old.get("id_column"), new.get("id_column"))


def _address(endpoint: Mapping[str, Any]) -> Any:
    return identity_of(endpoint.get("name"), endpoint.get("base_url"), endpoint.get("query") or {})


def _inside(setting: str, old: Mapping[str, Any], new: Mapping[str, Any], *, shown: bool) -> Iterator[str]:
    """Yield the members of a mapping that differ; with `shown`, also their values."""
    before, after = old.get(setting) or {}, new.get(setting) or {}
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        if before != after:
            yield f"{setting} changed"
        return
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            path = f"{setting}.{name}"
            yield _told(path, before.get(name), after.get(name)) if shown else f"{path} changed"


def _told(name: str, before: Any, after: Any) -> str:
    words = [_word(before), _word(after)]
    return f"{name} changed" + (f" from {words[0]} to {words[1]}" if all(words) else "")


def _word(value: Any) -> str | None:
    """Return a short plain value in the form of YAML; None if it is too long to show."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        words = [_word(item) for item in value]
        text = f"[{', '.join(str(word) for word in words)}]" if all(words) else ""
    else:
        text = str(value) if isinstance(value, str | int | float) else ""
    return text if 0 < len(text) <= _MAX_SHOWN else None
