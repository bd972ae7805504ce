"""The API as a client sees it, on real servers and services."""

import asyncio
import http.client
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from core.model import LATEST, PlaceOrder
from engine import codec, keys
from testing.clients.trader import ORDER_FIELDS, WAIT, Trader, age, as_listed, assert_problem, sequence_of
from testing.contract import operations
from testing.exchange import ExchangeServer, exchange_server
from testing.faults import paused, restart, without, without_postgres, without_redis
from testing.flows import CARDS
from testing.waiting import until

pytestmark = pytest.mark.server

BACKLOG_MAX = 1_000
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

Json = dict[str, Any]


@pytest.fixture(scope="module")
def fragile() -> Iterator[ExchangeServer]:
    """An exchange whose parts a test may stop; it starts them again."""
    with exchange_server(backlog_max=BACKLOG_MAX, stop_seconds=4) as server:
        yield server


@pytest.fixture
def settler(fragile: ExchangeServer) -> Iterator[Trader]:
    """A trader of the fragile exchange, which is whole again before and after the test."""
    fragile.ready()
    trader = fragile.trader()
    yield trader
    fragile.ready()
    trader.cancel_all()
    trader.close()


# -- placing


def test_a_placed_order_can_be_read_from_the_moment_of_its_202(trader: Trader) -> None:
    for card in CARDS:
        answer = trader.post(card, "buy", "1.00", quantity=3, client_order_id=f"first-{card}")
        found = trader.order(answer.json()["order_id"])

        assert answer.status_code == 202
        placed = answer.json()
        assert set(placed) == ORDER_FIELDS
        assert placed["status"] == "accepted"
        assert found["status"] in ("accepted", "open")
        assert {**found, "status": "accepted"} == {**placed, "average_price": None, "trades": []}
        assert TIME.fullmatch(placed["accepted_at"])


def test_a_price_may_be_a_string_or_a_number_and_quantity_is_one_by_default(trader: Trader) -> None:
    prices = [trader.place("pikachu", "buy", price)["price"] for price in ("1.5", "1.50", 1.5, "2", 2)]
    order = trader.place("pikachu", "buy", "1.00")

    assert prices == ["1.50", "1.50", "1.50", "2.00", "2.00"]
    assert order["quantity"] == 1
    assert order["time_in_force"] == "gtc"
    assert order["client_order_id"] is None


def test_an_order_that_waits_is_answered_with_its_trades(trader: Trader, other: Trader) -> None:
    resting = other.place("bulbasaur", "sell", "5.00", quantity=2)

    order = trader.place("bulbasaur", "buy", "5.50", quantity=3)

    assert resting["status"] == "open"
    assert resting["trades"] == []
    assert order["status"] == "partially_filled"
    assert order["filled_quantity"] == 2
    assert order["closed_at"] is None
    (trade,) = order["trades"]
    assert (trade["card"], trade["price"], trade["quantity"], trade["taker_side"]) == ("bulbasaur", "5.00", 2, "buy")
    assert other.order(resting["order_id"])["status"] == "filled"
    assert TIME.fullmatch(other.order(resting["order_id"])["closed_at"])


def test_time_in_force_decides_what_becomes_of_the_rest(trader: Trader, other: Trader) -> None:
    other.place("bulbasaur", "sell", "5.00", quantity=2)

    whole_or_nothing = trader.place("bulbasaur", "buy", "5.00", quantity=3, time_in_force="fok")
    at_once = trader.place("bulbasaur", "buy", "5.00", quantity=3, time_in_force="ioc")

    assert (whole_or_nothing["status"], whole_or_nothing["filled_quantity"]) == ("expired", 0)
    assert (at_once["status"], at_once["filled_quantity"]) == ("expired", 2)


def test_an_order_whose_wait_passes_first_is_accepted(fragile: ExchangeServer, settler: Trader) -> None:
    with without(fragile, "engine"):
        started = time.monotonic()
        answer = settler.post("pikachu", "buy", "1.00", headers={"prefer": "wait=0.3"})
        waited = time.monotonic() - started

        assert answer.status_code == 202
        assert answer.json()["status"] == "accepted"
        assert "trades" not in answer.json()
        assert 0.3 <= waited < 3
        assert settler.order(answer.json()["order_id"])["status"] == "accepted"

    until(lambda: settler.order(answer.json()["order_id"])["status"] == "open")


# -- client_order_id


