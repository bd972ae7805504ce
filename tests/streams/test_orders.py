"""Own orders: each change with the order after it, from a position on, and never an order of another trader."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from redis import Redis

from api.views import order_view
from core.model import CancelOrder, Order, PlaceOrder, ReplaceOrder, Side, TimeInForce
from engine.events import Event
from streams.messages import order_json
from streams.orders import messages_by_trader
from testing.clients.stream import EventStream
from testing.exchange import ExchangeServer
from testing.market import Market
from tests.streams.test_watch import watch

pytestmark = pytest.mark.server

Json = dict[str, Any]
CARD = "pikachu"


def own(stream: EventStream, count: int) -> list[Json]:
    """The next messages about orders."""
    return [stream.next("orders").data for _ in range(count)]


def test_the_first_message_is_the_open_orders(exchange: ExchangeServer) -> None:
    trader, other = exchange.trader(), exchange.trader()
    mine = trader.place(CARD, "sell", "8.60", quantity=3)
    trader.place("bulbasaur", "buy", "1.50", quantity=3)
    other.place(CARD, "sell", "8.70")

    with EventStream(exchange.url, "orders", headers=exchange.bearer(trader.trader_id)) as stream:
        (snapshot,) = own(stream, 1)

    assert snapshot["type"] == "snapshot"
    assert snapshot["complete"]
    assert set(snapshot["positions"]) == set(exchange.settings.cards)
    assert [order["card"] for order in snapshot["orders"]] == ["bulbasaur", CARD]
    assert snapshot["orders"][1].items() <= trader.order(mine["order_id"]).items()


def test_an_order_that_fills_at_once_in_three_trades_is_told_as_three_fills(exchange: ExchangeServer) -> None:
    maker, taker = exchange.trader(), exchange.trader()
    for price in ("5.50", "5.60", "5.70"):
        maker.place(CARD, "sell", price)
    with (
        EventStream(exchange.url, "orders", headers=exchange.bearer(taker.trader_id)) as stream,
        EventStream(exchange.url, "orders", headers=exchange.bearer(maker.trader_id)) as makers,
    ):
        assert own(stream, 1)[0]["orders"] == []
        own(makers, 1)
        order = taker.place(CARD, "buy", "5.70", quantity=3)
        fills = own(stream, 3)
        made = own(makers, 3)

    assert [each["event"] for each in fills] == ["fill"] * 3
    assert [each["order"]["filled_quantity"] for each in fills] == [1, 2, 3]
    assert [each["order"]["status"] for each in fills] == ["partially_filled", "partially_filled", "filled"]
    assert [each["fill"]["price"] for each in fills] == ["5.50", "5.60", "5.70"]
    assert {each["fill"]["role"] for each in fills} == {"taker"}
    assert fills[-1]["order"].items() <= taker.order(order["order_id"]).items()
    assert [(each["order"]["status"], each["fill"]["role"]) for each in made] == [("filled", "maker")] * 3


def test_the_life_of_an_order_that_rests(exchange: ExchangeServer) -> None:
    trader, other = exchange.trader(), exchange.trader()
    with EventStream(exchange.url, "orders", headers=exchange.bearer(trader.trader_id)) as stream:
        own(stream, 1)
        order = trader.place(CARD, "sell", "8.60", quantity=3, client_order_id="mine")
        other.place(CARD, "buy", "8.60")
        trader.http.delete(f"/orders/{order['order_id']}")
        trader.place(CARD, "buy", "1.10", time_in_force="ioc")
        found = own(stream, 4)

    assert [each["event"] for each in found] == ["open", "fill", "canceled", "expired"]
    assert [each["order"]["status"] for each in found] == ["open", "partially_filled", "canceled", "expired"]
    assert [each["order"]["filled_quantity"] for each in found] == [0, 1, 1, 0]
    assert found[0]["order"]["client_order_id"] == "mine"
    assert [each["fill"] is None for each in found] == [True, False, True, True]
    assert [each["order"]["closed_at"] is None for each in found] == [True, True, False, False]


def test_a_replaced_order_ends_and_one_that_keeps_its_place_goes_on(exchange: ExchangeServer) -> None:
    trader = exchange.trader()
    order = trader.place(CARD, "sell", "8.80", quantity=5)
    with EventStream(exchange.url, "orders", headers=exchange.bearer(trader.trader_id)) as stream:
        own(stream, 1)
        trader.http.patch(f"/orders/{order['order_id']}", json={"quantity": 3})
        (reduced,) = own(stream, 1)
        answer = trader.http.patch(f"/orders/{order['order_id']}", json={"price": "8.81"})
        ended, opened = own(stream, 2)

    assert [each["event"] for each in (reduced, ended, opened)] == ["replaced", "replaced", "open"]
    assert (reduced["order"]["order_id"], reduced["order"]["quantity"]) == (order["order_id"], 3)
    assert (ended["reason"], ended["order"]["replaced_by"]) == ("replaced", opened["order"]["order_id"])
    assert (opened["order"]["order_id"], opened["order"]["quantity"]) == (answer.json()["order_id"], 3)


def test_a_stream_goes_on_after_the_position_it_had(exchange: ExchangeServer) -> None:
    trader = exchange.trader()
    headers = exchange.bearer(trader.trader_id)
    with EventStream(exchange.url, "orders", headers=headers) as stream:
        own(stream, 1)
        trader.place(CARD, "sell", "8.60")
        (first,) = own(stream, 1)
        last_id = stream.last_id
    for _ in range(3):
        trader.place(CARD, "sell", "8.60")

    for _ in range(2):  # a stream that is cut before a new event goes on from the same place
        with EventStream(exchange.url, "orders", headers={**headers, "last-event-id": last_id}) as again:
            found = own(again, 3)

    assert f"{CARD}.{first['sequence']}" in last_id
    assert [each["event"] for each in found] == ["open"] * 3
    assert all(each["sequence"] > first["sequence"] for each in found)


def test_a_stream_of_orders_needs_a_token(exchange: ExchangeServer) -> None:
    answer = exchange.http.get("/stream", params={"channels": "orders"})

    assert (answer.status_code, answer.json()["code"]) == (401, "token_missing")


@pytest.mark.parametrize("flow", ["quiet", "busy"])
def test_messages_of_random_events_lead_to_the_orders_of_redis(redis_client: Redis, flow: str) -> None:
    """The last message of each order is what Redis has; fills add up; each trade is told to both of its sides."""
    market = Market(redis_client)
    choose = random.Random(flow)
    watch(market, orders=True)
    last: dict[int, Json] = {}
    told: list[tuple[str, str]] = []
    events: Counter[str] = Counter()
    after = None
    placed: list[tuple[int, int]] = []
    sides: dict[int, Side] = {}
    for _ in range(120):
        batch: list[Any] = [_command(choose, placed, sides) for _ in range(choose.choice((1, 4, 40)))]
        first = market.append(batch).first
        placed += [(first + place, each.trader_id) for place, each in enumerate(batch) if isinstance(each, PlaceOrder)]
        sides.update({first + place: each.side for place, each in enumerate(batch) if isinstance(each, PlaceOrder)})
        market.match(7 if flow == "quiet" else 500)
        for entry_id, fields in market.events(after):
            after = entry_id
            event = Event.of(CARD, (entry_id.encode(), fields))
            for trader_id, found in messages_by_trader(event).items():
                for message in found:
                    data = msgspec.json.decode(message.json)
                    sequence = int(data["order"]["order_id"].rpartition("-")[2])
                    assert dict(placed)[sequence] == trader_id
                    carried = data["order"]["carried_quantity"]
                    before = last.get(sequence, {"filled_quantity": carried, "status": "accepted"})
                    grown = data["fill"]["quantity"] if data["fill"] else 0
                    assert data["order"]["filled_quantity"] == before["filled_quantity"] + grown
                    assert before["status"] not in ("filled", "canceled", "expired")
                    last[sequence] = data["order"]
                    events[data["event"]] += 1
                    if data["fill"]:
                        told.append((data["fill"]["trade_id"], data["fill"]["role"]))

    final = {order.sequence: order for order in market.completed()} | market.open()
    assert final.keys() <= dict(placed).keys()
    assert min(events[event] for event in ("open", "fill", "canceled", "expired", "replaced")) > 0
    assert last == {sequence: msgspec.to_builtins(order_view(order)) for sequence, order in final.items()}
    expected = [(trade.trade_id, role) for trade in market.trades() for role in ("maker", "taker")]
    assert sorted(told) == sorted(expected)


def _command(choose: random.Random, placed: list[tuple[int, int]], sides: dict[int, Side]) -> PlaceOrder | CancelOrder:
    if placed and choose.random() < 0.5:
        sequence, trader_id = choose.choice(placed[-60:])
        if choose.random() < 0.5:
            return CancelOrder(trader_id=trader_id, card=CARD, sequence=sequence)
        return ReplaceOrder(
            trader_id=trader_id,
            card=CARD,
            side=sides[sequence],
            price_cents=choose.randint(540, 560),
            quantity=choose.randint(1, 6),
            post_only=choose.random() < 0.3,
            replaces=sequence,
            keeps_quantity=choose.random() < 0.2,
        )
    return PlaceOrder(
        trader_id=choose.randint(1, 6),
        card=CARD,
        side=choose.choice((Side.BUY, Side.SELL)),
        price_cents=choose.randint(540, 560),
        quantity=choose.choice((1, 1, 5)),
        time_in_force=choose.choice(
            (TimeInForce.GTC, TimeInForce.GTC, TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK)
        ),
        client_order_id=choose.choice((None, f"c-{choose.random()}")),
    )


def test_an_order_has_the_form_that_rest_gives_it(make_order: Callable[..., Order]) -> None:
    replaced = {"replaces": 3, "carried_quantity": 1, "reason": "replaced", "replaced_by": 9}
    for changes in (
        {},
        {"client_order_id": "mine"},
        {"closed_at": "2026-11-22T23:53:06.123Z"},
        {"post_only": True},
        replaced,
    ):
        order = make_order(**changes)
        assert msgspec.json.decode(order_json(order)) == msgspec.to_builtins(order_view(order))


@pytest.fixture
def make_order() -> Callable[..., Order]:
    def make(**changes: Any) -> Order:
        order: Json = {
            "card": CARD,
            "sequence": 7,
            "trader_id": 1,
            "side": "buy",
            "price_cents": 505,
            "quantity": 3,
            "filled_quantity": 1,
            "status": "partially_filled",
            "time_in_force": "gtc",
            "client_order_id": None,
            "accepted_at": "2026-11-22T23:53:06.123Z",
            "closed_at": None,
        }
        return msgspec.convert({**order, **changes}, Order)

    return make
