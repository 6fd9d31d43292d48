"""Load a job file as a `Job`: YAML 1.2, `--set`, errors in one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import ScalarNode

from parquill.tasks.errors import BadJob
from parquill.tasks.job.advice import refuse_data, tell_fault
from parquill.tasks.job.settings import Job
from parquill.tasks.job.size import check_size
from parquill.tasks.job.validation import explain

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
        message = tell_fault(text, problem, None if mark is None else mark.line)
        raise BadJob(f"{where}{line}: {message}") from None
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


def read_job_file(path: Path) -> dict[str, Any]:
    """Read the settings of a job file, which are not validated yet. Raises BadJob."""
    refuse_data(path)
    mapping = read_yaml(path, "the job file")
    if not isinstance(mapping, dict):
        raise BadJob(f"{path}: a job file is a mapping of settings; `parquill init` writes one to start from")
    return mapping


def load_job(path: Path, overrides: Iterable[str] = ()) -> Job:
    """Read a job file and apply `a.b=VALUE` overrides. Raises BadJob."""
    mapping = read_job_file(path)
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


def nest(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with dotted names as groups: {"budget.run_usd": 5} is {"budget": {"run_usd": 5}}."""
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        first, *rest = str(name).split(".")
        for group in reversed(rest):
            value = {group: value}  # noqa: PLW2901 - from the inside out
        nested = merge(nested, {first: value})
    return nested


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
