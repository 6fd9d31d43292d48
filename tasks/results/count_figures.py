"""Sentences and figures that compare counted with reported prompt tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parquill.tasks.money.calibration import CountComparison

MIN_DEVIATION = 0.01  # smaller ones need no explanation


def compared_json(found: CountComparison, *, model: str, encoding: str, exact: bool) -> dict[str, Any]:
    """Return the `counted` part of a summary: tokens of this run's answers, the worst row, what a difference means."""
    worst = found.worst
    return {
        "answers": found.answers,
        "prompt_tokens_counted": found.counted,
        "prompt_tokens_reported": found.reported,
        "deviation": None if found.deviation is None else round(found.deviation, 6),
        "encoding": encoding,
        "exact": exact,
        "worst_row": None
        if worst is None
        else {
            "source_file": worst.source_file,
            "row_number": worst.row_number,
            "prompt_tokens_counted": worst.counted,
            "prompt_tokens_reported": worst.reported,
            "deviation": round(worst.deviation, 6),
        },
        "meaning": _meaning(found, model, encoding, exact=exact),
    }


def _meaning(found: CountComparison, model: str, encoding: str, *, exact: bool) -> str | None:
    """Say why counted and reported tokens differ; None if they differ by a hundredth or less."""
    deviation = found.deviation
    if deviation is None or abs(deviation) <= MIN_DEVIATION:
        return None
    message = (
        f"the service reports {abs(deviation):.1%} {'more' if deviation > 0 else 'fewer'} prompt tokens than counted"
    )
    if not exact:
        return f"{message}: {encoding} only stands in for the tokenizer of {model}; the next estimate corrects for this"
    if deviation > 0:
        return (
            f"{message} by the encoding of {model}: it adds text of its own or serves another model; you paid for them"
        )
    return (
        f"{message} by the encoding of {model}: it cuts prompts or serves another model, so the estimate was too high"
    )


def counted_line(counted: Mapping[str, Any]) -> str:
    """Return the sums of the `counted` part of a summary, and their deviation, as one line."""
    return (
        f"counted {counted['prompt_tokens_counted']:,}, reported {counted['prompt_tokens_reported']:,} "
        f"({counted['deviation'] or 0:+.2%})"
    )


def worst_line(counted: Mapping[str, Any]) -> str:
    """Return a line about the row whose count was farthest off; empty if none was off."""
    worst = counted["worst_row"]
    if worst is None or not worst["deviation"]:
        return ""
    return (
        f"{worst['source_file']}, row {worst['row_number']}: counted {worst['prompt_tokens_counted']:,}, "
        f"reported {worst['prompt_tokens_reported']:,} ({worst['deviation']:+.0%})"
    )
