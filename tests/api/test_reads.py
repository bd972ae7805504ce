"""What traders read of their orders and fills, on real servers and services: all of it, in order, in little time."""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from engine import keys
from testing.clients.trader import WAIT, Trader, age, as_listed, assert_problem
from testing.exchange import ExchangeServer, exchange_server
from testing.faults import all_of, paused, without, without_server
from testing.flows import CARDS
from testing.waiting import until

pytestmark = pytest.mark.server

MANY = 4_000
BATCH = 1_000
CANCEL_SECONDS_MAX = 3.0
"""Twice what it takes on a machine with other work; it was 7 to 14 s when each order was read by itself."""

OTHERS_P99_SECONDS_MAX = 0.1
FILL_FIELDS = {
    *("trade_id", "card", "price", "quantity", "taker_side", "executed_at"),
    *("order_id", "side", "liquidity"),
}

Json = dict[str, Any]


@pytest.fixture(scope="module")
def forgetful() -> Iterator[ExchangeServer]:
    """An exchange that drops what is archived from its log and events as soon as it may, and whose parts a test may
    stop."""
    with exchange_server(log_retention=0, event_retention=1) as server:
        yield server


def rest_many(trader: Trader, card: str, count: int, price: str = "1.00", side: str = "buy") -> list[str]:
    """That many resting orders; their ids, oldest first."""
    order = {"card": card, "side": side, "price": price}
    placed: list[str] = []
    while len(placed) < count:
        answer = trader.http.post("/orders/batch", json={"orders": [order] * min(BATCH, count - len(placed))})
        placed += [result["order_id"] for result in answer.json()["results"]]
    until(lambda: trader.order(placed[-1])["status"] == "open")
    return placed


def open_ids(trader: Trader, limit: int, filters: str = "") -> list[str]:
    return [order["order_id"] for order in trader.every(f"/orders?status=open&{filters}", "orders", limit)]


def fills(trader: Trader, limit: int = 50, filters: str = "") -> list[Json]:
    return trader.every(f"/fills?{filters}", "fills", limit)


# -- many orders


@contextmanager
def trading(trader: Trader, card: str) -> Iterator[list[float]]:
    """Places orders on a card, one after the other, all the while: how long each took."""
    took: list[float] = []
    ending = threading.Event()

    def place() -> None:
        while not ending.is_set():
            started = time.monotonic()
            assert trader.post(card, "buy", "1.00", time_in_force="ioc").status_code == 202
            took.append(time.monotonic() - started)

    thread = threading.Thread(target=place)
    thread.start()
    try:
        until(lambda: len(took) > 10)
        took.clear()
        yield took
    finally:
        ending.set()
        thread.join()


def test_thousands_of_orders_are_canceled_and_shown_in_linear_time(trader: Trader, other: Trader) -> None:
    placed = rest_many(trader, "squirtle", MANY)

    with trading(other, "pikachu") as took:
        started = time.monotonic()
        answer = trader.http.delete("/orders?card=squirtle", headers=WAIT)
        seconds = time.monotonic() - started
        until(lambda: len(took) > 100)

    assert answer.status_code == 200
    assert [order["order_id"] for order in answer.json()["orders"]] == placed[::-1]
    assert {order["status"] for order in answer.json()["orders"]} == {"canceled"}
    assert seconds < CANCEL_SECONDS_MAX
    assert sorted(took)[int(0.99 * len(took))] < OTHERS_P99_SECONDS_MAX


def test_reads_among_thousands_of_open_orders_take_little_time(trader: Trader) -> None:
    first, *_ = placed = rest_many(trader, "squirtle", MANY)

    def seconds(path: str, status: int = 200) -> float:
        started = time.monotonic()
        trader.get(path, status)
        return time.monotonic() - started

    for path, status in (
        ("/orders", 200),
        ("/orders?status=open", 200),
        (f"/orders?status=open&limit=500&before={placed[MANY // 2]}", 200),
        ("/orders?status=open&side=sell", 200),
        (f"/orders/{first}", 200),
        ("/orders/by-client-id/unknown", 404),
    ):
        assert min(seconds(path, status) for _ in range(3)) < 0.25, path


