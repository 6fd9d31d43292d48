"""CSV as text: where rows end, their cells as Arrow strings, and the line of each fault.

pyarrow splits the cells. It needs blocks of whole rows, has no line numbers, shows cells in its errors, and takes text
after a closing quote; so rows are found here first. An empty cell is null, and `""` is empty text.
"""

from __future__ import annotations

import csv
import functools
import io
import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.csv as pa_csv

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts.text_stream import MAX_ROW_BYTES, Block, count_lines

_QUOTED = rb'"[^"]*+(?:""[^"]*+)*+"'


class CsvText:
    """The rules of files with one separator."""

    def __init__(self, separator: str) -> None:
        self._separator = separator
        own = re.escape(separator.encode())
        # a quote opens a cell only at its start; anywhere else in an unquoted cell it is a character
        whole = rb"(?<![^\r\n" + own + rb"])" + _QUOTED + rb"(?=[\r\n" + own + rb"])"
        literal = rb"(?<=[^\r\n" + own + rb'])"'
        row = rb"(?:" + whole + rb'|[^"\r\n]++|' + literal + rb")*+(?:\r\n?|\n)"
        self._row = re.compile(row)
        self._rows = re.compile(rb"(?:" + row + rb")*+")
        self._good = re.compile(rb"(?:" + whole + rb'|[^"]++|' + literal + rb")*+")

    def cut(self, data: bytes) -> int:
        """Return the length of the whole rows at the start."""
        end = len(data) - data.endswith(b"\r")  # its LF may follow
        if b'"' not in data:
            return max(data.rfind(b"\n", 0, end), data.rfind(b"\r", 0, end)) + 1
        found = self._rows.match(data, 0, end)
        return found.end() if found else 0

    def explain(self, data: bytes, line: int) -> str:
        """Say why the first row has no end."""
        found = self._good.match(data)
        place = found.end() if found else 0
        cell = re.compile(_QUOTED).match(data, place)
        if cell is not None:
            at = line + count_lines(data[: cell.end()])
            return f"line {at:,}: text follows the closing quote of a cell; a quote within a cell is written twice"
        if place < len(data):
            return f"line {line + count_lines(data[:place]):,}: the quote that opens a cell here is never closed"
        return f"line {line:,}: the row that begins here is longer than {MAX_ROW_BYTES:,} bytes"

    def header(self, block: Block, told: str) -> tuple[list[str], Block]:
        """Return the names of the columns, and the rest of the block. Raises BadInput."""
        place = 0
        while (row := self._row.match(block.data, place)) is not None and not row.group().strip(b"\r\n"):
            place = row.end()
        if row is None:
            raise BadInput(f"{told} has no header row with the names of the columns")
        line = block.line + count_lines(block.data[:place])
        try:
            names = next(csv.reader(io.StringIO(row.group().decode(), newline=""), delimiter=self._separator))
        except csv.Error:
            raise BadInput(f"{told}, line {line:,}: the header has a name that is far too long") from None
        where = f"{told}, line {line:,}"
        if "" in names:
            raise BadInput(
                f"{where}: the header has no name in cell {names.index('') + 1}; name each column (pandas: "
                "to_csv(..., index=False))"
            )
        if len(names) == 1 and set(names[0]) & set(";\t|,"):
            raise BadInput(f"{where}: no {_NAMES[self._separator]} separates the names; .csv has commas, .tsv has tabs")
        return names, Block(block.data[row.end() :], block.line + count_lines(block.data[: row.end()]))

    def cells(self, block: Block, names: Sequence[str], wanted: Sequence[str], told: str) -> pa.Table:
        """Return the wanted columns of a block as strings. Raises BadInput for a row with more or fewer cells."""
        faults: list[pa_csv.InvalidRow] = []

        def take(row: pa_csv.InvalidRow) -> str:
            faults.append(row)
            # promise: input: a CSV row with more or fewer cells than the header is refused
            return "error"

        # a block is read whole: pyarrow would look for the ends of rows again
        read = pa_csv.ReadOptions(use_threads=False, column_names=names, block_size=len(block.data) + 1)
        parse = pa_csv.ParseOptions(delimiter=self._separator, newlines_in_values=True, invalid_row_handler=take)
        table: pa.Table | None = None
        try:
            table = pa_csv.read_csv(pa.BufferReader(block.data), read, parse, _strings(tuple(wanted)))
        except pa.ArrowInvalid:
            if not faults:
                raise
        if table is not None:
            return table
        fault = faults[0]
        place = self._place(block.data, fault.number)
        raise BadInput(
            f"{told}, line {block.line + count_lines(block.data[:place]):,}: the row has {fault.actual_columns} "
            f"{'cell' if fault.actual_columns == 1 else 'cells'}, but the header has {fault.expected_columns}"
        )

    def _place(self, data: bytes, number: int) -> int:
        """Return where a row begins, by its number from 1; blank lines are no rows."""
        rows = (row for row in self._row.finditer(data) if row.group().strip(b"\r\n"))
        for _ in range(number - 1):
            next(rows)
        return next(rows).start()


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
