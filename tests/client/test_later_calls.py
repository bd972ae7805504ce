"""Calls that an exchange has or has not: each test runs where the OpenAPI document of the exchange has its route."""

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import tcgx_client
from tcgx_client import LeaseEvent, NewOrder

from testing.exchange import ExchangeServer
from testing.waiting import until

pytestmark = pytest.mark.server

CARD = "charmander"
MakeClient = Callable[..., Any]


@pytest.fixture
def needs(exchange: ExchangeServer) -> Callable[..., None]:
    """Skips a test where the exchange lacks a route, or a parameter or field of it."""
    document = exchange.http.get("/schema/openapi.json").json()

    def check(method: str, path: str, *names: str) -> None:
        route = document["paths"].get(path, {}).get(method)
        if route is None:
            pytest.skip(f"the exchange has no {method.upper()} {path}")
        known = {each["name"] for each in route.get("parameters", ())}
        schemas = document["components"]["schemas"]
        known |= {name for schema in schemas.values() for name in schema.get("properties", ())}
        if not known.issuperset(names):
            pytest.skip(f"{method.upper()} {path} has no {', '.join(names)}")

    return check


def sold(client: Any, count: int, price: str = "5.00") -> None:
    """Trades with oneself, so many."""
    client.place_many([NewOrder(card=CARD, side="sell", price=price) for _ in range(count)])
    client.place(CARD, "buy", price, count, wait=10)


# -- orders


def test_an_order_is_replaced_by_another_one(client: Any, needs: Any) -> None:
    needs("patch", "/orders/{order_id}")
    first = client.place(CARD, "buy", "5.50", 5, wait=5)
    less = client.replace(first.order_id, quantity=3, wait=5)
    other = client.replace(first.order_id, price="5.40", client_order_id=f"new-{id(client)}", wait=5)
    again = client.replace(first.order_id, price="5.40", client_order_id=other.client_order_id, wait=5)
    old = client.order(first.order_id)

    assert (less.order_id, less.quantity) == (first.order_id, 3)
    assert (other.price, other.quantity, other.replaces) == (Decimal("5.40"), 3, first.order_id)
    assert again.order_id == other.order_id, "a repetition replaces once"
    assert (old.status, old.replaced_by) == ("canceled", other.order_id)
    with pytest.raises(tcgx_client.Conflict):
        client.replace(first.order_id, price="5.30")


def test_a_post_only_order_never_takes(client: Any, needs: Any) -> None:
    needs("post", "/orders", "post_only")
    client.place(CARD, "sell", "6.00", wait=5)
    taking = client.place(CARD, "buy", "6.00", post_only=True, wait=5)
    resting = client.place(CARD, "buy", "5.90", post_only=True, wait=5)
    (many,) = client.place_many([NewOrder(card=CARD, side="buy", price="5.80", post_only=True)])

    assert (taking.status, taking.filled_quantity, taking.reason) == ("expired", 0, "would_cross")
    assert (resting.status, resting.post_only, many.post_only) == ("open", True, True)


def test_orders_of_a_client_that_says_nothing_are_canceled(client: Any, needs: Any) -> None:
    needs("put", "/orders/cancel-after")
    client.place(CARD, "buy", "5.50", wait=5)
    armed = client.cancel_after(60)
    off = client.cancel_after(None)
    client.cancel_after(1)

    assert armed.seconds == 60
    assert armed.cancel_at - datetime.now(UTC) < timedelta(seconds=61)
    assert (off.seconds, off.cancel_at) == (0, None)
    until(lambda: not list(client.orders(status="open")), "the switch", seconds=20)


def test_a_lease_cancels_when_its_stream_is_closed_and_only_if_that_was_asked_for(client: Any, needs: Any) -> None:
    needs("put", "/orders/cancel-after")
    with client.stream("orders", transport="ws", lease=5) as stream:
        granted = lease_of(stream)
        client.place(CARD, "buy", "5.50", wait=5)
    assert len(list(client.orders(status="open"))) == 1

    with client.stream("orders", transport="ws", lease=5, cancel_on_close=True) as stream:
        again = lease_of(stream)
    until(lambda: not list(client.orders(status="open")), "the lease", seconds=20)

    assert (granted.grace_seconds, granted.cancel_on_close, granted.ended) == (5, False, None)
    assert again.cancel_on_close is True