def test_canceling_all_and_waiting_shows_what_was_canceled_and_nothing_else(trader: Trader, other: Trader) -> None:
    filled = trader.place("pikachu", "buy", "2.00")
    other.place("pikachu", "sell", "2.00")
    alone = trader.place("pikachu", "buy", "1.00")
    trader.http.delete(f"/orders/{alone['order_id']}", headers=WAIT)
    others = other.place("pikachu", "buy", "1.00")
    partly = trader.place("squirtle", "buy", "2.00", quantity=3)
    other.place("squirtle", "sell", "2.00")
    resting = trader.place("pikachu", "buy", "1.00")

    answer = trader.http.delete("/orders", headers=WAIT)

    assert answer.status_code == 200
    orders = answer.json()["orders"]
    assert [order["order_id"] for order in orders] == [resting["order_id"], partly["order_id"]]
    assert [(order["status"], order["filled_quantity"]) for order in orders] == [("canceled", 0), ("canceled", 1)]
    assert [as_listed(trader.order(order["order_id"])) for order in orders] == orders
    assert trader.order(filled["order_id"])["status"] == "filled"
    assert other.order(others["order_id"])["status"] == "open"


def test_a_cancel_of_all_whose_wait_passes_first_lists_what_is_open(forgetful: ExchangeServer) -> None:
    trader = forgetful.trader()
    placed = [trader.place(card, "buy", "1.00")["order_id"] for card in CARDS]

    with without(forgetful, "engine"):
        started = time.monotonic()
        answer = trader.http.delete("/orders", headers={"prefer": "wait=0.3"})
        waited = time.monotonic() - started

        assert answer.status_code == 202
        assert [order["order_id"] for order in answer.json()["orders"]] == placed[::-1]
        assert 0.3 <= waited < 1

    until(lambda: {trader.order(order_id)["status"] for order_id in placed} == {"canceled"})


def test_what_is_read_after_the_match_counts_to_the_wait(forgetful: ExchangeServer) -> None:
    trader = forgetful.trader()
    trader.place("pikachu", "sell", "2.00")
    first = trader.place("pikachu", "buy", "2.00", client_order_id="again")
    forgetful.archived()
    with paused(all_of(forgetful.servers.postgres)):
        started = time.monotonic()
        again = trader.post("pikachu", "buy", "2.00", headers={"prefer": "wait=0.5"}, client_order_id="again")
        waited = time.monotonic() - started

    assert again.status_code == 202
    assert again.json() == as_listed(first)
    assert 0.5 <= waited < 1.5


# -- open orders


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_the_pages_of_open_orders_have_all_of_them_newest_first(trader: Trader, other: Trader, limit: int) -> None:
    placed = [
        trader.place(card, side, "1.00" if side == "buy" else "10.00", quantity=2)
        for _ in range(4 if limit == 1 else 9)
        for card in CARDS
        for side in ("buy", "sell")
    ]
    gone, partly = placed[3], placed[6]
    trader.http.delete(f"/orders/{gone['order_id']}", headers=WAIT)
    other.place(partly["card"], "sell", "1.00")

    expected = [order["order_id"] for order in reversed(placed) if order is not gone]
    assert open_ids(trader, limit) == expected
    for card in CARDS:
        assert open_ids(trader, limit, f"card={card}&") == [one for one in expected if one.startswith(card)]
    sells = [order["order_id"] for order in reversed(placed) if order["side"] == "sell" and order is not gone]
    assert open_ids(trader, limit, "side=sell&") == sells
    statuses = {order["order_id"]: order["status"] for order in trader.get("/orders?status=open&limit=500")["orders"]}
    assert statuses.pop(partly["order_id"]) == "partially_filled"
    assert set(statuses.values()) == {"open"}
    assert open_ids(other, limit) == []