def test_a_repeated_client_order_id_gives_the_first_order(exchange: ExchangeServer, trader: Trader) -> None:
    first = trader.post("charmander", "buy", "1.00", client_order_id="mine").json()
    before = exchange.sequences()

    again = trader.post("charmander", "buy", "1.00", client_order_id="mine")
    waiting = trader.place("charmander", "buy", "1.00", client_order_id="mine")

    assert again.status_code == 202
    assert again.json()["order_id"] == waiting["order_id"] == first["order_id"]
    assert waiting["status"] == "open"
    assert exchange.sequences() == before


def test_a_repeat_after_completion_shows_the_order_and_its_trades(trader: Trader, other: Trader) -> None:
    other.place("charmander", "sell", "4.00")
    first = trader.place("charmander", "buy", "4.00", client_order_id="done")

    again = trader.place("charmander", "buy", "4.00", client_order_id="done")

    assert first["status"] == "filled"
    assert again == first


@pytest.mark.parametrize(
    "changed",
    [{"price": "1.01"}, {"side": "sell", "price": "10.00"}, {"quantity": 2}, {"time_in_force": "ioc"}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_repeated_client_order_id_with_other_contents_is_a_conflict(
    exchange: ExchangeServer, trader: Trader, changed: Json
) -> None:
    order: Json = {"card": "charmander", "side": "buy", "price": "1.00", "client_order_id": "mine"}
    first = trader.http.post("/orders", json=order).json()
    before = exchange.sequences()

    answer = trader.http.post("/orders", json={**order, **changed})

    problem = assert_problem(answer, 409, "client_order_id_conflict")
    assert "'mine'" in problem["detail"]
    assert first["order_id"] in problem["detail"]
    assert exchange.sequences() == before


def test_a_client_order_id_belongs_to_one_trader_on_one_card(trader: Trader, other: Trader) -> None:
    ids = [
        who.place(card, "buy", price, client_order_id="same")["order_id"]
        for card, price in (("charmander", "1.00"), ("squirtle", "1.10"))
        for who in (trader, other)
    ]

    assert len(set(ids)) == 4
    assert trader.get("/orders/by-client-id/same")["order_id"] == ids[2]
    assert other.get("/orders/by-client-id/same")["order_id"] == ids[3]


def test_an_order_is_found_by_its_client_order_id_at_once(trader: Trader) -> None:
    placed = trader.post("squirtle", "sell", "10.00", client_order_id="a.b_c:d-9").json()

    found = trader.get("/orders/by-client-id/a.b_c:d-9")

    assert found["order_id"] == placed["order_id"]
    assert found["client_order_id"] == "a.b_c:d-9"


def test_an_open_order_whose_id_is_no_longer_remembered_is_found(exchange: ExchangeServer, trader: Trader) -> None:
    placed = trader.place("squirtle", "sell", "10.00", client_order_id="rests-long")
    trader.place("squirtle", "sell", "10.00", client_order_id="another")
    remembered = [
        exchange.redis.hdel(key, f"{trader.trader_id}:rests-long")
        for key in exchange.redis.keys(keys.key("squirtle", "client_ids:*"))
    ]
    assert sum(int(removed) for removed in remembered) == 1

    assert trader.get("/orders/by-client-id/rests-long")["order_id"] == placed["order_id"]


# -- the latest orders


def test_the_latest_fifty_orders_of_four_cards_are_listed_newest_first(trader: Trader, other: Trader) -> None:
    placed = [trader.place(card, "buy", "1.00") for _ in range(15) for card in CARDS]
    sold = other.place("squirtle", "sell", "1.00")
    trader.http.delete(f"/orders/{placed[-2]['order_id']}", headers=WAIT)

    latest = trader.latest()

    expected = sorted(placed, key=age, reverse=True)[:LATEST]
    assert [order["order_id"] for order in latest] == [order["order_id"] for order in expected]
    assert [order["order_id"] for order in trader.latest(7)] == [order["order_id"] for order in expected[:7]]
    statuses = {order["order_id"]: order["status"] for order in latest}
    assert sold["trades"][0]["price"] == "1.00"
    assert statuses.pop(placed[-2]["order_id"]) == "canceled"
    assert set(statuses.values()) == {"open"}
    assert trader.order(placed[3]["order_id"])["status"] == "filled"


def test_the_list_shows_an_order_as_it_is_now(trader: Trader, other: Trader) -> None:
    placed = trader.place("pikachu", "buy", "3.00", quantity=3)

    statuses = []
    for _ in range(3):
        other.place("pikachu", "sell", "3.00")
        (order,) = trader.latest()
        statuses.append((order["order_id"], order["status"], order["filled_quantity"]))

    assert statuses == [
        (placed["order_id"], "partially_filled", 1),
        (placed["order_id"], "partially_filled", 2),
        (placed["order_id"], "filled", 3),
    ]


def test_a_trader_without_orders_has_an_empty_list(trader: Trader) -> None:
    assert trader.get("/orders") == {"orders": [], "next": None}
    assert trader.get("/history/orders") == {"orders": [], "next": None, "previous": None}


# -- canceling


def test_canceling_an_open_order_and_waiting_shows_it_canceled(trader: Trader) -> None:
    order = trader.place("pikachu", "buy", "1.00")

    answer = trader.http.delete(f"/orders/{order['order_id']}", headers=WAIT)

    assert answer.status_code == 200
    assert answer.json()["status"] == "canceled"
    assert TIME.fullmatch(answer.json()["closed_at"])
    assert as_listed(trader.order(order["order_id"])) == answer.json()


def test_canceling_without_waiting_is_accepted_and_happens(trader: Trader) -> None:
    order = trader.place("pikachu", "buy", "1.00")

    answer = trader.http.delete(f"/orders/{order['order_id']}")

    assert answer.status_code == 202
    assert answer.json()["order_id"] == order["order_id"]
    until(lambda: trader.order(order["order_id"])["status"] == "canceled")


def test_canceling_a_completed_order_is_a_conflict(exchange: ExchangeServer, trader: Trader) -> None:
    (order,) = trader.expired("pikachu", 1)
    before = exchange.sequences()

    answer = trader.http.delete(f"/orders/{order['order_id']}")

    problem = assert_problem(answer, 409, "order_completed")
    assert problem["detail"] == f"order {order['order_id']} is expired already"
    assert exchange.sequences() == before


def test_canceling_all_orders_of_one_card_leaves_the_others(trader: Trader, other: Trader) -> None:
    kept = trader.place("squirtle", "buy", "1.00")
    gone = [trader.place("pikachu", "buy", price) for price in ("1.00", "1.01", "1.02")]
    others = other.place("pikachu", "buy", "1.00")

    answer = trader.http.delete("/orders?card=pikachu", headers=WAIT)

    assert answer.status_code == 200
    assert {order["order_id"] for order in answer.json()["orders"]} == {order["order_id"] for order in gone}
    assert {order["status"] for order in answer.json()["orders"]} == {"canceled"}
    assert trader.order(kept["order_id"])["status"] == "open"
    assert other.order(others["order_id"])["status"] == "open"


def test_canceling_all_orders_without_waiting_is_accepted_and_happens(trader: Trader) -> None:
    orders = [trader.place(card, "buy", "1.00") for card in CARDS]

    answer = trader.http.delete("/orders")

    assert answer.status_code == 202
    assert {order["order_id"] for order in answer.json()["orders"]} == {order["order_id"] for order in orders}
    until(lambda: {order["status"] for order in trader.latest()} == {"canceled"})


def test_canceling_all_orders_and_waiting_shows_every_card_canceled(trader: Trader) -> None:
    orders = [trader.place(card, "buy", "1.00") for card in CARDS]

    answer = trader.http.delete("/orders", headers=WAIT)

    assert answer.status_code == 200
    assert {order["order_id"] for order in answer.json()["orders"]} == {order["order_id"] for order in orders}
    assert {order["status"] for order in trader.latest()} == {"canceled"}


def test_orders_that_are_not_matched_yet_are_canceled_too(fragile: ExchangeServer, settler: Trader) -> None:
    with without(fragile, "engine"):
        one = settler.post("pikachu", "buy", "1.00").json()["order_id"]
        canceled = settler.http.delete(f"/orders/{one}")
        two = settler.post("squirtle", "buy", "1.00").json()["order_id"]
        all_canceled = settler.http.delete("/orders", headers={"prefer": "wait=0.1"})

    assert canceled.status_code == 202
    assert canceled.json()["status"] == "accepted"
    assert all_canceled.status_code == 202
    assert all_canceled.json() == {"orders": []}
    until(lambda: {settler.order(one)["status"], settler.order(two)["status"]} == {"canceled"})


# -- market data


def test_the_book_shows_levels_best_first_up_to_a_depth(
    exchange: ExchangeServer, trader: Trader, other: Trader
) -> None:
    for price, quantity in (("2.00", 1), ("1.90", 4), ("2.00", 2)):
        trader.place("charmander", "buy", price, quantity=quantity)
    for price, quantity in (("9.00", 5), ("8.50", 6)):
        other.place("charmander", "sell", price, quantity=quantity)

    book = exchange.http.get("/cards/charmander/book").json()
    shallow = exchange.http.get("/cards/charmander/book?depth=1").json()

    assert book == {
        "card": "charmander",
        "sequence": exchange.sequences()["charmander"],
        "bids": [["2.00", 3], ["1.90", 4]],
        "asks": [["8.50", 6], ["9.00", 5]],
    }
    assert shallow == {**book, "bids": book["bids"][:1], "asks": book["asks"][:1]}


def test_the_cards_show_best_prices_and_the_last_trade(exchange: ExchangeServer, trader: Trader, other: Trader) -> None:
    trader.place("bulbasaur", "buy", "4.00")
    other.place("bulbasaur", "sell", "3.50")
    trader.place("bulbasaur", "buy", "3.00")
    other.place("bulbasaur", "sell", "7.00")

    cards = exchange.http.get("/cards").json()["cards"]

    assert [card["card"] for card in cards] == list(CARDS)
    assert cards[1] == {
        "card": "bulbasaur",
        "best_bid": "3.00",
        "best_ask": "7.00",
        "last_price": "4.00",
        **{"price_min": "1.00", "price_max": "10.00", "tick": "0.01", "quantity_max": 10_000},
    }


def test_a_card_without_orders_has_no_prices(fragile: ExchangeServer) -> None:
    (card,) = [card for card in fragile.http.get("/cards").json()["cards"] if card["card"] == "bulbasaur"]

    assert (card["best_bid"], card["best_ask"], card["last_price"]) == (None, None, None)
    assert fragile.http.get("/cards/bulbasaur/trades").json() == {"trades": []}
    empty = {"card": "bulbasaur", "sequence": 0, "bids": [], "asks": []}
    book = fragile.http.get("/cards/bulbasaur/book").json()
    assert {**book, "sequence": 0} == empty


def test_the_trades_of_a_card_are_newest_first_and_name_nobody(
    exchange: ExchangeServer, trader: Trader, other: Trader
) -> None:
    prices = ["5.01", "5.02", "5.03"]
    for price in prices:
        other.place("squirtle", "sell", price)
        trader.place("squirtle", "buy", price)

    trades = exchange.http.get("/cards/squirtle/trades?limit=3").json()["trades"]

    assert [trade["price"] for trade in trades] == prices[::-1]
    numbers = [int(trade["trade_id"].removeprefix("squirtle-t")) for trade in trades]
    assert numbers == [numbers[0], numbers[0] - 1, numbers[0] - 2]
    for trade in trades:
        assert set(trade) == {"trade_id", "card", "price", "quantity", "taker_side", "executed_at"}


# -- history


def pages(get: Callable[[str], Json], path: str, items: str, name: str, limit: int) -> list[list[Json]]:
    """Every page of a history, by `before=` the last one of the page before."""
    found: list[list[Json]] = []
    before = ""
    while True:
        page = get(f"{path}limit={limit}{before}")[items]
        if not page:
            return found
        found.append(page)
        before = f"&before={page[-1][name]}"
        assert len(found) < 100


def test_the_history_pages_through_all_completed_orders_once(exchange: ExchangeServer, trader: Trader) -> None:
    placed = [trader.expired(card, 1)[0] for _ in range(6) for card in CARDS]
    exchange.archived()

    found = pages(trader.get, "/history/orders?", "orders", "order_id", limit=5)

    assert [len(page) for page in found] == [5, 5, 5, 5, 4]
    orders = [order for page in found for order in page]
    expected = [as_listed(order) for order in sorted(placed, key=age, reverse=True)]
    assert orders == expected
    squirtles = pages(trader.get, "/history/orders?card=squirtle&", "orders", "order_id", limit=4)
    assert [order for page in squirtles for order in page] == [o for o in expected if o["card"] == "squirtle"]


def test_the_history_of_trades_pages_through_all_trades_once(
    exchange: ExchangeServer, trader: Trader, other: Trader
) -> None:
    made = []
    for number in range(9):
        other.place("charmander", "sell", f"6.0{number}", quantity=2)
        made += trader.place("charmander", "buy", f"6.0{number}", quantity=2)["trades"]
    exchange.archived()

    found = pages(trader.get, "/history/trades?card=charmander&", "trades", "trade_id", limit=4)

    trades = [trade for page in found for trade in page]
    assert trades[:9] == [{key: fill[key] for key in trades[0]} for fill in made[::-1]]
    numbers = [int(trade["trade_id"].removeprefix("charmander-t")) for trade in trades]
    assert numbers == list(range(len(trades), 0, -1))


def test_the_history_has_completed_orders_only(exchange: ExchangeServer, trader: Trader, other: Trader) -> None:
    filled = trader.place("pikachu", "buy", "3.00")
    other.place("pikachu", "sell", "3.00")
    canceled = trader.place("pikachu", "buy", "1.00")
    trader.http.delete(f"/orders/{canceled['order_id']}", headers=WAIT)
    (expired,) = trader.expired("pikachu", 1)
    trader.place("pikachu", "buy", "1.00")
    partly = trader.place("pikachu", "buy", "2.00", quantity=2)
    other.place("pikachu", "sell", "2.00")
    exchange.archived()

    orders = trader.get("/history/orders")["orders"]

    statuses = {order["order_id"]: order["status"] for order in orders}
    assert statuses == {
        filled["order_id"]: "filled",
        canceled["order_id"]: "canceled",
        expired["order_id"]: "expired",
    }
    assert trader.order(partly["order_id"])["status"] == "partially_filled"
    assert orders == [as_listed(trader.order(order["order_id"])) for order in orders]


# -- who asks


def test_an_api_key_is_exchanged_for_a_token_that_works(exchange: ExchangeServer) -> None:
    answer = exchange.http.post("/auth/token", json={"trader_id": 3, "api_key": exchange.api_key(3)})

    assert answer.status_code == 200
    token = answer.json()
    assert set(token) == {"access_token", "token_type", "expires_in"}
    assert token["token_type"] == "bearer"
    assert token["expires_in"] == 3_600
    bearer = {"authorization": f"Bearer {token['access_token']}"}
    assert exchange.http.get("/orders", headers=bearer).json() == {"orders": [], "next": None}


def test_another_traders_key_gives_no_token(exchange: ExchangeServer) -> None:
    answer = exchange.http.post("/auth/token", json={"trader_id": 3, "api_key": exchange.api_key(4)})

    assert_problem(answer, 401, "invalid_credentials")


def test_the_key_of_an_admin_gives_a_token_of_an_admin(exchange: ExchangeServer, trader: Trader) -> None:
    exchange.execute("UPDATE traders SET role = 'admin' WHERE trader_id = 5")
    order = trader.place("pikachu", "buy", "1.00")

    answer = exchange.http.post("/auth/token", json={"trader_id": 5, "api_key": exchange.api_key(5)})

    bearer = {"authorization": f"Bearer {answer.json()['access_token']}"}
    found = exchange.http.get(f"/orders/{order['order_id']}", headers=bearer)
    assert found.status_code == 200
    assert found.json()["order_id"] == order["order_id"]


def test_an_admin_sees_and_cancels_the_orders_of_others(exchange: ExchangeServer, trader: Trader) -> None:
    order = trader.place("pikachu", "buy", "1.00")

    with exchange.client(5, "admin") as admin:
        found = admin.get(f"/orders/{order['order_id']}")
        canceled = admin.delete(f"/orders/{order['order_id']}", headers=WAIT)

    assert found.json()["status"] == "open"
    assert canceled.json()["status"] == "canceled"
    assert trader.order(order["order_id"])["status"] == "canceled"


def test_a_trader_neither_sees_nor_cancels_the_orders_of_others(trader: Trader, other: Trader) -> None:
    order = trader.place("pikachu", "buy", "1.00", client_order_id="secret")

    for answer in (
        other.http.get(f"/orders/{order['order_id']}"),
        other.http.get("/orders/by-client-id/secret"),
        other.http.delete(f"/orders/{order['order_id']}"),
    ):
        assert_problem(answer, 404, "order_not_found")
    assert other.latest() == []
    assert trader.order(order["order_id"])["status"] == "open"


# -- old orders


MANY = 3_000
"""Orders of a trader whose lines in the events are more than what is looked through for one order."""


def is_in_redis(exchange: ExchangeServer, order: Json) -> bool:
    return exchange.redis.fcall_ro("order", 1, keys.tag(order["card"]), str(sequence_of(order))) is not None


def test_an_order_that_only_the_archive_has_is_found(exchange: ExchangeServer, trader: Trader) -> None:
    first = trader.place("bulbasaur", "buy", "1.00", time_in_force="ioc", client_order_id="old")
    assert is_in_redis(exchange, first)
    trader.expired_at_once("bulbasaur", 60)
    exchange.archived()
    exchange.redis.fcall("trim", 1, keys.tag("bulbasaur"), str(exchange.sequences()["bulbasaur"]), "1", "1")

    assert not is_in_redis(exchange, first)
    found = trader.order(first["order_id"])
    assert found == first
    assert trader.get("/orders/by-client-id/old") == found
    again = trader.place("bulbasaur", "buy", "1.00", time_in_force="ioc", client_order_id="old")
    assert again == first
    assert first["order_id"] not in {order["order_id"] for order in trader.latest()}


def test_a_completed_order_that_is_neither_archived_nor_where_redis_looks_is_found(
    fragile: ExchangeServer, settler: Trader
) -> None:
    with without(fragile, "archiver"):
        placed = settler.place("charmander", "sell", "9.00", client_order_id="between")
        settler.expired_at_once("charmander", MANY)
        first = settler.http.delete(f"/orders/{placed['order_id']}", headers=WAIT).json()
        first |= {"average_price": None, "trades": []}

        assert not is_in_redis(fragile, first)
        assert fragile.execute("SELECT 1 FROM orders WHERE trader_id = $1", settler.trader_id) == []
        found = settler.order(first["order_id"])
        assert found == first
        assert settler.get("/orders/by-client-id/between") == found

    fragile.archived()
    assert settler.order(first["order_id"]) == found


# -- health, and what is missing


def test_a_whole_exchange_is_live_and_ready(exchange: ExchangeServer) -> None:
    def is_quiet() -> bool:
        parts = exchange.http.get("/health/ready").json()["parts"]
        engine, archiver = parts["engine"], parts["archiver"]
        return (engine["waiting_commands"], archiver["lag_commands"], archiver["activity"]) == (0, 0, "reading")

    until(is_quiet, "the archiver does not come to rest")
    assert exchange.http.get("/health/live").json() == {"status": "live", "missing": []}
    assert exchange.missing() == []
    answer = exchange.http.get("/health/ready")
    ready = answer.json()
    assert (answer.status_code, ready["status"], ready["missing"], ready["reasons"]) == (200, "ready", [], [])
    assert {part["status"] for part in ready["parts"].values()} == {"ok"}
    redis = ready["parts"]["redis"]
    assert (redis["role"], redis["aof"], redis["memory_max_bytes"]) == ("primary", "always", 0)
    assert redis["memory_used_bytes"] > 1_000_000
    engine, archiver = ready["parts"]["engine"], ready["parts"]["archiver"]
    assert engine["heartbeat_seconds"] < 3
    assert archiver["heartbeat_seconds"] < 3


@pytest.mark.usefixtures("settler")
@pytest.mark.parametrize(
    ("stop", "names"),
    [
        (lambda exchange: without(exchange, "engine"), ["engine"]),
        (lambda exchange: without(exchange, "archiver"), ["archiver"]),
        (without_postgres, ["postgresql", "archiver"]),
        (without_redis, ["redis"]),
    ],
    ids=["engine", "archiver", "postgresql", "redis"],
)
def test_health_names_what_is_missing_and_orders_need_redis_alone(
    fragile: ExchangeServer, stop: Any, names: list[str]
) -> None:
    with stop(fragile):
        until(lambda: fragile.missing() == names, why=f"{names} are not missing")

        assert fragile.http.get("/health/live").status_code == 200
        ready = fragile.http.get("/health/ready")
        assert ready.status_code == (503 if "redis" in names else 200)
        assert ready.json()["missing"] == names
        order = {"card": "pikachu", "side": "buy", "price": "1.00", "time_in_force": "ioc"}
        placed = fragile.client(1).post("/orders", json=order)
        assert placed.status_code == (503 if "redis" in names else 202)

    fragile.ready()


def test_an_idle_exchange_is_ready_again_after_postgresql_was_away(fragile: ExchangeServer, settler: Trader) -> None:
    asyncio.run(restart(fragile.servers.postgres))
    try:
        fragile.ready(seconds=5)
    finally:
        settler.expired("pikachu", 1)


def test_orders_are_accepted_and_matched_without_postgresql(fragile: ExchangeServer, settler: Trader) -> None:
    with without_postgres(fragile):
        accepted = settler.post("pikachu", "buy", "1.00")
        matched = settler.place("pikachu", "sell", "1.00")
        token = fragile.http.post("/auth/token", json={"trader_id": 3, "api_key": "x"})
        history = settler.http.get("/history/orders")

        assert accepted.status_code == 202
        assert matched["status"] == "filled"
        assert [settler.order(order["order_id"])["status"] for order in (accepted.json(), matched)] == ["filled"] * 2
        rests = settler.place("pikachu", "buy", "1.00")
        assert_problem(settler.http.get("/orders"), 503, "unavailable")
        assert [order["order_id"] for order in settler.get("/orders?status=open")["orders"]] == [rests["order_id"]]
        assert_problem(token, 503, "unavailable")
        assert_problem(history, 503, "unavailable")

    fragile.ready()
    fragile.archived()
    assert len(settler.get("/history/orders")["orders"]) == 2


def test_orders_are_refused_with_a_problem_while_redis_is_down(fragile: ExchangeServer, settler: Trader) -> None:
    kept = settler.place("pikachu", "buy", "1.00")
    with without_redis(fragile):
        for answer in (
            settler.post("pikachu", "buy", "1.00"),
            settler.post("pikachu", "buy", "1.00", headers={"prefer": "wait=1"}),
            settler.http.get("/orders"),
            settler.http.get("/cards"),
            settler.http.delete("/orders"),
        ):
            assert_problem(answer, 503, "unavailable")
            assert int(answer.headers["retry-after"]) >= 1

    fragile.ready()
    assert settler.order(kept["order_id"])["status"] == "open"
    assert settler.place("pikachu", "buy", "1.00")["status"] == "open"


def test_a_backlog_that_is_full_is_told_to_come_back(fragile: ExchangeServer, settler: Trader) -> None:
    with without(fragile, "engine"):
        statuses = [status for _ in range(BACKLOG_MAX // 100) for status in orders_at_once(fragile, settler, 100)]
        answer = settler.post("squirtle", "buy", "1.00")
        elsewhere = settler.post("pikachu", "buy", "1.00")

        assert statuses == [202] * BACKLOG_MAX
        problem = assert_problem(answer, 503, "overloaded")
        assert "nothing was accepted" in problem["detail"]
        assert int(answer.headers["retry-after"]) >= 1
        assert elsewhere.status_code == 202

    until(lambda: settler.post("squirtle", "buy", "1.00", headers=WAIT).status_code == 200)


# -- batches


def at_once(exchange: ExchangeServer, requests: list[bytes]) -> list[int]:
    """The statuses of requests that arrive in the same instant: the API stands still until all are there."""
    host, _, port = exchange.url.removeprefix("http://").partition(":")
    with ExitStack() as stack:
        connections = []
        with paused([exchange.pid("api")]):
            for request in requests:
                connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
                connection.sendall(request)
                connections.append(connection)
        statuses = []
        for connection in connections:
            answer = http.client.HTTPResponse(connection)
            with answer:
                answer.begin()
                answer.read()
                statuses.append(answer.status)
        return statuses


def orders_at_once(exchange: ExchangeServer, trader: Trader, count: int, **fields: Any) -> list[int]:
    """The statuses of that many orders that arrive in the same instant."""
    body = json.dumps({"card": "squirtle", "side": "buy", "price": "1.00", **fields}).encode()
    return at_once(exchange, [trader.bytes_of("POST", "/orders", body, close=True)] * count)


def test_orders_that_arrive_together_share_log_entries(exchange: ExchangeServer, trader: Trader) -> None:
    before, entries_before = exchange.sequences()["squirtle"], exchange.entries("squirtle")

    statuses = orders_at_once(exchange, trader, 50)

    entries = exchange.entries("squirtle") - entries_before
    assert statuses == [202] * 50
    assert exchange.sequences()["squirtle"] == before + 50
    assert 1 <= entries <= 25, f"{entries} entries for 50 orders"


def test_a_lone_order_gets_an_entry_of_its_own(exchange: ExchangeServer, trader: Trader) -> None:
    for _ in range(3):
        before = exchange.entries("squirtle")

        trader.post("squirtle", "buy", "1.00")

        assert exchange.entries("squirtle") == before + 1


def test_orders_that_arrive_together_with_the_same_id_are_one_order(exchange: ExchangeServer, trader: Trader) -> None:
    before = exchange.sequences()["squirtle"]

    statuses = orders_at_once(exchange, trader, 20, client_order_id="together")

    assert statuses == [202] * 20
    assert exchange.sequences()["squirtle"] == before + 1


def test_hundreds_of_readers_at_once_are_all_answered(exchange: ExchangeServer, trader: Trader) -> None:
    trader.place("squirtle", "buy", "1.00")

    assert at_once(exchange, [trader.bytes_of("GET", "/orders", close=True)] * 300) == [200] * 300


def test_hundreds_of_orders_are_canceled_and_shown_at_once(exchange: ExchangeServer, trader: Trader) -> None:
    assert orders_at_once(exchange, trader, 300) == [202] * 300
    trader.place("squirtle", "buy", "1.00")

    answer = trader.http.delete("/orders", headers=WAIT)

    assert answer.status_code == 200
    assert [order["status"] for order in answer.json()["orders"]] == ["canceled"] * 301


# -- the documents


@pytest.fixture(scope="module")
def document(exchange: ExchangeServer) -> Json:
    answer = exchange.http.get("/schema/openapi.json")
    assert answer.status_code == 200
    found: Json = answer.json()
    return found


def test_the_document_is_openapi_3_1(document: Json) -> None:
    assert document["openapi"].startswith("3.1.")


def test_every_call_says_where_its_answer_comes_from(document: Json) -> None:
    for name, operation in operations(document):
        assert re.search(r"Source: .+\.", operation["description"]), name
        assert operation["summary"], name
        assert operation["operationId"], name


def test_every_documented_error_is_a_problem_with_an_example(document: Json) -> None:
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) < 400 or name in ("GET /health", "GET /health/ready"):
                continue
            content = response["content"]
            assert list(content) == ["application/problem+json"], (name, status)
            examples = content["application/problem+json"]["examples"]
            assert examples, (name, status)
            for code, example in examples.items():
                assert example["value"]["status"] == int(status), (name, status)
                assert example["value"]["code"] == code, (name, status)
                assert example["value"]["detail"], (name, status)


def test_every_call_documents_the_errors_that_it_gives(document: Json) -> None:
    documented = {name: {int(status) for status in found["responses"]} for name, found in operations(document)}
    secured = {name for name, found in operations(document) if found.get("security")}

    for name, statuses in documented.items():
        needs_token = name in secured
        assert (401 in statuses) == (needs_token or name in ("POST /auth/token", "POST /auth/login-code")), name
        assert {429, 503} <= statuses, name  # a full process refuses connections, whatever is asked
    assert {200, 202, 409, 413, 422} <= documented["POST /orders"]
    assert {200, 202, 404, 409, 422} <= documented["DELETE /orders/{order_id}"]
    assert {422} <= documented["GET /orders"] & documented["GET /cards/{card}/book"] & documented["GET /history/trades"]


def test_the_page_of_the_document_needs_no_other_host(exchange: ExchangeServer) -> None:
    page = exchange.http.get("/schema/swagger")

    assert page.status_code == 200
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)["']""", page.text)
    assert any(link.endswith(".js") for link in links)
    assert any(link.endswith(".css") for link in links)
    for link in links:
        assert link.startswith("/"), link
        assert not link.startswith("//"), link
        asset = exchange.http.get(link)
        assert asset.status_code == 200, link
        assert len(asset.content) > 100, link
    assert not re.search(
        r"https?://", re.sub(r'"https?://[^"]*(json-schema\.org|spec\.openapis\.org)[^"]*"', "", page.text)
    )


# -- the end


def test_a_stop_loses_no_order_that_was_accepted(fragile: ExchangeServer, settler: Trader) -> None:
    accepted: list[tuple[str, str]] = []
    host, _, port = fragile.url.removeprefix("http://").partition(":")
    headers = dict(settler.http.headers)

    def place(worker: int) -> None:
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        try:
            for number in itertools.count():
                client_order_id = f"{worker}-{number}"
                order = {"card": "pikachu", "side": "buy", "price": "1.00", "client_order_id": client_order_id}
                connection.request("POST", "/orders", json.dumps(order), headers)
                answer = connection.getresponse()
                if answer.status != 202:
                    return
                accepted.append((json.loads(answer.read())["order_id"], client_order_id))
        except (OSError, http.client.HTTPException):
            return  # the end of the API
        finally:
            connection.close()

    workers = [threading.Thread(target=place, args=(worker,)) for worker in range(8)]
    for worker in workers:
        worker.start()
    until(lambda: len(accepted) > 200)
    code = fragile.stop_service("api")
    for worker in workers:
        worker.join()
    logged = commands_of(fragile, "pikachu")
    fragile.start_service("api")

    assert code == 0
    for order_id, client_order_id in accepted:
        assert logged[order_id] == client_order_id


def test_a_stop_does_not_wait_for_those_who_wait(fragile: ExchangeServer, settler: Trader) -> None:
    outcome: list[int | str] = []

    def place() -> None:
        try:
            outcome.append(settler.post("pikachu", "buy", "1.00", headers=WAIT, client_order_id="waits").status_code)
        except httpx.TransportError as error:
            outcome.append(type(error).__name__)

    with without(fragile, "engine"):
        waiting = threading.Thread(target=place)
        before = fragile.sequences()["pikachu"]
        waiting.start()
        until(lambda: fragile.sequences()["pikachu"] == before + 1)
        started = time.monotonic()
        code = fragile.stop_service("api")
        took = time.monotonic() - started
        waiting.join()
        fragile.start_service("api")

    assert code == 0
    assert took < fragile.settings.stop_seconds
    assert outcome != [200]
    assert "waits" in commands_of(fragile, "pikachu").values()


def commands_of(exchange: ExchangeServer, card: str) -> dict[str, str | None]:
    """The client_order_id of every order in a log, by order_id."""
    found: dict[str, str | None] = {}
    entries: Any = exchange.redis.xrange(keys.key(card, "orders"))
    for entry_id, fields in entries:
        first = int(entry_id.partition(b"-")[2])
        for place, command in enumerate(codec.decode(card, fields)):
            if isinstance(command, PlaceOrder):
                found[f"{card}-{first + place}"] = command.client_order_id
    return found
