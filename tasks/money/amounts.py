"""Amounts of money: whole femto-dollars (1e-15 $) per token, whole nano-dollars (1e-9 $) per row, dollars to show."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

FEMTO_PER_NANO = 1_000_000
NANO_PER_USD = 1_000_000_000
MIN_DECIMALS, MAX_DECIMALS, EXACT_DECIMALS = 2, 8, 9  # of dollars that people read


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


def format_usd(nano: int, decimals: int | None = None) -> str:
    """Format dollars for people: with cents from a dollar up, below it with two significant digits or more.

    `decimals` is the number of decimals, for amounts that are shown together. An amount that is not zero is never
    shown as zero.
    """
    places = decimals_of(nano) if decimals is None else decimals
    text = f"${nano_to_usd(nano):,.{places}f}"
    if nano and not text.strip("$-0."):
        return f"<$0.{'1':0>{places}}"
    return text


def format_usd_text(usd: str) -> str:
    """Format for people what `usd_text` returned."""
    return format_usd(usd_to_nano(Decimal(usd)))


def format_column(amounts: Sequence[int]) -> list[str]:
    """Format amounts that are shown together, with the same number of decimals."""
    places = max((decimals_of(nano) for nano in amounts), default=MIN_DECIMALS)
    return [format_usd(nano, places) for nano in amounts]


def decimals_of(nano: int, other: int | None = None) -> int:
    """Return with how many decimals an amount is shown; with as many as show the difference if there is an `other`."""
    amount = abs(nano_to_usd(nano))
    places = MIN_DECIMALS if not amount or amount >= 1 else max(MIN_DECIMALS, 1 - amount.adjusted())
    places = min(MAX_DECIMALS, places)
    while places > MIN_DECIMALS and nano % 10 ** (EXACT_DECIMALS - places + 1) == 0:  # $0.01 and not $0.010
        places -= 1
    if other is None or other == nano:
        return places
    while format_usd(nano, places) == format_usd(other, places) and places < EXACT_DECIMALS:
        places += 1
    return places


def usd_text(amount: Decimal) -> str:
    """Format dollars as a decimal string for JSON: plain digits, never an exponent."""
    return format(amount, "f")
