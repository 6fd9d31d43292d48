"""A job whose settings need nothing else: its paths are absolute, its dates filled in, its files read."""

from __future__ import annotations

import os
import re
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from parquill.tasks.errors import BadJob
from parquill.tasks.job.lanes import RETRY_DEFAULTS, LaneName
from parquill.tasks.job.load import PlainText, read_yaml
from parquill.tasks.job.response_format import ResponseFormat, one_form, read_format
from parquill.tasks.job.settings import Job
from parquill.tasks.storage.uri import is_uri, local_mirror


class ResolvedJob(Job):
    """A job that `resolve` made, or one that a run has stored; everything after the command line works with it.

    `input`, `output` and `state` are absolute paths or URIs without dates. `vars` holds the content of the files that
    it named, and `response_format` is normalized (see `response_format`).
    """

    state: str
    vars: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None

    def in_lane(self, lane: LaneName) -> ResolvedJob:
        """Return the job as it is sent in one lane.

        What `retry` leaves open for `lane: auto` has each lane's own default: its model's default counts as left open.
        """
        retry = self.retry
        if self.lane == "auto":
            given = RETRY_DEFAULTS.get(lane, {})
            fields = type(retry).model_fields
            left = {name: value for name, value in given.items() if getattr(retry, name) == fields[name].default}
            retry = retry.model_copy(update=left)
        return self.model_copy(update={"lane": lane, "finish_by": None, "retry": retry})

    def one_part(self) -> ResolvedJob:
        """Return the job as one of several processes completes a part of it: all together keep `max_at_once`."""
        parts = self.parts
        endpoints = self.endpoints and [each.one_part(parts) for each in self.endpoints]
        at_once = {"max_at_once": self.limits.max_at_once // parts}
        return self.model_copy(update={"limits": self.limits.model_copy(update=at_once), "endpoints": endpoints})

    @property
    def answer_format(self) -> ResponseFormat | None:
        """What an answer must be; None for any text."""
        return read_format(self.response_format)


def resolve(job: Job, today: date) -> ResolvedJob:
    """Resolve what a job refers to: dates and paths, `vars` and `response_format` files. Raises BadJob."""
    output = _absolute(job.output, today)
    mirror = local_mirror(output) if is_uri(output) else output
    resolved: dict[str, Any] = {
        **{name: getattr(job, name) for name in Job.model_fields},
        "input": _absolute(job.input, today),
        "output": output,
        "state": _absolute(job.state, today) if job.state else f"{mirror}/.parquill",
    }
    defaults = {k: v for k, v in RETRY_DEFAULTS.get(job.lane, {}).items() if k not in job.retry.model_fields_set}
    resolved["retry"] = job.retry.model_copy(update=defaults)
    if job.vars is not None:
        variables = _mapping(job.vars, "vars") if isinstance(job.vars, str) else job.vars
        resolved["vars"] = {name: _read_if_file(name, value) for name, value in variables.items()}
    if job.response_format is not None:
        resolved["response_format"] = _response_format(job.response_format)
    # the settings are valid: validating them again would refuse values that files may hold
    return ResolvedJob.model_construct(job.model_fields_set | {"state"}, **resolved)


_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(date|month)([+-]\d{1,4})?\}|\{[^{}]*\}")


def expand_dates(text: str, day: date) -> str:
    """Replace {date}, {date-1}, {month}, {month-1} with the day or month (ISO 8601), and doubled braces with single.

    Raises BadJob for anything else in braces.
    """

    def value(match: re.Match[str]) -> str:
        if (found := match.group()) in {"{{", "}}"}:
            # promise: input: doubled braces in a path stand for single braces
            return found[0]
        unit, offset = match.group(1), int(match.group(2) or 0)
        if unit is None:
            raise BadJob(
                f"{found} in a path is unknown; use {{date}}, {{date-1}} or {{month}}, or for a name with these braces "
                f"write {{{found}}}"
            )
        if unit == "date":
            try:
                return (day + timedelta(days=offset)).isoformat()
            except OverflowError:
                raise BadJob(f"{found} is a day that no calendar has") from None
        months = day.year * 12 + day.month - 1 + offset
        if not 12 <= months < 120_000:
            raise BadJob(f"{found} is a month that no calendar has")
        return f"{months // 12:04d}-{months % 12 + 1:02d}"

    return _PLACEHOLDER.sub(value, text)


def _response_format(value: dict[str, Any] | str) -> dict[str, Any]:
    """Return a normalized response_format; it, and the schema in its wrapper, may be in files."""
    try:
        found = one_form(_mapping(value, "response_format") if isinstance(value, str) else value)
        if found.get("type") == "json_schema" and isinstance(found["schema"], str):
            found = one_form({**found, "schema": _mapping(found["schema"], "response_format.schema")})
    except ValueError as error:
        raise BadJob(f"`response_format`: {error}") from None
    return found


def _absolute(path: str, today: date) -> str:
    if is_uri(path):
        return expand_dates(path, today)
    try:
        # normalized: `runs/../out` is `out`
        found = os.path.abspath(Path(expand_dates(path, today)).expanduser())  # noqa: PTH100 - links are kept
        os.fsencode(found)
    except RuntimeError:
        raise BadJob(f"{path} names the home of a user who does not exist") from None
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        raise BadJob(
            f"{path!a} cannot be opened: file names are {encoding} in this environment; set PYTHONUTF8=1"
        ) from None
    return found


def _read_if_file(name: str, value: Any) -> Any:
    """Return the content of the YAML or JSON file that a value names, as in `vars: {glossary: glossary.yaml}`."""
    if isinstance(value, PlainText):
        return str(value)
    if isinstance(value, str) and value.endswith((".yaml", ".yml", ".json")):
        return read_yaml(Path(value).expanduser(), f"`vars.{name}`")
    return value


def _mapping(path: str, setting: str) -> dict[str, Any]:
    value = read_yaml(Path(path).expanduser(), f"`{setting}`")  # JSON is YAML 1.2
    if not isinstance(value, dict):
        raise BadJob(f"`{setting}`: {path} must hold a mapping")
    return value
