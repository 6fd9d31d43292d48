"""Finds the JSON of an answer that is wrapped in fences, thoughts, byte order marks or a sentence.

Services that do not enforce a schema wrap their answers. The search tries the whole text first, then the text after the
thoughts, then the only fenced block that is an object, then the only outermost object. A part of something larger is
never taken: an object within brackets that do not close, or one of two different objects, is no answer. Each text is
scanned a fixed number of times, however hostile it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

MAX_PIECES = 200  # fenced blocks, or bracketed pieces of a sentence
MAX_LEVELS = 500  # of brackets

_AROUND = " \t\r\n\f\v\u00a0\ufeff\u200b\u2060"
_TAG = r"(?:seed:)?(?:think|thinking|thought|thoughts|reasoning)"
_OPENING = re.compile(rf"<{_TAG}>|\[THINK\]", re.IGNORECASE)
_CLOSING = re.compile(rf"</{_TAG}>|\[/THINK\]", re.IGNORECASE)
_FENCE = re.compile(r"`{3,}|~{3,}")
_LANGUAGE = re.compile(r"[A-Za-z0-9_+.#-]{0,20}(?=[\s{])")
_END_OF_LINE = re.compile(r"[ \t]*(?:\r?\n|\Z)")
_BRACKET = re.compile(r'[{}\[\]"]|\\.', re.DOTALL)
_CLOSES = {"{": "}", "[": "]"}


class NotJson(ValueError):
    """The text is not JSON, or does not show which JSON in it is the answer."""


def find_object(text: str, read: Callable[[str], Any], matches: Callable[[Any], bool]) -> Any:
    """Return the JSON of an answer.

    Args:
        text: What the service sent.
        read: Reads one JSON text; raises NotJson.
        matches: Whether a value is what was asked for. It only decides which objects outside a fence compete.

    Raises:
        NotJson: There is no JSON, or more than one candidate.
    """
    text = text.strip(_AROUND)
    try:
        return read(text)
    except NotJson:
        pass
    rest = _without_thoughts(text)
    if rest != text:
        try:
            return read(rest)
        except NotJson:
            pass
    # promise: answers: a text with unfinished thinking is no answer
    if _OPENING.search(rest):  # thoughts that do not end, or a text about them
        raise NotJson
    fenced = _different(_fenced(rest, read))
    if not fenced:
        return _only(_different(_objects(rest, read)))
    found = _only(fenced)
    try:
        outside = _different(_objects(rest, read))
    except NotJson:  # brackets of the sentence
        outside = {}
    if any(text not in fenced and matches(value) for text, value in outside.items()):
        raise NotJson
    return found


def _without_thoughts(text: str) -> str:
    """Return the text after the thoughts, whose opening tag some services drop; without thoughts, the whole text."""
    last = None
    for found in _CLOSING.finditer(text):
        last = found
    return text if last is None else text[last.end() :].strip(_AROUND)


def _different(values: Iterator[Any]) -> dict[str, Any]:
    """Return the different values by their text, with the members of objects sorted."""
    return {json.dumps(value, sort_keys=True, default=str): value for value in values}


def _only(values: dict[str, Any]) -> Any:
    # promise: answers: a text with several different JSON objects is no answer
    if len(values) != 1:
        raise NotJson
    return next(iter(values.values()))


def _fenced(text: str, read: Callable[[str], Any]) -> Iterator[Any]:
    """Yield the objects that fill a fenced block."""
    for block in _blocks(text):
        inner = block.strip(_AROUND)
        if inner.startswith("{"):
            try:
                yield read(inner)
            except NotJson:
                continue


def _blocks(text: str) -> Iterator[str]:
    """Yield the contents of fenced blocks; the last one may lack its end. Raises NotJson if there are too many.

    A fence opens outside of brackets. It closes at the end of a line, or anywhere in the line in which it was opened,
    since a string in the JSON may contain fences.
    """
    mark, begin, looked, count = "", 0, 0, 0
    level, is_one_line = 0, True  # open brackets before the fence; whether the block has only one line so far
    for found in _FENCE.finditer(text):
        between = text[looked : found.start()]
        looked = found.end()
        if not mark:
            level += sum(between.count(bracket) for bracket in "{[") - sum(map(between.count, "}]"))
            # promise: answers: a code fence inside brackets is ignored
            if level <= 0:
                mark, is_one_line = found.group(), True
                language = _LANGUAGE.match(text, found.end())
                begin = language.end() if language else found.end()
            continue
        is_one_line = is_one_line and "\n" not in between
        run = found.group()
        is_long = run[0] == mark[0] and len(run) >= len(mark)
        if is_long and (is_one_line or _END_OF_LINE.match(text, found.end())):
            yield text[begin : found.start()]
            mark = ""
            count += 1
            if count > MAX_PIECES:
                raise NotJson
    if mark:
        yield text[begin:]


def _objects(text: str, read: Callable[[str], Any]) -> Iterator[Any]:
    """Yield the outermost objects, and lists that hold objects or lists. Raises NotJson if brackets do not close.

    Text in brackets that is not JSON, or is a list of plain values, belongs to the sentence: [1], {name}.
    """
    for count, piece in enumerate(_pieces(text)):
        if count > MAX_PIECES:
            raise NotJson
        try:
            value = read(piece)
        except NotJson:
            continue
        if isinstance(value, dict) or any(isinstance(item, dict | list) for item in value):
            yield value


def _pieces(text: str) -> Iterator[str]:
    """Yield the outermost bracketed pieces. Raises NotJson for brackets that do not match."""
    awaited: list[str] = []  # the closing brackets
    begin, in_string = 0, False
    for found in _BRACKET.finditer(text):
        mark = found.group()
        if mark == '"':
            in_string = bool(awaited) and not in_string
        elif in_string or len(mark) > 1:
            continue
        elif mark in _CLOSES:
            begin = begin if awaited else found.start()
            awaited.append(_CLOSES[mark])
            # promise: answers: the nesting of brackets is bounded
            if len(awaited) > MAX_LEVELS:
                raise NotJson
        elif not awaited or awaited.pop() != mark:  # also a bracket that was opened before the text
            raise NotJson
        elif not awaited:
            yield text[begin : found.end()]
    # promise: answers: JSON with unclosed brackets is no answer
    if awaited:
        raise NotJson
