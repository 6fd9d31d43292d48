"""The Markdown pages that users read, and their links, headings and code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *``` *$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*")
# Words before a command that start it.
_STARTERS = frozenset({"sudo", "exec", "nohup", "time", "env", "uvx", "do"})


def pages() -> list[Path]:
    """Return every page that is tested."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    return [*top, *docs(), *sorted((ROOT / "data").glob("*.md"))]


def docs() -> list[Path]:
    """Return the pages of docs/."""
    return sorted((ROOT / "docs").rglob("*.md"))


def name_of(page: Path) -> str:
    """Return a page's path as tests show it."""
    return str(page.relative_to(ROOT))


class Block(NamedTuple):
    """A fenced block of code: its language, its text without the indentation of the fence, and its line."""

    language: str
    text: str
    line: int


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    found = []
    for match in _FENCE.finditer(text):
        indent, language, body = match.groups()
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        found.append(Block(language, "\n".join(lines) + "\n", text.count("\n", 0, match.start()) + 1))
    return found


def prose(text: str) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", text)


def words(text: str) -> str:
    """Return the sentences of a page, without any code, in one line."""
    return re.sub(r"\s+", " ", _SPAN.sub("", prose(text)))


def spans(text: str) -> list[str]:
    """Return the inline code of a page."""
    return [match[1] for match in _SPAN.finditer(prose(text))]


def links(text: str) -> list[str]:
    """Return the targets of the links and images of a page, without those to other sites."""
    bare = _SPAN.sub("", prose(text))
    targets = re.findall(r"\]\(([^()\s]+)(?: \"[^\"]*\")?\)", bare)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub creates for the headings of a page."""
    made: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", prose(text), re.MULTILINE):
        bare = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", bare).replace(" ", "-")
        number = sum(1 for each in made if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", each))
        made.add(f"{slug}-{number}" if number else slug)
    return made


def commands(text: str) -> Iterator[list[str]]:
    """Yield each command of the console and shell blocks of a page, as its words."""
    for block in blocks(text):
        if block.language == "console":
            lines = re.sub(r"\\\n(?:> )?", " ", block.text).splitlines()
            typed = [line[2:] for line in lines if line.startswith("$ ")]
        elif block.language in {"bash", "sh", "shell"}:
            typed = block.text.replace("\\\n", " ").splitlines()
        else:
            continue
        for line in typed:
            yield from split(line)


def split(line: str) -> Iterator[list[str]]:
    """Yield the simple commands of a line of the shell, without redirections, variables and words that start one."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words: list[str] = []
    is_target = False  # true if the next word is the target of a redirection
    for word in [*lexer, ";"]:
        if is_target:
            is_target = False
        elif set(word) <= set("<>&") and set(word) & set("<>"):
            is_target = True
            words = words[:-1] if words and words[-1].isdigit() else words  # 2> redirects stderr
        elif set(word) <= set(";|&()"):
            if words:
                yield _command(words)
            words = []
        else:
            words.append(word)


def _command(words: list[str]) -> list[str]:
    while words and (_ASSIGNMENT.fullmatch(words[0]) or words[0] in _STARTERS):
        words = words[1:]
    if words[:2] == ["uv", "run"]:
        words = words[2:]
    if words[:3] == ["docker", "compose", "exec"]:
        words = words[4:]  # after the name of the service
    return [words[0].rpartition("/")[2], *words[1:]] if words else [""]
