"""Replaces, post-only orders and mixed batches over HTTP, on a whole exchange."""

from typing import Any

import pytest

from testing.clients.trader import Trader
from testing.exchange import ExchangeServer
from testing.oracle.judge import archived_orders
from testing.waiting import until

pytestmark = pytest.mark.server

Json = dict[str, Any]
CARD = "pikachu"
WAIT = {"prefer": "wait=10"}


@pytest.fixture
def trader(exchange: ExchangeServer) -> Trader:
    return exchange.trader()


def place(trader: Trader, side: str, price: str, quantity: int = 1, **fields: Any) -> Json:
    """An order after its match."""
    body = {"card": CARD, "side": side, "price": price, "quantity": quantity, **fields}
    answer = trader.http.post("/orders", json=body, headers=WAIT)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def replace(trader: Trader, order: Json, status: int = 200, **change: Any) -> Json:
    """The answer to a replace after its match."""
    answer = trader.http.patch(f"/orders/{order['order_id']}", json=change, headers=WAIT)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def get(trader: Trader, order: Json) -> Json:
    return dict(trader.http.get(f"/orders/{order['order_id']}").json())


def test_less_at_the_same_price_keeps_id_and_place(trader: Trader) -> None:
    order = place(trader, "sell", "9.90", 10)

    after = replace(trader, order, quantity=4)

    assert (after["order_id"], after["quantity"], after["status"]) == (order["order_id"], 4, "open")
    assert get(trader, order) == after


def test_another_price_is_a_new_order_that_carries_what_is_filled(exchange: ExchangeServer, trader: Trader) -> None:
    order = place(trader, "sell", "9.00", 10, client_order_id="first")
    place(exchange.trader(), "buy", "9.00", 4)

    after = replace(trader, order, price="9.10", quantity=10, client_order_id="second")
    before = get(trader, order)

    assert (after["replaces"], before["replaced_by"]) == (order["order_id"], after["order_id"])
    assert (before["status"], before["reason"], before["filled_quantity"]) == ("canceled", "replaced", 4)
    assert (after["status"], after["quantity"], after["filled_quantity"]) == ("partially_filled", 10, 4)
    assert (after["carried_quantity"], after["trades"], after["client_order_id"]) == (4, [], "second")
    place(exchange.trader(), "buy", "9.10", 9)
    filled = get(trader, after)
    assert (filled["status"], filled["filled_quantity"]) == ("filled", 10)
    assert [trade["quantity"] for trade in filled["trades"]] == [6]
    sequence = int(order["order_id"].rpartition("-")[2])
    until(
        lambda: any(row.sequence == sequence for row in archived_orders(exchange.settings.database_url, CARD)),
        "archived",
    )
    listed = trader.http.get("/history/orders").json()["orders"]
    assert next(each for each in listed if each["order_id"] == order["order_id"]) == {
        name: value for name, value in before.items() if name not in ("trades", "average_price")
    }


def test_a_replace_is_answered_before_its_match_with_the_order_to_come(trader: Trader) -> None:
    order = place(trader, "sell", "9.80", 3)

    answer = trader.http.patch(f"/orders/{order['order_id']}", json={"price": "9.81"})

    assert answer.status_code == 202
    after = answer.json()
    assert (after["status"], after["replaces"], after["price"]) == ("accepted", order["order_id"], "9.81")
    until(lambda: get(trader, after)["status"] == "open", "the match")
    assert get(trader, after)["quantity"] == 3


def test_a_repeated_replace_has_the_first_outcome(trader: Trader) -> None:
    order = place(trader, "sell", "9.70", 3)

    moved = replace(trader, order, price="9.71", client_order_id="move")
    again = replace(trader, order, price="9.71", client_order_id="move")
    conflict = replace(trader, order, 409, price="9.72", client_order_id="move")
    reduced = replace(trader, moved, quantity=2, client_order_id="reduce")
    reduced_again = replace(trader, moved, quantity=2, client_order_id="reduce")

    assert again == moved
    assert conflict["code"] == "client_order_id_conflict"
    assert reduced_again == reduced
    assert trader.http.get("/orders/by-client-id/reduce").json() == reduced


def test_a_completed_order_is_not_replaced(exchange: ExchangeServer, trader: Trader) -> None:
    order = place(trader, "sell", "9.60", 2)
    moved = replace(trader, order, price="9.61")

    problem = replace(trader, order, 409, price="9.62")
    assert (problem["code"], moved["order_id"] in problem["detail"]) == ("order_completed", True)
    assert replace(exchange.trader(), moved, 404, price="9.62")["code"] == "order_not_found"
    closed = replace(trader, place(trader, "sell", "9.60", 2), quantity=2, price="9.60")
    assert closed["status"] == "open"


def test_a_total_that_is_filled_already_closes_the_order(exchange: ExchangeServer, trader: Trader) -> None:
    order = place(trader, "sell", "8.90", 10)
    place(exchange.trader(), "buy", "8.90", 4)

    after = replace(trader, order, quantity=4)

    assert (after["order_id"], after["status"], after["reason"]) == (order["order_id"], "canceled", "already_filled")
    assert (after["filled_quantity"], len(after["trades"])) == (4, 1)


