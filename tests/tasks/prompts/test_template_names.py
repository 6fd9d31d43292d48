"""A column with the name of a Jinja global (range, dict, self) or `vars` renders as the column."""

from __future__ import annotations

import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.prompts.template import Templates


@pytest.mark.parametrize("name", ["range", "dict", "cycler", "joiner", "namespace", "self", "vars"])
def test_a_column_is_what_its_name_says(name: str) -> None:
    """A column renders as its value or its name is refused. "<function safe_range at 0x7f..>" is never sent."""
    try:
        templates = Templates(None, "{{ " + name + " }}", [name, "other"], None)
    except BadJob:
        return
    assert templates.columns == [name]
    values = dict.fromkeys(templates.columns, "VALUE")
    assert templates.render(values)[0]["content"] == "VALUE"
