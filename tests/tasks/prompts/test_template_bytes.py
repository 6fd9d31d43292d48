"""A binary column in a prompt rejects its row and is never sent as Python's b'...'."""

from __future__ import annotations

import pytest

from parquill.tasks.errors import RowFault
from parquill.tasks.prompts.template import Templates


def test_bytes_are_no_text() -> None:
    """Bytes that a template shows are shown as their UTF-8 text."""
    text = Templates(None, "{{ v }}", ["v"], None).render({"v": b"caf\xc3\xa9"})[0]["content"]
    assert text == "caf\u00e9"


@pytest.mark.parametrize("template", ["{{ v | upper }}", "a{{ v ~ 'x' }}"])
def test_bytes_never_show_as_python(template: str) -> None:
    """Bytes that are not UTF-8 reject their row: a prompt never contains b'...'."""
    with pytest.raises(RowFault, match="v is not valid UTF-8"):
        Templates(None, template, ["v"], None).render({"v": b"\xff\x00"})