def test_open_orders_are_listed_however_old(forgetful: ExchangeServer) -> None:
    trader = forgetful.trader()
    old = [order_id for card in CARDS for order_id in rest_many(trader, card, 30)]
    for card in CARDS:
        trader.expired_at_once(card, 2_000)
    forgetful.archived()
    until(lambda: forgetful.redis.xlen(keys.key("pikachu", "orders")) < 5, why="the log is not trimmed")
    new = [trader.place(card, "buy", "1.00")["order_id"] for card in CARDS]

    assert open_ids(trader, 50) == [*reversed(new), *sorted(old, key=lambda one: age(trader.order(one)), reverse=True)]
    trader.cancel_all()


def test_the_list_goes_on_through_completed_orders(exchange: ExchangeServer, trader: Trader, other: Trader) -> None:
    placed = []
    for number, card in zip(range(140), itertools.cycle(CARDS), strict=False):
        if number == 100:
            exchange.archived()
        time_in_force = "gtc" if number % 3 == 0 else "ioc"
        placed.append(trader.place(card, "buy", "1.00", time_in_force=time_in_force))
    other.place(placed[0]["card"], "sell", "1.00")

    listed = trader.every("/orders?", "orders", 40)
    of_card = trader.every("/orders?card=squirtle&", "orders", 50)
    sells = trader.every("/orders?side=sell&", "orders", 50)

    assert [order["order_id"] for order in listed] == [order["order_id"] for order in reversed(placed)]
    assert listed[-1]["status"] == "filled"
    assert [order["status"] for order in listed[:3]] == ["expired", "open", "expired"]
    assert of_card == [order for order in listed if order["card"] == "squirtle"]
    assert sells == []


def test_a_list_goes_on_before_an_order_of_ones_own_alone(trader: Trader, other: Trader) -> None:
    order_id = other.place("pikachu", "buy", "1.00")["order_id"]

    for path in ("/orders?", "/orders?status=open&"):
        answer = trader.http.get(f"{path}before={order_id}")

        problem = assert_problem(answer, 422, "invalid_before")
        assert problem["detail"] == f"before must be an order_id of yours, like pikachu-1001, got '{order_id}'"
        assert other.get(f"{path}before={order_id}") == {"orders": [], "next": None}


# -- fills


def test_an_order_shows_its_fills_and_their_average_price(trader: Trader, other: Trader) -> None:
    makers = [
        other.place("charmander", "sell", price, quantity=quantity)
        for price, quantity in (("1.57", 1), ("1.58", 1), ("1.59", 4))
    ]

    taker = trader.place("charmander", "buy", "2.00", quantity=9)
    other.place("charmander", "sell", "2.00", quantity=3)

    assert [(fill["price"], fill["quantity"]) for fill in taker["trades"]] == [("1.57", 1), ("1.58", 1), ("1.59", 4)]
    assert taker["average_price"] == "1.585"
    found = trader.order(taker["order_id"])
    assert found["filled_quantity"] == 9
    assert found["average_price"] == "1.7233"
    assert found["trades"][:3] == taker["trades"]
    assert [fill["liquidity"] for fill in found["trades"]] == ["taker", "taker", "taker", "maker"]
    assert {(fill["order_id"], fill["side"]) for fill in found["trades"]} == {(taker["order_id"], "buy")}
    assert [fill["taker_side"] for fill in found["trades"]] == ["buy", "buy", "buy", "sell"]
    maker = other.order(makers[2]["order_id"])
    assert [(fill["liquidity"], fill["side"], fill["quantity"]) for fill in maker["trades"]] == [("maker", "sell", 4)]
    assert maker["average_price"] == "1.59"
    assert {frozenset(fill) for fill in found["trades"] + maker["trades"]} == {frozenset(FILL_FIELDS)}


