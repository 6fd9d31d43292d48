"""The pages are in plain English."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, docs, name_of, words

PAGES = [*docs(), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]
AVOIDED = re.compile(
    r"\b(anew|whoever|heeds?|dearer|gone on with|nobody|in the midst|is told)\b|<(?!https?:)/?[a-z]", re.IGNORECASE
)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_has_a_word_to_avoid(page: Path) -> None:
    """No page has a word to avoid, or HTML."""
    text = words(page.read_text(encoding="utf-8"))
    assert [text[max(0, found.start() - 30) : found.end() + 30] for found in AVOIDED.finditer(text)] == []


@pytest.mark.parametrize("text", ["Nobody", "it is told", "gone on with", "heeds", "<br>", "</p>"])
def test_a_word_to_avoid_is_found(text: str) -> None:
    """Words to avoid are found in any case, and so are tags; longer words, comments and addresses are not."""
    assert AVOIDED.search(text)
    assert not AVOIDED.search("heedless renewal <!-- comment --> <https://a.example/> 1 < 2")
