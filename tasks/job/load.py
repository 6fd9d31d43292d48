"""Load a job file as a `Job`: YAML 1.2, `--set`, dates in paths, errors in one sentence."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import ScalarNode

from parquill.tasks.errors import BadJob
from parquill.tasks.job.advice import refuse_data, tell_fault
from parquill.tasks.job.response_format import one_form
from parquill.tasks.job.settings import Job
from parquill.tasks.job.size import check_size
from parquill.tasks.job.validation import explain
from parquill.tasks.storage.uri import is_uri, local_mirror

HALF = "holds half of a character (a lone surrogate)"
_SURROGATE = re.compile("[\ud800-\udfff]")


class PlainText(str):
    """A value of `vars` that stays text; any other text that names a YAML or JSON file is replaced by its content."""

    __slots__ = ()


class _Constructor(SafeConstructor):
    """Reads JSON's escapes, since YAML 1.2 is a superset of JSON: two escaped surrogates are one character."""

    def construct_scalar(self, node: ScalarNode) -> Any:
        """Return the value of a scalar, also of a key. Raises ConstructorError for a lone surrogate."""
        value = super().construct_scalar(node)
        if isinstance(value, str) and _SURROGATE.search(value):
            try:
                return value.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError:
                raise ConstructorError(None, None, HALF, node.start_mark) from None
        return value


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML 1.2 (so `no` is text, for example Norwegian). Raises BadJob with the line."""
    yaml = YAML(typ="safe", pure=True)
    # promise: input: a character that JSON escapes as a surrogate pair is joined
    yaml.Constructor = _Constructor
    yaml.version = (1, 2)
    try:
        return yaml.load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = str(getattr(error, "problem", None) or "is not YAML").strip()
        told = tell_fault(text, problem, None if mark is None else mark.line)
        raise BadJob(f"{where}{line}: {told}") from None
    # promise: input: malformed YAML is refused with a message, not a traceback
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise BadJob(f"{where}: is not YAML") from None


def read_yaml(path: Path, what: str) -> Any:
    """Read one YAML or JSON file; `what` names it in errors. Raises BadJob."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _parse_json(text, what, path) if path.suffix == ".json" else parse_yaml(text, str(path))
    except OSError as error:
        raise BadJob(f"cannot read {what} {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadJob(f"{what} {path} is not UTF-8 text") from None
    except (json.JSONDecodeError, RecursionError):
        raise BadJob(f"{what} {path} is not JSON") from None


def _parse_json(text: str, what: str, path: Path) -> Any:
    value = json.loads(text)
    try:
        # promise: input: a job file with an unpaired surrogate is refused
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadJob(f"{what} {path} {HALF}") from None
    return value


def load_job(path: Path, overrides: Iterable[str] = ()) -> Job:
    """Read a job file and apply `a.b=VALUE` overrides. Raises BadJob."""
    refuse_data(path)
    mapping = read_yaml(path, "the job file")
    if not isinstance(mapping, dict):
        raise BadJob(f"{path}: a job file is a mapping of settings; `parquill init` writes one to start from")
    for override in overrides:
        _set(mapping, override)
    job = make_job(mapping)
    # promise: input: a job that is too large for Prefect is refused
    check_size(job)
    return job


def _set(mapping: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise BadJob(f"--set takes NAME=VALUE, for example --set budget.run_usd=5, not {override!r}")
    *parents, last = path.strip().split(".")
    node: Any = mapping
    for name in parents:
        if node.get(name) is None:
            node[name] = {}
        node = node[name]
        if not isinstance(node, dict):
            raise BadJob(f"--set {path}: `{name}` is not a group of settings")
    node[last] = parse_yaml(text, f"--set {path}") if text.strip() else None


def merge(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with changes applied, group by group; lists and values are replaced."""
    merged = dict(settings)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def make_job(mapping: Mapping[str, Any]) -> Job:
    """Validate a mapping of settings. Raises BadJob with one sentence per fault, without the values."""
    try:
        return Job.model_validate(mapping)
    except ValidationError as error:
        raise BadJob("; ".join(explain(error))) from None


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


def place_job(job: Job, today: date) -> Job:
    """Resolve what a job refers to: dates and paths, `vars` and `response_format` files. Raises BadJob."""
    output = _absolute(job.output, today)
    mirror = local_mirror(output) if is_uri(output) else output
    changes: dict[str, Any] = {
        "input": _absolute(job.input, today),
        "output": output,
        "state": _absolute(job.state, today) if job.state else f"{mirror}/.parquill",
    }
    if job.vars is not None:
        variables = _mapping(job.vars, "vars") if isinstance(job.vars, str) else job.vars
        changes["vars"] = {name: _read_if_file(name, value) for name, value in variables.items()}
    if job.response_format is not None:
        changes["response_format"] = _response_format(job.response_format)
    return job.model_copy(update=changes)


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
