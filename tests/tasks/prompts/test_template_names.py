"""A column with the name of a Jinja global (range, dict, self) or `vars` renders as the column."""

from __future__ import annotations

import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.prompts.template import Templates


@pytest.mark.parametrize("name", ["self", "vars"])
def test_a_reserved_name_is_refused(name: str) -> None:
    """A column cannot have a name that templates use themselves; the refusal says what to do."""
    with pytest.raises(BadJob, match=f"'{name}' is a reserved name in templates; rename the column"):
        Templates(None, "{{ " + name + " }}", [name, "other"], None)


@pytest.mark.parametrize("name", ["range", "dict", "cycler", "joiner", "namespace"])
def test_a_column_is_what_its_name_says(name: str) -> None:
    """A column renders as its value: "<function safe_range at 0x7f..>" is never sent."""
    templates = Templates(None, "{{ " + name + " }}", [name, "other"], None)
    assert templates.columns == [name]
    values = dict.fromkeys(templates.columns, "VALUE")
    assert templates.render(values)[0]["content"] == "VALUE"
