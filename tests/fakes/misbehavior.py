"""What each kind of fault does to an answer, to its document or to the bytes of the reply."""

from __future__ import annotations

import struct
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson

from .answers import Answer, Call, Usage, cut_text
from .exchange import Manner, Reply, Request
from .replies import error, written

if TYPE_CHECKING:
    from collections.abc import Callable

    from .faults import Rule

_HTML = b"<!doctype html><html><body><h1>Welcome to the gateway</h1></body></html>"
_BOMB_MIB = 64


def reply_to(call: Call, answer: Answer, rule: Rule | None, request: Request, identity: str, suffix: str) -> Reply:
    """Return the reply to a request that a rule hits, or that no rule hits; the answer may change, as it is billed."""
    if rule is None:
        return Reply(200, orjson.dumps(written(call, answer, identity, suffix)))
    twist_answer(rule.kind, call, answer)
    return instead(rule, request) or twisted(rule, call, answer, identity, suffix)


def instead(rule: Rule, request: Request) -> Reply | None:
    """Return the reply of the kinds that do not use the answer; None for the others."""
    retry = b"" if rule.retry_after is None else b"retry-after: %b\r\n" % rule.retry_after.encode("latin-1")
    if rule.status is not None:
        page = Reply(rule.status, b"<html><h1>Bad Gateway</h1></html>", retry, content_type=b"text/html")
        return page if rule.kind.startswith("gateway") else error(rule.status, headers=retry)
    if rule.kind == "insufficient_quota":
        message = "You exceeded your current quota, please check your plan and billing details."
        return error(429, message, code="insufficient_quota", kind="insufficient_quota", headers=retry)
    if rule.kind == "redirect":
        return Reply(307, b"", b"location: %b\r\n" % rule.location.encode("latin-1"))
    if rule.kind == "echo":
        received = request.header(b"authorization") + b" " + request.header(b"api-key") + b" " + request.body
        return error(400, f"Not understood: {received.decode('utf-8', 'replace')}")
    if rule.kind == "ansi":
        return error(400, "\x1b[2J\x1b[31mred\x1b[0m \x1b]0;title\x07 <script>alert(1)</script> [link](x)")
    simple = _SIMPLE.get(rule.kind)
    return simple() if simple is not None else None


@cache
def _bomb() -> bytes:
    """Return one packed piece, repeated: after a full flush a piece does not depend on what came before it."""
    piece = b" " * 1_048_576
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(_BOMB_MIB):
        checksum = zlib.crc32(piece, checksum)
    end = packer.flush() + struct.pack("<II", checksum, _BOMB_MIB * len(piece))
    return b"\x1f\x8b\x08\0\0\0\0\0\x02\xff" + packed * _BOMB_MIB + end


_SIMPLE: dict[str, Callable[[], Reply]] = {
    "disconnect_before": lambda: Reply(0, b"", manner=Manner.NOTHING),
    "hang": lambda: Reply(0, b"", manner=Manner.HANG),
    "garbage": lambda: Reply(200, _HTML, content_type=b"text/html"),
    "empty_body": lambda: Reply(200, b""),
    "endless_body": lambda: Reply(200, b"", manner=Manner.ENDLESS),
    "gzip_bomb": lambda: Reply(200, _bomb(), b"content-encoding: gzip\r\n"),
    "nested": lambda: Reply(200, b"[" * 200_000),
}


def twist_answer(kind: str, call: Call, answer: Answer) -> None:
    """Change the answer for the kinds in which the model itself fails; usage stays what is billed."""
    if kind == "content_filter":
        answer.text, answer.finish = "", "content_filter"
    elif kind == "refusal":
        # The legacy completions can express a refusal only as the content filter.
        sorry = "I am sorry, I cannot help with that."
        answer.text, answer.refusal = ("", None) if call.api == "completions" else (None, sorry)
        answer.finish = "content_filter" if call.api == "completions" else "stop"
    elif kind == "length":
        usage = answer.usage
        completion = call.maximum if call.maximum is not None else usage.completion
        answer.usage = usage._replace(completion=completion, reasoning=min(usage.reasoning, completion))
        text = answer.text or ""
        answer.text = cut_text(text, completion, whole_json=text.startswith("{"))
        answer.finish = "length"
    elif kind == "overrun":
        answer.usage = Usage(*(2 * tokens for tokens in answer.usage))
    elif kind == "null_content":
        answer.text = None


def twisted(rule: Rule, call: Call, answer: Answer, identity: str, suffix: str) -> Reply:
    """Return the reply of the kinds that damage a true answer on its way out."""
    document = written(call, answer, identity, suffix)
    if rule.kind == "empty_choices":
        document["output" if call.api == "responses" else "choices"] = []
    if rule.kind == "billed_failure":
        document |= {"error": {"code": 502, "message": "Provider returned error"}}
        document |= {"status": "failed"} if call.api == "responses" else {}
    kind, _, variant = rule.kind.partition(":")
    body = _with_bad_usage(document, variant) if kind == "bad_usage" else orjson.dumps(document)
    if kind == "truncated_json":
        body = body[: len(body) // 2]
    elif kind in _INTRUDERS:
        # "echo:" starts the answer's text, also inside the strings of a JSON answer.
        body = body.replace(b"echo:", _INTRUDERS[kind] + b"echo:")
    elif kind == "duplicate_keys":
        nothing = written(call, Answer("", "stop", Usage(0, 0, 0, 0)), identity, suffix)["usage"]
        body = body[:-1] + b',"usage":' + orjson.dumps(nothing) + b"}"
    length = 10**15 if kind == "huge_length" else None
    return Reply(200, body, manner=_MANNERS.get(kind, Manner.WHOLE), declared_length=length)


_INTRUDERS = {"invalid_utf8": b"\xff\xfe", "lone_surrogate": b"\\ud800"}
_MANNERS = {"disconnect_after": Manner.CUT, "slow_loris": Manner.DRIP, "huge_length": Manner.HALF}


def _with_bad_usage(document: dict[str, Any], variant: str) -> bytes:
    usage = document["usage"]
    counts = [name for name, value in usage.items() if isinstance(value, int)]
    literals = {"nan": b"NaN", "infinity": b"1e309"}  # no JSON writer writes these
    if variant in {"missing", "null"}:
        document["usage"] = None
        if variant == "missing":
            del document["usage"]
        return orjson.dumps(document)
    if variant == "inconsistent":
        usage["total_tokens"] = usage["total_tokens"] // 2 - 1
        for name, value in usage.items():
            if isinstance(value, dict):
                usage[name] = dict.fromkeys(value, 10**6)
        return orjson.dumps(document)
    for name in counts:
        true = usage[name]
        usage[name] = {
            "negative": -true, "huge": 10**15, "string": str(true), "float": true + 0.5, "bool": True,
        }.get(variant, f"@{variant}@")  # fmt: skip
    body = orjson.dumps(document)
    return body.replace(b'"@%b@"' % variant.encode(), literals[variant]) if variant in literals else body
