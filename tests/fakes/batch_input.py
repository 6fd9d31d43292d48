"""The input file of a batch: its rows, and everything for which the whole batch is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from .answers import BadRequestError, read_call

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .options import Options

_MAX_PROBLEMS = 50
_BOM = b"\xef\xbb\xbf"
_KEYS: dict[str, type] = {"custom_id": str, "method": str, "url": str, "body": dict}
APIS = {"/v1/chat/completions": "chat", "/v1/responses": "responses", "/v1/completions": "completions"}


class Row(NamedTuple):
    """One request, as the place of its line in the file."""

    custom_id: str
    start: int
    end: int


class Problem(NamedTuple):
    """Why a batch is refused; `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def document(self) -> dict[str, Any]:
        """Return it as an entry of `errors.data`."""
        return {"code": self.code, "message": self.message, "param": self.param, "line": self.line}


@dataclass(slots=True)
class BatchInput:
    """What an input file holds."""

    rows: list[Row] = field(default_factory=list)
    url: str | None = None
    model: str = ""
    prompt_tokens: int = 0
    problems: list[Problem] = field(default_factory=list)


def with_version(url: str, options: Options) -> str:
    """Return a path with /v1; only Azure takes it without."""
    return "/v1" + url if options.batch.is_azure and not url.startswith("/v1/") else url


def read_input(content: bytes, endpoint: str, options: Options) -> BatchInput:
    """Read a file and check every line; the checks of a single body are left to its request."""
    found = BatchInput()
    if options.batch.is_azure and content.startswith(_BOM):
        message = (
            "A valid model deployment name couldn't be extracted from the input file. Each row needs a valid deployment "
            "name in the 'model' field, and all rows need the same."
        )
        found.problems.append(Problem("invalid_request", message))
        return found
    seen: set[str] = set()
    for number, (start, end) in enumerate(_lines(content), start=1):
        problem = _read_line(found, seen, content[start:end], (number, start, end), endpoint, options)
        if problem is not None:
            found.problems.append(problem)
        if len(found.problems) >= _MAX_PROBLEMS:
            return found
        if number > options.batch.most_rows:
            message = f"The file has more than {options.batch.most_rows} requests, which is the limit of a batch."
            found.problems.append(Problem("too_many_tasks", message))
            return found
    if not found.rows and not found.problems:
        found.problems.append(Problem("empty_file", "The input file is empty."))
    return found


def _lines(content: bytes) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        yield start, end
        start = end + 1


def _read_line(
    found: BatchInput, seen: set[str], raw: bytes, place: tuple[int, int, int], endpoint: str, options: Options
) -> Problem | None:
    number, start, end = place
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return Problem("invalid_json_line", "This line is not parseable as valid JSON.", number)
    if not isinstance(line, dict):
        return Problem("invalid_json_line", "This line is not a JSON object.", number)
    problem = _envelope_problem(line, number)
    if problem is not None:
        return problem
    if line["custom_id"] in seen:
        message = f"The custom_id '{line['custom_id']}' is not unique in this file."
        return Problem("duplicate_custom_id", message, number, "custom_id")
    seen.add(line["custom_id"])
    if with_version(line["url"], options) != with_version(endpoint, options):
        message = f"The URL '{line['url']}' does not match the batch's endpoint '{endpoint}'."
        return Problem("url_mismatch", message, number, "url")
    problem = _model_problem(found, line["body"], number, options)
    if problem is None:
        found.url = found.url or line["url"]
        found.rows.append(Row(line["custom_id"], start, end))
        found.prompt_tokens += _prompt_tokens(APIS[with_version(endpoint, options)], line["body"], options)
    return problem


def _envelope_problem(line: dict[str, Any], number: int) -> Problem | None:
    for name in sorted(_KEYS.keys() ^ line.keys()):
        missing = name in _KEYS
        code, text = ("missing_required", "Missing required") if missing else ("unknown", "Unknown")
        return Problem(f"{code}_parameter", f"{text} parameter: '{name}'.", number, name)
    for name, kind in _KEYS.items():
        if not isinstance(line[name], kind) or not line[name]:
            return Problem("invalid_type", f"Invalid '{name}': {kind.__name__} is wanted.", number, name)
    if line["method"] != "POST":
        return Problem("invalid_method", "Invalid 'method': POST is wanted.", number, "method")
    return None


def _model_problem(found: BatchInput, body: dict[str, Any], number: int, options: Options) -> Problem | None:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        message = "Missing required parameter: 'body.model'."
        return Problem("missing_required_parameter", message, number, "body.model")
    if options.models is not None and model not in options.models:
        message = f"The provided model '{model}' is not supported by the Batch API."
        return Problem("model_not_found", message, number, "body.model")
    if found.model and model != found.model:
        message = f"The model '{model}' does not match '{found.model}'; a batch has one model."
        return Problem("model_mismatch", message, number, "body.model")
    found.model = model
    return None


def _prompt_tokens(api: str, body: dict[str, Any], options: Options) -> int:
    try:
        return read_call(api, orjson.dumps(body), options).prompt_tokens
    except BadRequestError:
        return 0  # its request is refused later, and only that one
