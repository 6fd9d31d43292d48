"""Sentences about replies that cost more than was reserved for them, or whose usage does not add up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from parquill.tasks.llm.usage import FLAGS
from parquill.tasks.money.amounts import format_usd, usd_to_nano
from parquill.tasks.records import Usage

OVER_RESERVED = "the service billed {usd} beyond what was reserved; what it billed is booked"
CAUSES = {
    "answers": (
        "answers longer than max_output_tokens ({rows}), for example from a model whose reasoning ignores it: "
        "raise max_output_tokens or choose another model"
    ),
    "prompts": (
        "prompts longer than counted ({rows}): the next estimate corrects for this; `tokenizer` can name another "
        "encoding"
    ),
    "prices": (
        "another price than reserved ({rows}), for example of a faster service tier that the project's settings choose"
    ),
}


def causes_of(usage: Usage | None, reserved_tokens: int, max_output_tokens: int) -> Iterator[str]:
    """Yield keys of CAUSES for a reply that cost more than reserved; `reserved_tokens` are those of its prompt."""
    is_longer = usage is not None and usage.completion > max_output_tokens
    is_more = usage is not None and usage.prompt > reserved_tokens
    if is_longer:
        yield "answers"
    if is_more:
        yield "prompts"
    if not is_longer and not is_more:
        yield "prices"


def has_excess(summary: Mapping[str, Any]) -> bool:
    """Whether any reply was billed beyond its reservation."""
    return Decimal(summary["over_reserved_usd"]) > 0


def money_sentences(summary: Mapping[str, Any]) -> list[str]:
    """Return sentences about a summary: cost beyond the reservations, usage that does not add up or is missing."""
    sentences = []
    if has_excess(summary):
        parts = [OVER_RESERVED.format(usd=format_usd(usd_to_nano(Decimal(summary["over_reserved_usd"]))))]
        rows_of = summary.get("over_reserved_rows") or {}
        parts += [text.format(rows=f"{rows_of[cause]:,}") for cause, text in CAUSES.items() if rows_of.get(cause)]
        sentences.append("; ".join(parts))
    flags = summary.get("usage_flags")
    if flags:
        reasons = ", ".join(f"{FLAGS.get(flag, flag)} ({rows:,})" for flag, rows in sorted(flags.items()))
        sentences.append(
            f"the usage of {sum(flags.values()):,} replies does not add up: {reasons}; the larger figures are booked"
        )
    if unknown := summary.get("usage_unknown"):
        sentences.append(
            f"the usage of {unknown:,} replies is missing or cannot be true; what was reserved for them is booked"
        )
    return sentences
