"""What an estimate gives to the Python code that called it: the keys of `estimate --json` as attributes.

estimate = estimate_cost("job.yaml")
if estimate.fits_budget:
print(estimate.rows_to_send, estimate.cost_usd_worst)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, Literal, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEstimate:
    """The cost of a job before it runs; dollars are `Decimal`. docs/reference/summary.md has each key's meaning.

    The last four are figures of a pilot, and None without one.
    """

    rows: int
    rows_to_send: int
    model: str
    prompt_tokens: int
    completion_tokens_expected: int
    cost_usd_expected: Decimal
    cost_usd_low: Decimal | None
    cost_usd_high: Decimal | None
    cost_usd_p90: Decimal
    cost_usd_worst: Decimal
    cost_usd_moved_expected: Decimal | None
    cost_usd_moved_worst: Decimal | None
    duration_s: float | None
    basis: Literal["history", "pilot", "worst_case"]
    fits_budget: bool
    basis_note: str
    prompt_tokens_counted: int
    prompt_tokens_note: str | None
    rows_reused: int
    reuse_note: str | None
    input_note: str | None
    rows_rejected: int
    first_rejected: str | None
    prices_source: str
    prices_version: str
    warning: str | None
    pilot_rows: int | None = None
    pilot_ended: str | None = None
    paid_usd: Decimal | None = None
    in_doubt_usd: Decimal | None = None
    _flat: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, flat: Mapping[str, Any]) -> Self:
        """Return the estimate with the keys and values of `estimate --json`."""
        given: dict[str, Any] = {
            name: Decimal(value) if "_usd" in name and value is not None else value for name, value in flat.items()
        }
        return cls(**given, _flat=dict(flat))

    def as_dict(self) -> dict[str, Any]:
        """Return what `estimate --json` prints: dollars are decimal text."""
        return dict(self._flat)


KEYS = tuple(each.name for each in fields(CostEstimate) if not each.name.startswith("_"))
