"""Build articles.parquet: short articles to summarize, in five languages, from two free sources.

    python data/samples/build_articles.py

English: topics of Python's own language reference, which every Python carries in `pydoc_data.topics`. Others:
paragraphs of The Debian Administrator's Handbook, kept beside this file in articles_foreign.jsonl (one JSON
object a line: id, title, language, text, page), so that building needs no network. SOURCES.md tells versions,
licenses and what was changed. The committed file was built with Python 3.11.7; another patch release may word
a topic differently.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
# About a minute for a 135M model on two cores: it reads some 250 tokens a second.
MAX_CHARACTERS = 1250
HANDBOOK = "Debian package debian-handbook 11.20220922, page {page}"

# Topics that open with prose. `if` and `else` are one article in Python's reference as well: a real duplicate,
# which shows what a completion that is paid once and used twice looks like.
TOPICS = (
    *("assert", "atom-identifiers", "augassign", "booleans", "class", "comparisons", "context-managers", "del"),
    *("dict", "exceptions", "for", "formatstrings", "function", "global", "if", "else", "import", "naming"),
    *("objects", "raise", "return", "try", "typesmethods", "typesmodules"),
)

NOTES = {
    "py-if": "The same text as py-else.",
    "py-else": "The same text as py-if.",
    **{f"{code}-security": "The same section in de, es, fr, ja." for code in ("de", "es", "fr", "ja")},
    **{f"{code}-computer-layers": "The same section in de, es, fr, ja." for code in ("de", "es", "fr", "ja")},
}

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),  # BCP 47
        pa.field("text", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("license", pa.string(), nullable=False),  # SPDX
        pa.field("words", pa.int32(), nullable=False),  # between blanks, of which Japanese has few
        pa.field("note", pa.string()),
    ]
)


def unwrap(paragraph: str) -> str:
    """Join the lines of prose, which pydoc breaks for terminals; examples and lists stay as they are."""
    if re.search(r"^(\s|\* |\d+\. |[=-]{3})", paragraph, re.MULTILINE):
        return paragraph
    return re.sub(r"(?<=\w-)\n(?=\w)", "", paragraph).replace("\n", " ")


def opening(topic: str) -> tuple[str, str]:
    """Return a topic's title and its first paragraphs, without grammar productions."""
    title, _, body = topic.partition("\n")
    paragraphs = [unwrap(part.rstrip()) for part in re.split(r"\n{2,}", body.partition("\n")[2].strip("\n"))]
    kept: list[str] = []
    for paragraph in paragraphs:
        if "::=" in paragraph:  # a grammar is no prose, and a third of some topics
            continue
        if kept and len("\n\n".join([*kept, paragraph])) > MAX_CHARACTERS:
            break
        kept.append(paragraph)
    # what announces an example or a list that was cut off, and headings without their section
    while kept[-1].endswith((":", "=", "follows.")):
        kept.pop()
    return title.replace('"', ""), "\n\n".join(kept)


def articles() -> list[dict[str, Any]]:
    """Return all rows, English first."""
    rows = []
    for name in TOPICS:
        title, text = opening(topics[name])
        source = f"Python {platform.python_version()} pydoc topic '{name}'"
        rows.append(
            {
                "id": f"py-{name}",
                "title": title,
                "language": "en",
                "text": text,
                "source": source,
                "license": "PSF-2.0",
            }
        )
    for line in (HERE / "articles_foreign.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows.append({**row, "source": HANDBOOK.format(page=row.pop("page")), "license": "CC-BY-SA-3.0"})
    return [{**row, "words": len(row["text"].split()), "note": NOTES.get(row["id"])} for row in rows]


def main() -> None:
    """Write articles.parquet beside this file."""
    if sys.version_info[:2] != (3, 11):
        sys.exit("The topics of the committed file are those of Python 3.11: run this with it.")
    table = pa.Table.from_pylist(articles(), schema=SCHEMA)
    target = HERE / "articles.parquet"
    pq.write_table(table, target, compression="zstd", write_page_checksum=True, row_group_size=len(table))
    print(f"{len(table)} articles, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
