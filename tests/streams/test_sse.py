"""Books and trades as server-sent events."""

import pytest

from testing.clients.stream import EventStream, LocalBook
from testing.exchange import ExchangeServer

pytestmark = pytest.mark.server


def test_the_first_messages_are_hello_and_a_snapshot(exchange: ExchangeServer) -> None:
    trader = exchange.trader()
    trader.place("pikachu", "sell", "5.60", quantity=3)

    with EventStream(exchange.url, "book:pikachu") as stream:
        hello, snapshot = stream.next(), stream.next()

    assert stream.status == 200
    assert hello.event == "hello"
    assert hello.data["heartbeat_seconds"] == 10
    assert snapshot.data["type"] == "snapshot"
    assert snapshot.data["asks"] == [["5.60", 3]]
    rest = exchange.http.get("/cards/pikachu/book").json()
    assert snapshot.data["sequence"] == rest["sequence"]


def test_an_update_follows_the_snapshot_and_a_trade_is_told(exchange: ExchangeServer) -> None:
    maker, taker = exchange.trader(), exchange.trader()
    maker.place("pikachu", "sell", "5.60", quantity=3)

    with EventStream(exchange.url, "book:pikachu,trades:pikachu") as stream:
        book = LocalBook()
        assert book.apply(stream.next("book").data)
        order = taker.place("pikachu", "buy", "5.60", quantity=2)
        trades = stream.next("trades").data
        while book.sequence < trades["sequence"]:
            assert book.apply(stream.next("book").data)

    assert [trade["trade_id"] for trade in trades["trades"]] == [trade["trade_id"] for trade in order["trades"]]
    assert book.levels("asks") == [["5.60", 1]]
