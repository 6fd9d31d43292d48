"""Text from outside is escaped before it is shown."""

from __future__ import annotations

import pytest

from parquill.tasks.results.escaping import BREAK, escape, escape_inline, unescape

HARMLESS = [
    "expected $0.05 fits into the budget of $1.00 (1,200 rows to send, gpt-4o-mini, prices of 0.2.3 on 2026-11-27)",
    "183 of 183 rows, 3 not ok, $0.1 of $1.00 spent, 3 s left · llama_3_8b",
    "R&D: texts, 50 % (a+b) {c} x > y - z! #1 @v2 s3://shop/out",
    "0.5 of it",
]
HOSTILE = {
    "![i](http://127.0.0.1:9/p.png) [l](HTTPS://evil)": rf"!\[i](http:{BREAK}//127.0.0.1:9/p.png) \[l](HTTPS:{BREAK}//evil)",
    "<h1>x</h1> `c` ~~s~~ **b**": r"\<h1>x\</h1> \`c\` \~\~s\~\~ \*\*b\*\*",
    "_x_ __y__ a_b &lt; &#60; \\*": r"\_x\_ \_\_y\_\_ a_b \&lt; \&#60; \\\*",
    "www.evil.example me@evil.example": f"www{BREAK}.evil.example me{BREAK}@evil.example",
    "    # heading": r"\# heading",
    "> quote": r"\> quote",
    "- item": r"\- item",
    "1. item": r"1\. item",
    "2) item": r"2\) item",
}


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_is_left_alone(text: str) -> None:
    """Text without Markdown in it is not changed, so that it reads as well where Markdown is not rendered."""
    assert escape_inline(text) == text


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items())
def test_what_would_be_obeyed_is_escaped(text: str, shown: str) -> None:
    """The start of a picture, link, tag, emphasis, entity or list gets a backslash, and no address stays whole."""
    assert escape_inline(text) == shown


@pytest.mark.parametrize("text", [*HARMLESS, *HOSTILE, "a <wbr> b http://c"])
def test_what_was_escaped_is_found_again(text: str) -> None:
    """Escaped text can be turned back into the original, even if it holds what the escaping inserts."""
    assert unescape(escape(text)) == text
