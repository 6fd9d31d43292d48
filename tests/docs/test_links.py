"""Every link on the pages leads to an existing target."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import ROOT, anchors, links, name_of, pages


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    """A relative link names a file of the repository, and its anchor is a heading of that page."""
    wrong = []
    for target in links(page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        is_there = found.exists() and found.is_relative_to(ROOT)
        if not is_there or (anchor and anchor not in anchors(found.read_text(encoding="utf-8"))):
            wrong.append(target)
    assert wrong == []


def test_anchors_are_those_of_the_host() -> None:
    """Anchors are lower case, without punctuation, and numbered if a heading occurs twice."""
    text = "# One, two\n\n## estimate --json\n\n## `x_y` [z](a.md)\n\n```\n# no heading\n```\n\n## One, two\n"
    assert anchors(text) == {"one-two", "estimate---json", "x_y-z", "one-two-1"}


def test_links_in_code_are_none() -> None:
    """Links are found in prose, with and without anchors, but not in code and not to other sites."""
    text = "[a](b.md) ![c](d.png) `[e](f.md)` [g](https://x.y) [h](#i)\n\n```\n[j](k.md)\n```\n"
    assert links(text) == ["b.md", "d.png", "#i"]
