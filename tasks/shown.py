"""Text from outside made fit to be shown: nothing in it moves a cursor, turns letters around or hides."""

from __future__ import annotations

import html
import re

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~-])")


def clean(text: object) -> str:
    """Text without what a terminal or a page obeys: control characters, bidi overrides, invisible characters.

    Each becomes U+FFFD. Line ends stay.
    """
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def escape(text: object) -> str:
    """One line that neither Markdown nor HTML takes for anything else."""
    line = html.escape(clean(text), quote=False).replace("\n", " ")
    return _MARKDOWN.sub(r"\\\1", line)
