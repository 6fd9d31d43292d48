"""The result files of a batch that has ended: which line is the reply to which row.

The files keep no order, and what a batch says of its counts is not used: rows are joined by their custom_id over both
files, whatever the state in which the batch ended. The lines stay on disk; only their places are in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from parquill.tasks.llm.outcomes import TABLE
from parquill.tasks.llm.replies import parse_json
from parquill.tasks.llm.reply_reader import NO_HEADERS, ReplyReader, Result, ended

# What a line has besides the reply: ids, the envelope.
MAX_ENVELOPE_BYTES: Final = 64 << 10
_NOT_RUN: Final = {"batch_expired": "batch_expired", "batch_cancelled": "batch_cancelled"}


class Place(NamedTuple):
    """Where a line is: the number of the file, the offset and the length in bytes."""

    file: int
    offset: int
    length: int


class BatchResults:
    """The replies of one batch. Creating it and `result_of` block for the disk."""

    def __init__(self, key: str, paths: Sequence[Path], reader: ReplyReader) -> None:
        """Find the lines of the batch `key` in its files. Raises OSError."""
        self._key, self._paths, self._reader = key, paths, reader
        self._places: dict[int, Place] = {}
        self._differing: set[int] = set()
        self.foreign = 0  # lines that are of no row of this batch, or cannot be read
        self.answered = 0  # rows with a 2xx reply
        for number in range(len(paths)):
            for place, line in self._lines(number):
                self._note(place, line)

    def _lines(self, number: int) -> Iterator[tuple[Place, bytes]]:
        # the prompt may be repeated in a reply, and JSON may write each character in six
        most = 2 * self._reader.max_bytes + MAX_ENVELOPE_BYTES
        offset = 0
        with self._paths[number].open("rb") as file:
            while head := file.readline(most):
                start, piece = offset, head
                offset += len(piece)
                while not piece.endswith(b"\n") and (piece := file.readline(most)):
                    offset += len(piece)
                # of a line that is longer than any reply, only the head is in memory, which is no JSON
                if head.strip():
                    yield Place(number, start, len(head)), head

    def _note(self, place: Place, line: bytes) -> None:
        document = parse_json(line)
        number = self._row_of(document)
        if number is None:
            self.foreign += 1
            return
        before = self._places.get(number)
        if before is not None:
            # promise: M8 a row with two different replies in a batch is in doubt
            if _content(parse_json(self._read(before))) != _content(document):
                self._differing.add(number)
            return
        # promise: M8 the replies of a batch are matched to rows by their custom_id
        self._places[number] = place
        response = document.get("response")
        status = response.get("status_code") if isinstance(response, dict) else None
        self.answered += isinstance(status, int) and 200 <= status < 300

    def _row_of(self, document: Any) -> int | None:
        identity = document.get("custom_id") if isinstance(document, dict) else None
        if not isinstance(identity, str):
            return None
        key, _, number = identity.rpartition("-")
        return int(number) if key == self._key and number.isascii() and number.isdigit() else None

    def _read(self, place: Place) -> bytes:
        with self._paths[place.file].open("rb") as file:
            file.seek(place.offset)
            return file.read(place.length)

    def __contains__(self, number: int) -> bool:
        """Whether a file has a reply of this row."""
        return number in self._places

    def result_of(self, number: int, sent: str, limit: str, sent_bytes: int) -> Result:
        """Return how the request of a row ended, as `ReplyReader.read` does. Raises OSError."""
        place = self._places.get(number)
        # promise: M8 a row that neither result file has is in doubt
        if place is None:
            return ended("batch_missing")
        if number in self._differing:
            rule = TABLE["batch_missing"]
            return Result(rule, "the result files have two different replies of this row", None, NO_HEADERS, None)
        document = parse_json(self._read(place))
        response, error = document.get("response"), document.get("error")
        status = response.get("status_code") if isinstance(response, dict) else None
        if isinstance(status, int) and 100 <= status < 600:
            body = _json(response.get("body"))
            return self._reader.read(status, NO_HEADERS, body, sent, limit, sent_bytes)
        code = error.get("code") if isinstance(error, dict) else None
        if code in _NOT_RUN:
            return ended(_NOT_RUN[code])
        if isinstance(error, dict) and error:
            return self._reader.read(200, NO_HEADERS, _json({"error": error}), sent, limit, sent_bytes)
        return ended("batch_skipped")  # status_code 0 without an error: the service has not run this row


def _content(document: dict[str, Any]) -> tuple[Any, Any]:
    return document.get("response"), document.get("error")


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer of more than 64 bits, or a lone surrogate
        return json.dumps(value).encode()
