"""What a person reads when replies cost more than was reserved for them, or report figures that do not add up."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from parquill.tasks.money.prices import dollars, nano_of
from parquill.tasks.money.usage import FLAGS

OVER_RESERVED = (
    "the service billed {usd} beyond what was reserved: answers longer than max_output_tokens, as of a model whose "
    "reasoning ignores it, prompts longer than counted, or another service tier. The true figures are booked; raise "
    "max_output_tokens or choose another model"
)


def has_excess(summary: Mapping[str, Any]) -> bool:
    """Whether something was billed beyond its reservation."""
    return Decimal(summary["over_reserved_usd"]) > 0


def money_sentences(summary: Mapping[str, Any]) -> list[str]:
    """Sentences about a summary: billed beyond the reservations, usage that does not add up or cannot be used."""
    sentences = (
        [OVER_RESERVED.format(usd=dollars(nano_of(Decimal(summary["over_reserved_usd"]))))]
        if has_excess(summary)
        else []
    )
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
