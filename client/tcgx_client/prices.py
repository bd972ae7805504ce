"""Prices as callers give them: `Decimal`, text or whole dollars, never a float."""

from decimal import Decimal, InvalidOperation

Price = Decimal | str | int
"""Dollars."""

CENT = Decimal("0.01")


def price_text(price: Price) -> str:
    """A price as the API takes it, with two decimals.

    Raises:
        TypeError: the price is a float, which cannot hold most prices exactly, or no price at all.
        ValueError: the price is no number of whole cents.
    """
    if isinstance(price, bool) or not isinstance(price, Decimal | str | int):
        given = type(price).__name__
        raise TypeError(f"price must be a Decimal, a str or an int of dollars, e.g. Decimal('5.50'), not a {given}")
    try:
        exact = Decimal(price)
        cents = exact.quantize(CENT)
    except InvalidOperation:
        raise ValueError(f"price must be a number of dollars such as 5.50, got {price!r}") from None
    if cents != exact:
        raise ValueError(f"price must be a number of whole cents, got {price!r}")
    return f"{cents:f}"
