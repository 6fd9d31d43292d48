"""What the report needs beside summary and results: the settings, and the columns that the prompt uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from parquill.tasks.errors import BadJob
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.prompts.template import Templates
from parquill.tasks.results.export import plain_text
from parquill.tasks.storage.uri import redact_uri

MAX_SETTING = 10_000  # characters of one setting


@dataclass(frozen=True, slots=True)
class ReportPlan:
    """What the report shows of a job; the manifest keeps it, so that the page can be made again from the output.

    `settings` are pairs of a name and a text. `columns` are the input columns that the prompt uses. `output_shares` is
    the predicted share of answers by bin of output length (`money.length_stats`).
    """

    settings: Sequence[Sequence[str]] = ()
    columns: Sequence[str] = ()
    for_each: Sequence[str] = ()
    id_column: str | None = None
    timezone: str = "UTC"
    output_shares: Sequence[Sequence[float]] = field(default=())

    @classmethod
    def of(cls, job: ResolvedJob, columns: Sequence[str] = (), output_shares: Sequence[Sequence[float]] = ()) -> Self:
        """Return the plan for a job and the input columns of its results."""
        return cls(
            settings=shown_settings(job),
            columns=_columns_of_prompt(job, columns),
            for_each=list(job.for_each or {}),
            id_column=job.id_column,
            timezone=job.timezone,
            output_shares=output_shares,
        )

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> Self:
        """Read what a manifest keeps; earlier manifests keep nothing."""
        return cls(**(stored or {}))

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest keeps."""
        return asdict(self)


def shown_settings(job: ResolvedJob) -> list[tuple[str, str]]:
    """Return the settings that are not the default, as `budget.run_usd`, with their values as text.

    The content of `vars` is left out, because it may be data.
    """
    settings = job.model_dump(mode="json", exclude_defaults=True, exclude={"vars", "prompt"})
    found = list(_flat(settings, ""))
    if job.vars:
        found.append(("vars", ", ".join(job.vars)))
    if job.prompt is not None:
        found += [
            (f"prompt.{role}", text[:MAX_SETTING])
            for role, text in (("system", job.prompt.system), ("user", job.prompt.user))
            if text is not None
        ]
    return found


_WHOLE = frozenset({"parameters", "response_format", "for_each", "labels"})  # mappings whose keys are not settings


def _flat(settings: Mapping[str, Any], before: str) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict) and value and name not in _WHOLE:
            yield from _flat(value, f"{before}{name}.")
        elif value is not None:
            yield before + name, redact_uri(plain_text(value))[:MAX_SETTING]


def _columns_of_prompt(job: ResolvedJob, columns: Sequence[str]) -> list[str]:
    if job.prompt is None:
        return [job.messages_column] if job.messages_column else []
    names = [*columns, *(name for name in job.for_each or {} if name not in columns)]
    try:
        used = Templates(job.prompt.system, job.prompt.user, names, job.vars).columns
    except BadJob:  # the plan has compiled the same templates, so this is an odd column; the report does without
        return []
    return [name for name in used if name not in (job.for_each or {})]
