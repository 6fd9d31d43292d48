"""One row of a batch: its request is answered and billed as a live one, and written as a line of a result file."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from .answers import BadRequestError, Usage, make_answer, read_call
from .batch_input import APIS
from .exchange import JSON, Request
from .misbehavior import reply_to
from .replies import error

if TYPE_CHECKING:
    from .answers import Answer, Call
    from .faults import FaultBook, Rule
    from .options import Options

_REMAINDERS = {
    "batch_expired": "This request could not be executed before the completion window expired.",
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
}


class Done(NamedTuple):
    """What has become of a row; `lines` are whole, with their line ends."""

    lines: tuple[bytes, ...]
    in_error_file: bool
    counted_failed: bool
    digest: bytes
    billed: Usage | None


def complete_row(raw: bytes, custom_id: str, url: str, identity: str, faults: FaultBook, options: Options) -> Done:
    """Complete one row; `raw` is its line of the input file, `identity` is unique."""
    body = orjson.dumps(orjson.loads(raw)["body"])
    try:
        call = read_call(APIS[url], body, options)
    except BadRequestError as problem:
        refused = error(problem.status, str(problem), param=problem.param, code=problem.code)
        return _failed(custom_id, identity, problem.status, refused.body, b"")
    answer = make_answer(call, options)
    rule = faults.pick(options.batch.row_faults, options.seed, call.digest, raw)
    special = None if rule is None else _special(rule, custom_id, identity, call, answer, options)
    if special is not None:
        return special
    if rule is not None and rule.kind == "long_line":
        answer.text = (answer.text or "").ljust(options.batch.long_line_bytes, ".")
    request = Request(b"POST", url.encode(), b"", body, 0.0)
    reply = reply_to(call, answer, rule, request, identity, options.model_suffix)
    written = reply.body if reply.content_type == JSON else orjson.dumps(reply.body.decode("utf-8", "replace"))
    billed = answer.usage if rule is None or rule.bills else None
    if reply.status >= 400:
        return _failed(custom_id, identity, reply.status, written, call.digest, billed)
    return Done((_line(custom_id, identity, reply.status, written or b"{}"),), False, False, call.digest, billed)


def _special(rule: Rule, custom_id: str, identity: str, call: Call, answer: Answer, options: Options) -> Done | None:
    """Return what the kinds that only a file can have make of a row; None for the others."""
    billed = answer.usage if rule.bills else None
    kind, _, code = rule.kind.partition(":")
    if kind == "error":
        line = _without_response(custom_id, identity, code, "This request failed.")
        return Done((line,), True, True, call.digest, billed)
    if kind == "missing":
        return Done((), False, False, call.digest, billed)
    if kind == "status_code_zero":
        return Done((_line(custom_id, "", 0, b"{}"),), True, False, call.digest, billed)
    if kind in {"empty_object", "null_body"}:
        line = _line(custom_id, identity, 200, b"{}" if kind == "empty_object" else b"null")
        return Done((line,), False, False, call.digest, billed)
    if kind in {"duplicate", "foreign"}:
        reply = reply_to(call, answer, None, Request(b"", b"", b"", b"", 0.0), identity, options.model_suffix)
        other = custom_id if kind == "duplicate" else "foreign-" + custom_id
        lines = tuple(_line(each, identity, 200, reply.body) for each in (custom_id, other))
        return Done(lines, False, False, call.digest, billed)
    return None


def remainder_line(custom_id: str, identity: str, code: str) -> bytes:
    """Return the line of a row that was not completed."""
    return _without_response(custom_id, identity, code, _REMAINDERS[code])


def _failed(
    custom_id: str, identity: str, status: int, body: bytes, digest: bytes, billed: Usage | None = None
) -> Done:
    return Done((_line(custom_id, identity, status, body),), True, True, digest, billed)


def _line(custom_id: str, identity: str, status: int, body: bytes) -> bytes:
    """Write a line around a body that is kept as it is, even if it is no JSON."""
    head = {"id": _name(custom_id, identity), "custom_id": custom_id}
    request_id = orjson.dumps("req_" + identity if identity else "")
    return b'%b,"response":{"status_code":%d,"request_id":%b,"body":%b},"error":null}\n' % (
        orjson.dumps(head)[:-1], status, request_id, body,
    )  # fmt: skip


def _without_response(custom_id: str, identity: str, code: str, message: str) -> bytes:
    line: dict[str, Any] = {"id": _name(custom_id, identity), "custom_id": custom_id, "response": None}
    return orjson.dumps(line | {"error": {"code": code, "message": message}}) + b"\n"


def _name(custom_id: str, identity: str) -> str:
    return "batch_req_" + sha256(f"{identity}/{custom_id}".encode()).hexdigest()[:24]
