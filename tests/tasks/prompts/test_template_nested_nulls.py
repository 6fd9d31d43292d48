"""A null inside a struct, a list or a literal is never sent as "None" or "Undefined"."""

from __future__ import annotations

from typing import Any

import pytest

from parquill.tasks.errors import RowFault
from parquill.tasks.prompts.template import Templates

VALUES: dict[str, Any] = {"v": None, "s": {"a": None}, "l": ["x", None]}


@pytest.mark.parametrize(
    "template",
    [
        "{{ s.a ~ 'x' }}",
        "{{ s.a | upper }}",
        "{{ s.a | trim }}",
        "{{ s.a | string }}",
        "{{ '%s' | format(s.a) }}",
        "{{ l | join(', ') }}",
        "{{ l | map('upper') | join }}",
        "{{ [v] }}",
        "{{ {'a': v} }}",
        "{{ v | pprint }}",
        "{{ '%r' | format(v) }}",
    ],
)
def test_a_null_never_becomes_text(template: str) -> None:
    """A null that the template does not handle rejects its row, at any depth."""
    with pytest.raises(RowFault):
        Templates(None, template, list(VALUES), None).render(VALUES)
