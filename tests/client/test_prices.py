"""Prices that are given to the client."""

from decimal import Decimal

import pytest
from tcgx_client.prices import Price, price_text


@pytest.mark.parametrize(
    ("price", "text"),
    [("5.5", "5.50"), (Decimal("5.50"), "5.50"), (5, "5.00"), ("1e1", "10.00"), (Decimal("5.500"), "5.50")],
)
def test_a_price_is_written_with_two_decimals(price: Price, text: str) -> None:
    assert price_text(price) == text


@pytest.mark.parametrize("price", [0.1 + 0.2, 5.5, True, None, [5]])
def test_a_float_is_refused_with_the_name_of_what_is_right(price: Price) -> None:
    with pytest.raises(TypeError, match="Decimal"):
        price_text(price)


@pytest.mark.parametrize("price", ["5.555", "five", "", "nan", "inf", Decimal("0.001"), "1e999"])
def test_what_is_no_number_of_cents_is_refused(price: Price) -> None:
    with pytest.raises(ValueError, match="price must be"):
        price_text(price)


def test_each_of_the_901_prices_is_written_as_it_is() -> None:
    prices = [f"{cents // 100}.{cents % 100:02d}" for cents in range(100, 1_001)]

    assert [price_text(price) for price in prices] == prices
    assert [price_text(Decimal(price)) for price in prices] == prices