def lease_of(stream: Any) -> LeaseEvent:
    """The lease that a stream is granted."""
    for _ in range(20):
        event = stream.next(10)
        if isinstance(event, LeaseEvent):
            return event
    raise AssertionError("no lease came")


# -- reads


def test_a_ticker_has_prices_of_now_and_of_a_day(client: Any, needs: Any) -> None:
    needs("get", "/cards/{card}/ticker")
    sold(client, 2, "5.25")
    placed = client.place(CARD, "buy", "5.20", 3, wait=5)

    ticker = client.ticker(CARD)

    assert (ticker.last, ticker.bid) == (Decimal("5.25"), (Decimal("5.20"), 3))
    assert ticker.sequence >= int(placed.order_id.rpartition("-")[2])
    if ticker.complete:
        assert ticker.low <= Decimal("5.25") <= ticker.high
        assert ticker.volume >= 2


def test_candles_have_the_trades_of_their_intervals(client: Any, needs: Any) -> None:
    needs("get", "/cards/{card}/candles")
    before = datetime.now(UTC)
    sold(client, 3, "5.30")

    candles = list(client.candles(CARD, "1m", start=before.replace(second=0, microsecond=0)))

    assert candles
    assert [candle.start for candle in candles] == sorted(candle.start for candle in candles)
    assert sum(candle.volume for candle in candles) >= 3
    assert candles[-1].close == Decimal("5.30")
    filled = list(client.candles(CARD, "1m", start=before - timedelta(minutes=3), fill="previous"))
    assert len(filled) >= len(candles)


def test_history_is_filtered_and_read_in_both_directions(client: Any, needs: Any, exchange: ExchangeServer) -> None:
    needs("get", "/history/orders", "since", "until", "after", "status", "side")
    first = client.place(CARD, "buy", "1.00", time_in_force="ioc", wait=5)
    orders = client.place_many([NewOrder(card=CARD, side="buy", price="1.00", time_in_force="ioc") for _ in range(700)])
    sold(client, 2)
    exchange.archived()
    names = [order.order_id for order in orders]

    newer = client.history_orders(card=CARD, status="expired", after=first.order_id)
    expired = list(client.history_orders(card=CARD, status="expired", since=orders[0].accepted_at))
    trades = list(client.history_trades(CARD, side="buy", since=first.accepted_at, until=datetime.now(UTC)))

    assert [order.order_id for order in newer] == names, "each once, oldest first"
    assert [order.order_id for order in expired] == names[::-1]
    assert len(trades) == 2
    with pytest.raises(ValueError, match="zone"):
        client.history_trades(CARD, since=datetime(2026, 11, 27))


def test_history_is_exported_as_csv(client: Any, needs: Any, exchange: ExchangeServer, tmp_path: Path) -> None:
    needs("get", "/history/trades.csv")
    sold(client, 40)
    exchange.archived()
    file, memory = tmp_path / "orders.csv", io.BytesIO()
    memory.write(b"before")

    orders = client.export_csv("orders", file, card=CARD)
    trades = client.export_csv("trades", memory, card=CARD)

    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert orders == len(rows) == 41
    assert {row["status"] for row in rows} == {"filled"}
    assert trades == len(list(client.history_trades(CARD)))
    assert memory.getvalue().startswith(b"beforetrade_id,")
    assert list(tmp_path.iterdir()) == [file]


def test_a_refused_export_leaves_no_file(client: Any, needs: Any, tmp_path: Path) -> None:
    needs("get", "/history/trades.csv")
    with pytest.raises(tcgx_client.ApiError):
        client.export_csv("trades", tmp_path / "trades.csv", card="missingno")

    assert list(tmp_path.iterdir()) == []
