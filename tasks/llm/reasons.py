"""The service's own reason for a refusal, made safe to show: it never repeats a prompt or a key.

A service may echo the request. So each word of its message that is also in the request is masked, unless it is one of
the ordinary words of error messages. Long tokens (keys, ids) and addresses are always masked. A message of which little
is left is not shown.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

from parquill.tasks.job.key import Key

MAX_CHARACTERS = 240
MAX_READ_CHARACTERS = 2_000
MASK = "…"
MIN_ECHO_CHARACTERS = 4
MAX_WORD_CHARACTERS = 24

_WORD = re.compile(r"[^\W_]+(?:_[^\W_]+)*")
_ADDRESS = re.compile(r"\S*(?:://|@)\S*")
# Words of error messages that reveal nothing about a cell, even if a prompt has them too.
_ORDINARY = frozenset(
    (
        "a about access account all allowed also an and api are argument arguments array as at available be been body "
        "boolean but by can cannot chat check column completion completions contact content context could credit "
        "credits currently deprecated detected disabled do does each either empty enabled error exceed exceeded "
        "exceeds exist expected extra failed feature field fields find for format found from function greater had has "
        "have header if in input instead integer invalid is it its json key least length less limit list long low "
        "maximum message messages method minimum missing model models more most must name need no non not null number "
        "object of on one only option or organization output parameter parameters permitted please plan project prompt "
        "property provided range reached reason received refused region request requests require required requires "
        "response responses role schema see set should size string support supported supports system temperature than "
        "that the their there this to token tokens too tool tools type types unexpected unknown unrecognized "
        "unsupported upgrade use used user using valid value values version was were when which with you your"
    ).split()
)


def reason_of(error: Mapping[str, Any] | None, sent: str, names: Collection[str], key: Key | None = None) -> str | None:
    """Return one line with the parameter and the reason that an error body names; None if nothing in it is safe.

    Args:
        error: What `error_of_body` found.
        sent: All text of the request that may come from cells: the messages and the row's own parameters.
        names: The request's top-level members, which may be shown.
        key: The key, of which no part is shown.
    """
    if error is None:
        return None
    parameter, message = _parameter(error, names), _message(error)
    safe = _mask(message, sent, {*names, *(name.replace("_", " ") for name in names)}, key) if message else None
    parts = [f"parameter {parameter!r}" if parameter else "", safe or ""]
    return ": ".join(part for part in parts if part) or None


def _parameter(error: Mapping[str, Any], names: Collection[str]) -> str | None:
    """Return the request's member that the body names (OpenAI's `param`, FastAPI's `detail[].loc`); else None."""
    found: list[Any] = [error.get("param")]
    detail = error.get("detail")
    if isinstance(detail, list) and detail and isinstance(detail[0], dict) and isinstance(detail[0].get("loc"), list):
        found += detail[0]["loc"]
    for name in found:
        top = re.split(r"[.\[]", name, maxsplit=1)[0] if isinstance(name, str) else ""
        # promise: S3 a parameter is named only if the request contains it
        if top in names:
            return top
    return None


def _message(error: Mapping[str, Any]) -> str | None:
    detail = error.get("detail")
    found = error.get("message")
    if not isinstance(found, str) and isinstance(detail, list) and detail and isinstance(detail[0], dict):
        found = detail[0].get("msg")
    if not isinstance(found, str):
        return None
    text = "".join(c if c.isprintable() else " " for c in found[:MAX_READ_CHARACTERS])
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _mask(message: str, sent: str, names: Collection[str], key: Key | None) -> str | None:
    request = _fold(sent)
    # folding may split a word: one of its characters may become a fraction with a slash
    words = {*_WORD.findall(request), *map(_fold, _WORD.findall(sent))}
    kept = masked = 0

    def judge(match: re.Match[str]) -> str:
        nonlocal kept, masked
        word = match.group()
        folded = _fold(word)
        is_plain = (folded in _ORDINARY and not word.isupper()) or word in names or (len(word) == 1 and word.isalpha())
        # an echo may be cut anywhere, so parts of words count; but parts of two letters are in every text
        # promise: S3 the reason shown for an error repeats no word of the prompt
        is_echo = folded in request if len(word) >= MIN_ECHO_CHARACTERS else folded in words
        is_safe = len(word) <= MAX_WORD_CHARACTERS and not is_echo
        # promise: S1 the reason shown for an error contains no part of the key
        if key is not None and len(word) >= MIN_ECHO_CHARACTERS and key.has_part(word):
            is_plain = is_safe = False
        if is_plain or is_safe:
            kept += 1
            return word
        masked += 1
        return MASK

    text = _WORD.sub(judge, _ADDRESS.sub(MASK, message))
    if masked >= kept:
        return None
    text = re.sub(rf"{MASK}(?:[\s\W]*{MASK})+", MASK, text)
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1].rstrip() + MASK


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
