"""A date, duration or time zone that Python cannot represent is a fault of its row only.

Year 9999 is a usual "no end" marker.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from parquill.tasks.errors import RowFault
from parquill.tasks.prompts.cells import cells

FAR = 253_402_300_800_000_000  # 10000-01-01 in microseconds


@pytest.mark.parametrize(
    "column",
    [
        pa.array([0, FAR], pa.timestamp("us")),
        pa.array([0, 2**30], pa.int32()).cast(pa.date32()),
        pa.array([0, 2**62], pa.duration("s")),
        pa.array([[0], [FAR]], pa.list_(pa.timestamp("us"))),
    ],
    ids=str,
)
def test_one_bad_cell_never_spoils_its_batch(column: Any) -> None:
    """A cell without a Python value is a fault of its row, and the other cells are read."""
    first, second = cells(column)
    assert not isinstance(first, RowFault)
    assert isinstance(second, RowFault)


def test_an_unknown_zone_is_a_fault_of_its_rows() -> None:
    """A time zone that this machine does not know is a fault of its rows and raises no error."""
    assert all(isinstance(cell, RowFault) for cell in cells(pa.array([0, 1], pa.timestamp("us", "Mars/Base"))))
