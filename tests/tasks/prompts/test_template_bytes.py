"""A binary column in a prompt rejects its row and is never sent as Python's b'...'."""

from __future__ import annotations

import pytest

from parquill.tasks.errors import RowFault
from parquill.tasks.prompts.template import Templates


def test_bytes_are_no_text() -> None:
    """Bytes that a template shows reject their row or are shown as their UTF-8 text."""
    try:
        text = Templates(None, "{{ v }}", ["v"], None).render({"v": b"caf\xc3\xa9"})[0]["content"]
    except RowFault:
        return
    assert text == "caf\u00e9"


@pytest.mark.parametrize("template", ["{{ v | upper }}", "a{{ v ~ 'x' }}"])
def test_bytes_never_show_as_python(template: str) -> None:
    """A prompt never contains b'...'."""
    try:
        text = Templates(None, template, ["v"], None).render({"v": b"\xff\x00"})[0]["content"]
    except RowFault:
        return
    assert "b'" not in text.lower()