def test_an_order_without_fills_has_no_average_price(trader: Trader) -> None:
    placed = trader.place("charmander", "buy", "1.00", client_order_id="nothing")

    assert (placed["average_price"], placed["trades"]) == (None, [])
    assert trader.get("/orders/by-client-id/nothing") == trader.order(placed["order_id"]) == placed


def test_fills_are_listed_at_once_and_once_before_and_after_they_are_archived(forgetful: ExchangeServer) -> None:
    trader, other = forgetful.trader(), forgetful.trader()

    def trade(number: int) -> None:
        card = CARDS[number % 4]
        first, second = (trader, other) if number % 3 else (other, trader)
        first.place(card, "sell", "3.00", quantity=2)
        second.place(card, "buy", "3.00")
        second.place(card, "buy", "3.00")

    for number in range(8):
        trade(number)
    forgetful.archived()
    with without(forgetful, "archiver"):
        for number in range(8, 14):
            trade(number)
        before = {limit: fills(trader, limit) for limit in (1, 5, 500)}
        order_id = before[500][0]["order_id"]
        of_order = fills(trader, 1, f"order_id={order_id}&")
        whole = trader.order(order_id)
    forgetful.archived()

    assert len(before[500]) == 28
    assert before[1] == before[5] == before[500] == fills(trader, 3) == fills(trader, 500)
    assert [fill["executed_at"] for fill in before[500]] == sorted(
        (fill["executed_at"] for fill in before[500]), reverse=True
    )
    assert {fill["side"] for fill in before[500]} == {"buy", "sell"}
    assert of_order == whole["trades"][::-1] == fills(trader, 500, f"order_id={order_id}&")
    assert fills(trader, 2, "card=bulbasaur&") == [fill for fill in before[500] if fill["card"] == "bulbasaur"]
    assert trader.order(order_id) == whole
    assert {fill["trade_id"] for fill in fills(other)} == {fill["trade_id"] for fill in before[500]}
    assert {frozenset(fill) for fill in before[500]} == {frozenset(FILL_FIELDS)}


def test_a_trade_with_oneself_is_two_fills_whatever_the_page(exchange: ExchangeServer, trader: Trader) -> None:
    for _ in range(3):
        trader.place("bulbasaur", "sell", "4.00")
        trader.place("bulbasaur", "buy", "4.00")

    for limit in (1, 2, 3, 5, 6, 7):
        found = fills(trader, limit)
        assert [fill["liquidity"] for fill in found] == ["taker", "maker"] * 3
        assert [fill["side"] for fill in found] == ["buy", "sell"] * 3
        assert len({fill["order_id"] for fill in found}) == 6
        assert len({fill["trade_id"] for fill in found}) == 3
    exchange.archived()
    assert fills(trader, 1) == found


def test_a_young_orders_fills_need_no_archive(forgetful: ExchangeServer) -> None:
    trader = forgetful.trader()
    with without(forgetful, "archiver"):
        trader.place("pikachu", "sell", "2.00")
        order = trader.place("pikachu", "buy", "2.00")
        with without_server(forgetful.servers.postgres):
            found = trader.order(order["order_id"])
            listed = trader.http.get("/fills")

    assert found == order
    assert_problem(listed, 503, "unavailable")


def test_fills_of_anothers_order_are_nobodys_business(trader: Trader, other: Trader) -> None:
    order = other.place("pikachu", "buy", "2.00")
    trader.place("pikachu", "sell", "2.00")

    answer = trader.http.get(f"/fills?order_id={order['order_id']}")
    elsewhere = other.http.get(f"/fills?card=squirtle&order_id={order['order_id']}")

    assert_problem(answer, 422, "invalid_order_id")
    problem = assert_problem(elsewhere, 422, "invalid_order_id")
    assert problem["detail"] == f"order_id must be an order_id of squirtle, got '{order['order_id']}'"
    assert str(other.trader_id) not in json.dumps(fills(trader))
