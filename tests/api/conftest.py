"""Traders of the shared exchange."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from testing.clients.trader import Trader
from testing.exchange import ExchangeServer


@pytest.fixture
def new_trader(exchange: ExchangeServer) -> Iterator[Callable[[], Trader]]:
    """Makes traders who have no orders yet."""
    made: list[Trader] = []

    def make() -> Trader:
        made.append(exchange.trader())
        return made[-1]

    yield make
    for trader in made:
        trader.close()


@pytest.fixture
def trader(new_trader: Callable[[], Trader]) -> Trader:
    return new_trader()


@pytest.fixture
def other(new_trader: Callable[[], Trader]) -> Trader:
    return new_trader()


@pytest.fixture
def client(trader: Trader) -> httpx.Client:
    """The client of a trader who has no orders yet."""
    return trader.http
