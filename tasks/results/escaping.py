"""Make text from outside safe to show: nothing in it moves the cursor, reverses letters or hides."""

from __future__ import annotations

import html
import re

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~-])")
# what Markdown interprets within a line; not a _ between letters, nor an & that begins no entity
_INLINE = re.compile(r"([\\`*\[<~]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;))")
_BLOCK = re.compile(r"^(\d*)([#>+-]|(?<=\d)[.)](?= |$))")  # what Markdown interprets at the start of a line
# Where an address would become a link. An empty, invisible tag prevents that in both of Prefect's UIs. A backslash
# prevents it in one of them only: the other looks for addresses after it has removed the backslashes.
_ADDRESS = re.compile(r"(?i)(?:(?<=http:)|(?<=https:)|(?<=ftp:))(?=//)|(?<=www)(?=\.)|(?<=[\w.+-])(?=@\\?[\w-])")
BREAK = "<wbr>"
_BLANK = re.compile(r"[\t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_JOINERS = frozenset("\u200c\u200d")
_SPLIT = re.compile("([\u200c\u200d])")


def strip_control(text: object) -> str:
    """Replace control characters, bidi overrides and invisible characters with U+FFFD.

    Line ends stay.
    """
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def strip_hidden(text: str) -> str:
    """Return `strip_control` text for a page that can show any writing: joiners and the blanks of all languages stay.

    Blanks become plain ones. Without its joiners, an emoji of a family or a word of Persian would fall apart.
    """
    return (
        strip_control(_BLANK.sub(" ", text))
        if text.isascii()
        else "".join(part if part in _JOINERS else strip_control(_BLANK.sub(" ", part)) for part in _SPLIT.split(text))
    )


def one_line(text: object) -> str:
    """Return `strip_control` text as one line, for a table or a sentence: line ends become U+FFFD too."""
    # promise: input: each row of a printed table is one line
    return strip_control(text).replace("\n", "\N{REPLACEMENT CHARACTER}")


def unescape(line: str) -> str:
    """Undo `escape`, except for the characters that `strip_control` replaced."""
    return html.unescape(re.sub(r"\\(.)", r"\1", line.replace(BREAK, "")))


def escape(text: object) -> str:
    """Return one line in which neither Markdown nor HTML finds any markup."""
    # promise: S4 HTML in text shown as Markdown is escaped
    line = html.escape(strip_control(text), quote=False).replace("\n", " ")
    return _ADDRESS.sub(BREAK, _MARKDOWN.sub(r"\\\1", line))


def escape_own(text: str) -> str:
    """Escape one of Parquill's own sentences, which may hold code between backticks but no word from outside."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    # in code, Markdown interprets nothing but the bar of a table
    return "".join(f"`{part.replace('|', chr(92) + '|')}`" if n % 2 else escape(part) for n, part in enumerate(parts))


def escape_inline(text: object) -> str:
    """Escape one line that is Markdown on one page and plain text on another: only real markup is escaped."""
    line = strip_control(text).replace("\n", " ").strip()
    # promise: P6 an address in shown text never becomes a link
    return _ADDRESS.sub(BREAK, _BLOCK.sub(r"\1\\\2", _INLINE.sub(r"\\\1", line)))
