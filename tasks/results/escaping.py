"""Text from outside made fit to be shown: nothing in it moves a cursor, turns letters around or hides."""

from __future__ import annotations

import html
import re

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~-])")
# what is obeyed within a line; a _ between letters, and an & that begins no entity, are not
_INLINE = re.compile(r"([\\`*\[<~]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;))")
_BLOCK = re.compile(r"^(\d*)([#>+-]|(?<=\d)[.)](?= |$))")  # what is obeyed at the beginning of a line
# Where an address would become a link. An empty tag stops that in both of Prefect's UIs and is not seen; a backslash
# stops it in one of them only, the other looks for addresses in what is left when the backslashes are gone.
_ADDRESS = re.compile(r"(?i)(?:(?<=http:)|(?<=https:)|(?<=ftp:))(?=//)|(?<=www)(?=\.)|(?<=[\w.+-])(?=@\\?[\w-])")
BREAK = "<wbr>"


def strip_control(text: object) -> str:
    """Text without what a terminal or a page obeys: control characters, bidi overrides, invisible characters.

    Each becomes U+FFFD. Line ends stay.
    """
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def one_line(text: object) -> str:
    """`strip_control` text as one line, for a table or a sentence: its line ends become U+FFFD too."""
    return strip_control(text).replace("\n", "\N{REPLACEMENT CHARACTER}")


def unescape(line: str) -> str:
    """The text that `escape` was given, but for what `strip_control` has taken from it."""
    return html.unescape(re.sub(r"\\(.)", r"\1", line.replace(BREAK, "")))


def escape(text: object) -> str:
    """One line that neither Markdown nor HTML takes for anything else."""
    line = html.escape(strip_control(text), quote=False).replace("\n", " ")
    return _ADDRESS.sub(BREAK, _MARKDOWN.sub(r"\\\1", line))


def escape_inline(text: object) -> str:
    """One line for what is Markdown on a page and plain text elsewhere: only what would be obeyed is escaped."""
    line = strip_control(text).replace("\n", " ").strip()
    return _ADDRESS.sub(BREAK, _BLOCK.sub(r"\1\\\2", _INLINE.sub(r"\\\1", line)))
