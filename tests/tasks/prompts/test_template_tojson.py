"""`tojson` of a struct with a null field writes a JSON null."""

from __future__ import annotations

from typing import Any

import pytest

from parquill.tasks.prompts.template import Templates


@pytest.mark.parametrize(
    ("value", "text"), [({"a": None, "b": 1}, '{"a": null, "b": 1}'), (["x", None], '["x", null]')]
)
def test_json_has_a_null_of_its_own(value: Any, text: str) -> None:
    """Inside a document, `tojson` writes a null as JSON null. A cell that is null as a whole must still be handled."""
    assert Templates(None, "{{ v | tojson }}", ["v"], None).render({"v": value})[0]["content"] == text
