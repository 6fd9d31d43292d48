"""A column of `for_each` has the type of its values."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from parquill.tasks.prompts.for_each import for_each_field


@pytest.mark.parametrize(
    ("values", "kind"),
    [(["fr"], pa.string()), ([1, 2], pa.int64()), ([1.5], pa.float64()), ([True], pa.bool_()), (["007"], pa.string())],
)
def test_a_for_each_column_has_the_type_of_its_values(values: list[Any], kind: pa.DataType) -> None:
    """Numbers, truth values and text each keep their own type."""
    assert for_each_field("x", values) == pa.field("x", kind)
