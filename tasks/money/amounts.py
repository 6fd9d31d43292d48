"""Amounts of money: whole femto-dollars (1e-15 $) per token, whole nano-dollars (1e-9 $) per row, dollars to show."""

from __future__ import annotations

from decimal import Decimal

FEMTO_PER_NANO = 1_000_000
NANO_PER_USD = 1_000_000_000


def femto_to_nano(femto: int) -> int:
    """Round femto-dollars to nano-dollars, halves to even (as Decimal does)."""
    whole, rest = divmod(femto, FEMTO_PER_NANO)
    half = FEMTO_PER_NANO // 2
    return whole + (rest > half or (rest == half and whole % 2 == 1))


def nano_to_usd(nano: int) -> Decimal:
    """Convert nano-dollars to dollars with nine decimals."""
    return Decimal(nano).scaleb(-9)


def usd_to_nano(amount: Decimal) -> int:
    """Convert dollars to nano-dollars, rounded to a whole number."""
    return int(amount.scaleb(9).to_integral_value())


def format_usd(nano: int) -> str:
    """Format dollars for people: with cents, or with more decimals for small amounts, so that none is shown as zero."""
    amount = nano_to_usd(nano)
    if nano == 0 or abs(nano) >= 10_000_000_000:
        return f"${amount:,.2f}"
    text = f"{amount:,.9f}".rstrip("0")
    whole, _, decimals = text.partition(".")
    return f"${whole}.{decimals:0<2}" if len(decimals) <= 6 or abs(nano) < 1_000 else f"${amount:,.6f}"


def usd_text(amount: Decimal) -> str:
    """Format dollars as a decimal string for JSON: plain digits, never an exponent."""
    return format(amount, "f")
