"""How many bytes rows take when each has its own values: a dictionary's value counts in every row that has it."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def unpacked_bytes(batch: pa.RecordBatch) -> int:
    """Return the bytes of some rows, with dictionaries unpacked."""
    return sum(map(_unpacked, batch.columns))


def _unpacked(column: pa.Array) -> int:
    kind = column.type
    # promise: input: the unpacked size counts dictionary values in every row
    if pa.types.is_dictionary(kind):
        values = column.dictionary
        if not len(values):
            return int(column.nbytes)
        try:
            lengths = pc.binary_length(values)
        except pa.ArrowNotImplementedError:  # numbers, of one width
            return int(column.nbytes) + len(column) * int(values.nbytes) // len(values)
        return int(column.indices.nbytes) + (pc.sum(lengths.take(column.indices)).as_py() or 0)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _unpacked(column.flatten()) + 4 * len(column)
    if pa.types.is_struct(kind):
        return sum(map(_unpacked, column.flatten()))
    return int(column.nbytes)
