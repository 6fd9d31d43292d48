"""The setting `price`: what a model costs that has no public price."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Self

from pydantic import Field, WithJsonSchema, model_validator

from parquill.tasks.job.base import Number, Settings

CHEAPEST_USD_PER_MTOK = Decimal("0.0001")
# in the schema that pydantic writes, the text branch has no pattern, so a form would accept "ten"
_DECIMAL = {"type": "string", "pattern": r"^\d{1,7}(\.\d{1,9})?$"}
_USD_PER_MTOK = {"anyOf": [{"type": "number", "minimum": 0, "maximum": 10_000}, _DECIMAL]}
UsdPerMtok = Annotated[
    Decimal,
    Field(ge=0, le=Decimal(10_000), allow_inf_nan=False, decimal_places=9),
    Number,
    WithJsonSchema(_USD_PER_MTOK),
]


class PriceSettings(Settings, title="Price"):
    """Dollars per million tokens; write 0 if there is no charge."""

    usd_per_mtok_input: UsdPerMtok = Field(description="Dollars per million tokens of input")
    usd_per_mtok_cached: UsdPerMtok | None = Field(
        None, description="Input that the service reads from its cache; default: the input price"
    )
    usd_per_mtok_cache_write: UsdPerMtok | None = Field(
        None, description="Input that the service writes to its cache; default: the input price"
    )
    usd_per_mtok_output: UsdPerMtok = Field(description="Dollars per million tokens of output")

    @model_validator(mode="after")
    def _per_million(self) -> Self:
        highest = max(
            self.usd_per_mtok_input,
            self.usd_per_mtok_cached or 0,
            self.usd_per_mtok_cache_write or 0,
            self.usd_per_mtok_output,
        )
        # no service is so cheap; with dollars per token no budget would hold
        # promise: input: a price per token instead of per million tokens is refused
        if 0 < highest < CHEAPEST_USD_PER_MTOK:
            raise ValueError(
                f"is nowhere above ${CHEAPEST_USD_PER_MTOK} per million tokens: are these dollars for one token?"
            )
        return self
