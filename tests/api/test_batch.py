"""`POST /orders/batch` on a whole exchange."""

from typing import Any

import httpx
import pytest

from testing.exchange import ExchangeServer
from testing.flows import CARDS
from testing.waiting import until

pytestmark = pytest.mark.server


def order(card: str = "pikachu", price: str = "1.00", **fields: Any) -> dict[str, Any]:
    return {"card": card, "side": "buy", "price": price, **fields}


def post(client: httpx.Client, orders: Any) -> Any:
    answer = client.post("/orders/batch", json={"orders": orders})
    assert answer.status_code == 202, answer.text
    return answer.json()["results"]


def test_a_thousand_orders_get_their_outcomes_in_order(exchange: ExchangeServer, client: httpx.Client) -> None:
    before = exchange.sequences()
    orders = [order(CARDS[i % 4], f"{1 + i % 7}.{i % 100:02d}", time_in_force="ioc") for i in range(1_000)]

    results = post(client, orders)

    assert [(one["card"], one["price"]) for one in results] == [(one["card"], one["price"]) for one in orders]
    for card in CARDS:
        sequences = [int(one["order_id"].rpartition("-")[2]) for one in results if one["card"] == card]
        assert sequences == list(range(before[card] + 1, before[card] + 251))


def test_an_order_that_is_wrong_spoils_no_other(client: httpx.Client) -> None:
    results = post(client, [order(), order("mew"), order(price="5.505", quantity=0), "no order", order(price="1.01")])

    assert [one.get("status") for one in results] == ["accepted", None, None, None, "accepted"]
    assert [one["error"]["code"] for one in results[1:4]] == ["unknown_card", "invalid_price", "invalid_body"]
    assert {error["field"] for error in results[2]["error"]["errors"]} == {"price", "quantity"}


def test_ids_that_repeat_give_the_first_order_also_within_a_batch(client: httpx.Client) -> None:
    first = post(client, [order(client_order_id="batch-1")])[0]
    results = post(
        client,
        [
            order(client_order_id="batch-1"),
            order(client_order_id="batch-2"),
            order(client_order_id="batch-2"),
            order(price="1.02", client_order_id="batch-1"),
            order(),
        ],
    )

    assert results[0]["order_id"] == first["order_id"]
    assert results[1]["order_id"] == results[2]["order_id"] != first["order_id"]
    assert results[3]["error"]["code"] == "client_order_id_conflict"
    assert results[4]["status"] == "accepted"


def test_a_batch_may_hold_the_word_orders_and_escapes(client: httpx.Client) -> None:
    first = b'{"card":"pikachu","side":"buy","price":"1.00","client_order_id":"orders"}'
    body = b'{"orders":[' + first + b',{"card":"pik\\u0061chu"}]}'

    results = client.post("/orders/batch", content=body).json()["results"]

    assert results[0]["client_order_id"] == "orders"
    assert {error["code"] for error in results[1]["error"]["errors"]} == {"missing_field"}


def test_the_orders_of_a_batch_are_matched_in_their_order(client: httpx.Client) -> None:
    sell = {"card": "squirtle", "side": "sell", "price": "9.00"}
    buy = {"card": "squirtle", "side": "buy", "price": "9.00"}

    results = post(client, [{**sell, "quantity": 2}, sell, {**buy, "quantity": 2}, buy])

    def statuses() -> list[str]:
        return [client.get(f"/orders/{one['order_id']}").json()["status"] for one in results]

    until(lambda: statuses() == ["filled"] * 4)
    trades = client.get("/cards/squirtle/trades?limit=2").json()["trades"]
    assert [trade["quantity"] for trade in trades] == [1, 2]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"[]", "invalid_body"),
        (b"{}", "missing_field"),
        (b'{"orders":[]}', "invalid_orders"),
        (b'{"orders":{}}', "invalid_orders"),
        (b'{"orders":null}', "invalid_orders"),
        (b'{"orders":"x"}', "invalid_orders"),
        (b'{"orders":[1],"more":1}', "unknown_field"),
        (b'{"orders":[1],"orders":[2]}', "duplicate_field"),
        (b'{"orders":[1],"\\u006frders":[2]}', "duplicate_field"),
        (b'{"orders":[' + b"1," * 1_000 + b"1]}", "invalid_orders"),
        (b'{"orders":[1]', "invalid_json"),
        (b'{"orders":["\xff"]}', "invalid_json"),
    ],
)
def test_a_body_that_is_no_batch_is_refused_whole(
    exchange: ExchangeServer, client: httpx.Client, body: bytes, code: str
) -> None:
    before = exchange.sequences()

    answer = client.post("/orders/batch", content=body)

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    assert exchange.sequences() == before


def test_a_batch_without_a_token_is_refused(exchange: ExchangeServer) -> None:
    with httpx.Client(base_url=exchange.url, trust_env=False) as anonymous:
        assert anonymous.post("/orders/batch", json={"orders": [order()]}).status_code == 401
