"""The table of requests in tests/README.md: every test in it exists, and every refusal's wording is in it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.tasks.llm.test_limit_name import WORDINGS

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "tests" / "README.md").read_text(encoding="utf-8").split("## Requests and JSON answers")[1]
PROVIDERS = (
    "OpenAI|Azure|OpenRouter|Gemini|xAI|DeepSeek|Moonshot|Mistral|Groq|vLLM|SGLang|Ollama|llama.cpp|LM Studio|LiteLLM proxy"
).split("|")


def test_every_wording_is_in_the_table() -> None:
    """Each id in the table is one of the tested wordings, and each of those is in the table once."""
    named = [name for name in re.findall(r"`limit-([a-z-]+)`", TABLE) if name != "x"]
    assert sorted(named) == sorted(WORDINGS)


def test_every_test_of_the_table_exists() -> None:
    """Each test that the table names is in the file that it names."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE)
    assert len(named) > 10
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not re.search(rf"^(?:async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert missing == []


def test_every_provider_is_in_the_table() -> None:
    """The table has each service that Parquill supports."""
    cells = " ".join(line.split("|")[2] for line in TABLE.splitlines() if line.startswith("| "))
    assert [provider for provider in PROVIDERS if provider not in cells] == []
