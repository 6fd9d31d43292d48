"""The usage table in tests/README.md: every test in it exists, and every tested layout is in it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.tasks.llm.test_usage import LAYOUTS, ODD

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8").split("## Usage by provider")[1].split("\n## ")[0]
# Providers that the table must have.
PROVIDERS = (
    "OpenAI chat|OpenAI responses|Azure|OpenRouter|Gemini|xAI|DeepSeek|Moonshot|Mistral|Groq|vLLM|SGLang|Ollama|"
    "llama.cpp|LM Studio|LiteLLM proxy"
).split("|")


def test_every_test_of_the_table_exists() -> None:
    """Each id in the table is one of the parametrized tests of test_usage.py, and each of those is in the table."""
    named = re.findall(r"`((?:layout|odd)-[a-z0-9-]+)`", TEXT)
    named = [name for name in named if name not in {"layout-x", "odd-x"}]
    assert len(named) == len(set(named))
    assert set(named) == {f"layout-{name}" for name in LAYOUTS} | {f"odd-{name}" for name in ODD}


def test_every_provider_is_in_the_table() -> None:
    """The table has a line for each service that Parquill supports, with at least one test."""
    lines = {line.split("|")[1].strip(): line for line in TEXT.splitlines() if "|" in line}
    for provider in PROVIDERS:
        found = [line for name, line in lines.items() if name.startswith(provider)]
        assert found, provider
        assert "`layout-" in found[0], provider
