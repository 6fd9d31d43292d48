"""CSV as text: where rows end, their cells as Arrow strings, and the line of each fault.

pyarrow splits the cells. It needs blocks of whole rows, has no line numbers, shows cells in its errors, and takes text
after a closing quote; so rows are found here first. An empty cell is null, and `""` is empty text.
"""

from __future__ import annotations

import codecs
import csv
import functools
import io
import itertools
import re
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.csv as pa_csv

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts.text_stream import MAX_ROW_BYTES, Block, count_lines


class CsvText:
    """The rules of files with one separator."""

    def __init__(self, separator: str) -> None:
        self._separator = separator
        own = re.escape(separator.encode())
        # a quote opens a cell only at its start; anywhere else in an unquoted cell it is a character
        opens = rb"(?<![^\r\n" + own + rb'])"'
        self._opens = re.compile(opens)
        self._marks = re.compile(rb"\r\n?|\n|" + opens)
        self._after = {separator.encode(), b"\r", b"\n"}  # what may follow the closing quote of a cell

    def cut(self, data: bytes) -> int:
        """Return the length of the whole rows at the start."""
        end = len(data) - data.endswith(b"\r")  # its LF may follow
        whole = offset = 0
        while True:
            opened = self._opens.search(data, offset, end)
            stop = end if opened is None else opened.start()
            whole = max(whole, data.rfind(b"\n", offset, stop) + 1, data.rfind(b"\r", offset, stop) + 1)
            if opened is None:
                return whole
            offset = _close(data, stop)
            if data[offset : offset + 1] not in self._after:
                return whole

    def explain(self, data: bytes, line: int) -> str:
        """Say why the first row has no end."""
        offset = 0
        while (opened := self._opens.search(data, offset)) is not None:
            offset = _close(data, opened.start())
            if offset == len(data):
                at = line + count_lines(data[: opened.start()])
                return f"line {at:,}: the quote that opens a cell here is never closed"
            if data[offset : offset + 1] not in self._after:
                at = line + count_lines(data[:offset])
                return f"line {at:,}: text follows the closing quote of a cell; a quote within a cell is written twice"
        return f"line {line:,}: the row that begins here is longer than {MAX_ROW_BYTES:,} bytes"

    def _rows(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield where each row of a block begins and ends. Blank lines are no rows."""
        begin = offset = 0
        while (mark := self._marks.search(data, offset)) is not None:
            if mark.group() == b'"':
                offset = _close(data, mark.start())
                continue
            if mark.start() > begin:
                yield begin, mark.end()
            begin = offset = mark.end()

    def header(self, block: Block, file: str) -> tuple[list[str], Block]:
        """Return the names of the columns, and the rest of the block. Raises BadInput."""
        offset, end = next(self._rows(block.data), (0, 0))
        if end == 0:
            raise BadInput(f"{file} has no header row with the names of the columns")
        line = block.line + count_lines(block.data[:offset])
        try:
            row = block.data[offset:end].decode()
            names = next(csv.reader(io.StringIO(row, newline=""), delimiter=self._separator))
        except csv.Error:
            raise BadInput(f"{file}, line {line:,}: the header has a name that is far too long") from None
        where = f"{file}, line {line:,}"
        if "" in names:
            raise BadInput(
                f"{where}: the header has no name in cell {names.index('') + 1}; name each column (pandas: "
                "to_csv(..., index=False))"
            )
        if len(names) == 1 and set(names[0]) & set(";\t|,"):
            raise BadInput(f"{where}: no {_NAMES[self._separator]} separates the names; .csv has commas, .tsv has tabs")
        return names, Block(block.data[end:], block.line + count_lines(block.data[:end]))

    def cells(self, block: Block, names: Sequence[str], wanted: Sequence[str], file: str) -> pa.Table:
        """Return the wanted columns of a block as strings. Raises BadInput for a row with more or fewer cells."""
        faults: list[pa_csv.InvalidRow] = []

        def take(row: pa_csv.InvalidRow) -> str:
            faults.append(row)
            # promise: input: a CSV row with more or fewer cells than the header is refused
            return "error"

        # a block is read whole: pyarrow would look for the ends of rows again
        size = len(block.data) + len(codecs.BOM_UTF8) + 1
        read = pa_csv.ReadOptions(use_threads=False, column_names=names, block_size=size)
        parse = pa_csv.ParseOptions(delimiter=self._separator, newlines_in_values=True, invalid_row_handler=take)
        table: pa.Table | None = None
        try:
            # pyarrow takes a byte order mark off each block, although only the first one of a file is not text
            data = codecs.BOM_UTF8 + block.data if block.data.startswith(codecs.BOM_UTF8) else block.data
            table = pa_csv.read_csv(pa.BufferReader(data), read, parse, _strings(tuple(wanted)))
        except pa.ArrowInvalid:
            if not faults:
                raise
        if table is not None:
            return table
        fault = faults[0]
        offset = self._place(block.data, fault.number)
        raise BadInput(
            f"{file}, line {block.line + count_lines(block.data[:offset]):,}: the row has {fault.actual_columns} "
            f"{'cell' if fault.actual_columns == 1 else 'cells'}, but the header has {fault.expected_columns}"
        )

    def _place(self, data: bytes, number: int) -> int:
        """Return where a row begins, by its number from 1; blank lines are no rows."""
        return next(itertools.islice(self._rows(data), number - 1, None))[0]


def _close(data: bytes, offset: int) -> int:
    """Return the place after the closing quote of the cell that opens at `offset`; the end if it is never closed."""
    at = data.find(b'"', offset + 1)
    while at >= 0 and data[at + 1 : at + 2] == b'"':  # a quote within the cell
        at = data.find(b'"', at + 2)
    return len(data) if at < 0 else at + 1


_NAMES = {",": "comma", "\t": "tab"}


@functools.lru_cache(maxsize=16)
def _strings(wanted: tuple[str, ...]) -> pa_csv.ConvertOptions:
    """Return how some columns are read as text."""
    return pa_csv.ConvertOptions(
        include_columns=list(wanted),
        column_types=dict.fromkeys(wanted, pa.string()),
        check_utf8=False,  # the whole block is checked before
        strings_can_be_null=True,
        # promise: input: an empty CSV cell is null, and a quoted empty cell is empty text
        quoted_strings_can_be_null=False,
        null_values=[""],
    )


@functools.cache
def csv_text(separator: str) -> CsvText:
    """Return the rules of files with a separator; their expressions are compiled once."""
    return CsvText(separator)
