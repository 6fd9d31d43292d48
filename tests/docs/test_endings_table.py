"""The table of finish reasons in tests/README.md: every test in it exists, and every tested reason is in it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.tasks.llm.test_failures import FAILURES
from tests.tasks.llm.test_finish_reasons import ENDINGS_OF

TEXT = (
    (Path(__file__).parents[1] / "README.md")
    .read_text(encoding="utf-8")
    .split("## Finish reasons")[1]
    .split("\n## ")[0]
)
# Providers that the table must have.
PROVIDERS = (
    "OpenAI|Azure|OpenRouter|Gemini|Anthropic|Mistral|DeepSeek|Zhipu|Cohere|vLLM|SGLang|Ollama|llama.cpp|TGI|LM Studio|"
    "xAI|Moonshot|Groq|Together|Alibaba|LiteLLM proxy"
).split("|")


def _rows() -> dict[str, list[str]]:
    lines = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| provider")]
    return {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}


def test_every_test_of_the_table_exists() -> None:
    """Each id in the table is one of the parametrized tests, and each of those is in the table."""
    named = re.findall(r"`((?:ending|failure)-[a-z0-9-]+)`", "".join(cells[-1] for cells in _rows().values()))
    assert len(named) == len(set(named))
    assert set(named) == {f"ending-{name}" for name in ENDINGS_OF} | {f"failure-{name}" for name in FAILURES}


def test_every_provider_is_in_the_table() -> None:
    """The table has a line for each service that Parquill supports, with its test of finish reasons."""
    rows = _rows()
    for provider in PROVIDERS:
        assert provider in rows
        assert "`ending-" in rows[provider][-1], provider


def test_every_finish_reason_is_told() -> None:
    """A provider's line has exactly the finish reasons that are tested, written as the service writes them."""
    for provider, (reasons, _, tests) in _rows().items():
        found = re.findall(r"`ending-([a-z0-9]+)`", tests)
        tested = {str(name) for service in found for name in ENDINGS_OF[service] if name}
        assert set(re.findall(r"`([^`]+)`", reasons)) == tested, provider