def test_a_post_only_order_rests_or_expires(exchange: ExchangeServer, trader: Trader) -> None:
    place(exchange.trader(), "sell", "7.00", 5)

    crossing = place(trader, "buy", "7.00", post_only=True)
    resting = place(trader, "buy", "6.90", post_only=True)
    moved = replace(trader, resting, price="7.00")
    plain = replace(trader, place(trader, "buy", "6.80", post_only=True), price="7.00", post_only=False)

    assert (crossing["status"], crossing["reason"], crossing["trades"]) == ("expired", "would_cross", [])
    assert (resting["status"], resting["post_only"]) == ("open", True)
    assert (moved["status"], moved["reason"], moved["replaces"]) == ("expired", "would_cross", resting["order_id"])
    assert (plain["status"], plain["post_only"]) == ("filled", False)


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "missing_field", "price"),
        ({"price": "0.10"}, "invalid_price", "price"),
        ({"quantity": 0}, "invalid_quantity", "quantity"),
        ({"quantity": None}, "invalid_quantity", "quantity"),
        ({"price": "5.00", "post_only": 1}, "invalid_post_only", "post_only"),
        ({"price": "5.00", "side": "buy"}, "unknown_field", "side"),
        ({"price": "5.00", "client_order_id": "a b"}, "invalid_client_order_id", "client_order_id"),
    ],
)
def test_a_wrong_change_names_its_field(trader: Trader, body: Json, code: str, field: str) -> None:
    answer = trader.http.patch("/orders/pikachu-1", json=body)

    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize("time_in_force", ["ioc", "fok"])
def test_post_only_contradicts_a_time_in_force_that_never_rests(trader: Trader, time_in_force: str) -> None:
    body = {"card": CARD, "side": "buy", "price": "1.00", "post_only": True, "time_in_force": time_in_force}

    answer = trader.http.post("/orders", json=body)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_post_only")
    assert answer.json()["errors"][0]["field"] == "post_only"


def test_a_batch_places_cancels_and_replaces_in_its_order(trader: Trader) -> None:
    first, second, third = (place(trader, "sell", price, 5) for price in ("9.50", "9.51", "9.52"))
    gone = place(trader, "buy", "1.00", time_in_force="ioc")
    items = [
        {"card": CARD, "side": "sell", "price": "9.53"},
        {"action": "cancel", "order_id": first["order_id"]},
        {"action": "replace", "order_id": second["order_id"], "price": "9.54", "client_order_id": "in-batch"},
        {"action": "replace", "order_id": third["order_id"], "quantity": 2},
        {"action": "cancel", "order_id": gone["order_id"]},
        {"action": "cancel", "order_id": "pikachu-999999999"},
        {"action": "cancel"},
        {"action": "amend", "order_id": first["order_id"]},
        {"action": "place", "card": CARD, "side": "sell", "price": "9.55", "post_only": True},
        {"action": "replace", "order_id": first["order_id"], "price": "9.56"},
        {"action": "replace", "order_id": second["order_id"], "price": "nine", "quantity": 0},
    ]

    answer = trader.http.post("/orders/batch", json={"orders": items})

    assert answer.status_code == 202
    placed, canceled, replaced, reduced, *errors = answer.json()["results"]
    assert (placed["status"], canceled["order_id"], reduced["order_id"]) == (
        "accepted",
        first["order_id"],
        third["order_id"],
    )
    assert (replaced["replaces"], replaced["client_order_id"]) == (second["order_id"], "in-batch")
    codes = [each["error"]["code"] if "error" in each else each["status"] for each in errors]
    assert codes[:6] == [
        "order_completed", "order_not_found", "missing_field", "invalid_action", "accepted", "accepted",
    ]  # fmt: skip
    assert codes[6] == "invalid_price"
    until(lambda: get(trader, errors[5])["status"] == "canceled", "the match of the batch")
    assert get(trader, errors[5])["reason"] == "order_completed"
    assert get(trader, first)["status"] == "canceled"
    assert get(trader, replaced)["status"] == "open"
    assert (get(trader, third)["status"], get(trader, third)["quantity"]) == ("open", 2)


def test_a_batch_of_a_thousand_replaces(trader: Trader) -> None:
    orders = [{"card": CARD, "side": "sell", "price": "9.40", "quantity": 2} for _ in range(1_000)]
    placed = trader.http.post("/orders/batch", json={"orders": orders}).json()["results"]
    until(lambda: get(trader, placed[-1])["status"] == "open", "the match of the orders")

    items = [{"action": "replace", "order_id": each["order_id"], "price": "9.45"} for each in placed]
    answer = trader.http.post("/orders/batch", json={"orders": items})
    results = answer.json()["results"]
    until(lambda: get(trader, results[-1])["status"] == "open", "the match of the replaces")

    assert [each["replaces"] for each in results] == [each["order_id"] for each in placed]
    sequences = [int(each["order_id"].rpartition("-")[2]) for each in results]
    assert sequences == list(range(sequences[0], sequences[0] + 1_000))
    trader.http.delete("/orders", headers=WAIT)


def test_the_list_of_orders_is_whole_behind_many_reductions(trader: Trader) -> None:
    order = place(trader, "sell", "9.30", 100)
    for quantity in range(99, 39, -1):
        answer = trader.http.patch(f"/orders/{order['order_id']}", json={"quantity": quantity})
        assert answer.status_code == 202
    until(lambda: get(trader, order)["quantity"] == 40, "the match of the reductions")

    listed = trader.http.get("/orders").json()["orders"]

    assert [(each["order_id"], each["quantity"]) for each in listed] == [(order["order_id"], 40)]
