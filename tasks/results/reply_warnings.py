"""Sentences about odd replies: prompts that the server cut, unknown finish reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def reply_sentences(summary: Mapping[str, Any]) -> list[str]:
    """Return sentences about a summary; each says how many rows are affected and what to do."""
    sentences = []
    if rows := (summary.get("errors") or {}).get("prompt_cut"):
        figures = [int(figure) for figure in summary.get("prompts_cut_at") or ()]
        read = f" after {' or '.join(f'{figure:,}' for figure in sorted(figures))} tokens" if figures else ""
        sentences.append(
            f"warning: the server cut the prompts of {rows:,} rows{read} (error_code prompt_cut), so their answers "
            "cover only part of the prompt. Raise the server's context length (Ollama: OLLAMA_CONTEXT_LENGTH, or "
            "num_ctx in the Modelfile), then run with --redo truncated. No estimate learns from these rows"
        )
    if unknown := summary.get("unknown_finish_reasons"):
        named = ", ".join(f"{name!r} ({rows:,})" for name, rows in sorted(unknown.items()))
        sentences.append(
            f"warning: {sum(unknown.values()):,} answers ended with a finish reason that Parquill does not know: "
            f"{named}. They are kept as ok; look at a few of them, and report the name"
        )
    return sentences
