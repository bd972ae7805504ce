"""Prices of a day and candles: those of the archive and of the live tail are those of all trades."""

from typing import Any

import pytest

from testing.clients.stream import EventStream
from testing.exchange import ExchangeServer, exchange_server

pytestmark = pytest.mark.server

Json = dict[str, Any]


def ticker(stream: EventStream, **wanted: object) -> Json:
    """The first ticker with these values."""
    while True:
        found = stream.next("ticker").data
        if wanted.items() <= found.items():
            return found


def trade(server: ExchangeServer, card: str, price: str, quantity: int = 1) -> None:
    """A trade at this price."""
    maker, taker = server.trader(), server.trader()
    maker.place(card, "sell", price, quantity=quantity)
    taker.place(card, "buy", price, quantity=quantity)


def test_a_ticker_has_the_archived_trades_and_those_after_them() -> None:
    with exchange_server() as server:
        trade(server, "pikachu", "5.50", 2)
        trade(server, "pikachu", "6.50", 1)
        server.archived()
        server.trader().place("pikachu", "buy", "4.00", quantity=7)
        with EventStream(server.url, "ticker:pikachu,candles:pikachu:1h") as stream:
            first = ticker(stream, complete=True)
            candle = stream.next("candles").data
            trade(server, "pikachu", "4.50", 5)
            second = ticker(stream, last="4.50")
            newer = stream.next("candles").data
        server.stop_service("api")
        server.start_service("api")
        with EventStream(server.url, "ticker") as stream:
            again = ticker(stream, card="pikachu", complete=True)

    assert (first["open"], first["high"], first["low"], first["last"]) == ("5.50", "6.50", "5.50", "6.50")
    assert (first["volume"], first["bid"], first["ask"]) == (3, ["4.00", 7], None)
    assert (second["open"], second["high"], second["low"], second["volume"]) == ("5.50", "6.50", "4.50", 8)
    assert {**again, "at": ""} == {**second, "at": ""}
    assert candle.items() >= {"open": "5.50", "close": "6.50", "volume": 3, "trades": 2, "closed": False}.items()
    assert newer.items() >= {"start": candle["start"], "close": "4.50", "low": "4.50", "trades": 3}.items()


def test_a_ticker_without_the_archive_says_so_and_is_whole_later() -> None:
    with exchange_server() as server:
        trade(server, "pikachu", "5.50", 2)
        server.archived()
        server.execute("ALTER TABLE trades_pikachu RENAME TO hidden")
        with EventStream(server.url, "ticker:pikachu,candles:pikachu:1m") as stream:
            candle = stream.next("candles").data
            first = ticker(stream, last="5.50")
            server.execute("ALTER TABLE hidden RENAME TO trades_pikachu")
            second = ticker(stream, complete=True)

    assert (first["complete"], first["volume"], first["open"], first["last"]) == (False, None, None, "5.50")
    assert candle["type"] == "unavailable"
    assert (second["volume"], second["open"]) == (2, "5.50")
