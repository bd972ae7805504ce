"""Limits of traders and addresses over HTTP: statuses, headers, items of batches, and two processes."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from testing.contract import validator
from testing.exchange import ExchangeServer, exchange_server
from testing.services import Service
from testing.waiting import until

pytestmark = pytest.mark.server

BURST, OPEN_MAX, FAILED_LOGINS = 5, 8, 3
RATE_HEADERS = ("retry-after", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")
WORKERS = 2


@pytest.fixture(scope="module")
def limited() -> Iterator[ExchangeServer]:
    """An exchange with limits: an order a second on a card, `BURST` at once."""
    with exchange_server(
        trader_orders_per_second=1,
        trader_burst=BURST,
        trader_open_orders_max=OPEN_MAX,
        failed_logins_per_minute=FAILED_LOGINS,
    ) as started:
        started.http.get("/cards")  # the first answer makes the contract, which takes a share of the second that counts
        yield started


def order(card: str = "pikachu", **fields: Any) -> dict[str, Any]:
    return {"card": card, "side": "buy", "price": "1.00", **fields}


def used_up(exchange: ExchangeServer, trader_id: int) -> httpx.Client:
    """A trader who has placed as many orders as it may at once."""
    client = exchange.client(trader_id)
    assert client.post("/orders/batch", json={"orders": [order()] * BURST}).status_code == 202
    return client


def rate_headers(answer: httpx.Response) -> list[int]:
    return [int(answer.headers[name]) for name in RATE_HEADERS]


def test_an_order_above_the_rate_is_429_and_says_when_to_repeat_it(limited: ExchangeServer) -> None:
    trader = used_up(limited, 101)

    refused = trader.post("/orders", json=order())

    assert refused.status_code == 429
    assert rate_headers(refused) == [1, BURST, 0, BURST]
    assert refused.json() == {
        "status": 429,
        "code": "rate_limited",
        "title": "Too many requests",
        "detail": "nothing was accepted: you may place 1 orders a second on pikachu, 5 at once after a pause; "
        "repeat it after 1 s",
        "retry_after": 1,
        "limit": BURST,
        "reset": BURST,
    }
    assert trader.post("/orders", json=order("squirtle")).status_code == 202
    assert limited.client(102).post("/orders", json=order()).status_code == 202


def test_the_headers_of_a_429_are_those_of_the_document(limited: ExchangeServer) -> None:
    document: Any = limited.http.get("/schema/openapi.json").json()
    described = document["paths"]["/orders"]["post"]["responses"]["429"]["headers"]

    refused = used_up(limited, 103).post("/orders", json=order())

    assert {name.lower() for name in described} >= set(RATE_HEADERS)
    for name, header in described.items():
        value: Any = refused.headers[name]
        value = int(value) if header["schema"]["type"] == "integer" else value
        validator(document, header["schema"]).validate(value)


def test_an_order_is_accepted_after_the_time_that_a_429_names(limited: ExchangeServer) -> None:
    trader = used_up(limited, 104)
    refused = trader.post("/orders", json=order())

    until(
        lambda: trader.post("/orders", json=order()).status_code == 202,
        why="it is refused still",
        seconds=int(refused.headers["retry-after"]) + 1,
    )


def test_orders_of_a_batch_above_the_rate_are_refused_in_their_places(limited: ExchangeServer) -> None:
    trader = limited.client(105)
    orders = [order() for _ in range(BURST + 2)]
    orders.insert(2, order("squirtle"))

    answer = trader.post("/orders/batch", json={"orders": orders})

    results = answer.json()["results"]
    assert answer.status_code == 202
    assert ["order_id" in result for result in results] == [True] * (BURST + 1) + [False] * 2
    for result in results[-2:]:
        assert (result["error"]["status"], result["error"]["code"]) == (429, "rate_limited")
        assert (result["error"]["retry_after"], result["error"]["limit"]) == (1, BURST)


def test_a_batch_of_which_nothing_is_accepted_is_a_429(limited: ExchangeServer) -> None:
    trader = used_up(limited, 106)

    answer = trader.post("/orders/batch", json={"orders": [order()] * 3})

    assert answer.status_code == 429
    assert rate_headers(answer) == [1, BURST, 0, BURST]


def test_cancels_go_on_above_the_rate(limited: ExchangeServer) -> None:
    trader = used_up(limited, 107)
    name = trader.get("/orders").json()["orders"][0]["order_id"]

    assert trader.delete(f"/orders/{name}", headers={"prefer": "wait=5"}).json()["status"] == "canceled"
    assert trader.delete("/orders", headers={"prefer": "wait=5"}).status_code == 200


def test_a_repeat_above_the_rate_gives_the_first_order(limited: ExchangeServer) -> None:
    trader = limited.client(108)
    first = trader.post("/orders", json=order(client_order_id="mine")).json()
    trader.post("/orders/batch", json={"orders": [order()] * BURST})

    again = trader.post("/orders", json=order(client_order_id="mine"))

    assert (again.status_code, again.json()["order_id"]) == (202, first["order_id"])


def test_an_order_above_the_open_ones_is_409_until_one_is_canceled(limited: ExchangeServer) -> None:
    trader = limited.client(109)
    accepted = 0
    while accepted < OPEN_MAX:
        accepted += trader.post("/orders", json=order()).status_code == 202

    def refused() -> httpx.Response:
        answer = trader.post("/orders", json=order())
        assert answer.status_code in (409, 429), answer.text
        return answer

    until(lambda: refused().status_code == 409, why="the rate refuses it still")
    answer = refused()
    assert (answer.json()["code"], answer.json()["detail"]) == (
        "too_many_open_orders",
        f"nothing was accepted: you may have {OPEN_MAX} open orders on pikachu",
    )
    assert trader.delete("/orders?card=pikachu", headers={"prefer": "wait=5"}).status_code == 200
    until(lambda: trader.post("/orders", json=order()).status_code == 202, why="no room is seen")


def test_two_processes_share_the_buckets(limited: ExchangeServer) -> None:
    second = Service("api-2", limited.settings, limited.data_dir / "api-2.output")
    try:
        processes: dict[str, httpx.Client] = {}
        with ExitStack() as stack:

            def connected() -> bool:
                client = stack.enter_context(httpx.Client(base_url=limited.url, trust_env=False))
                name = client.get("/health/live").headers["x-request-id"].partition("-")[0]
                processes[name] = client
                return len(processes) == WORKERS

            until(connected, why="no second process answers")
            headers, started = limited.bearer(110), time.monotonic()
            statuses = [
                client.post("/orders", json=order("charmander"), headers=headers).status_code
                for _ in range(BURST)
                for client in processes.values()
            ]
    finally:
        second.stop(seconds=limited.settings.stop_seconds)

    seconds = time.monotonic() - started
    assert statuses[:BURST] == [202] * BURST
    assert set(statuses) == {202, 429}
    assert statuses.count(202) <= BURST + seconds


def test_logins_that_fail_too_often_are_429_before_the_key_is_looked_at(limited: ExchangeServer) -> None:
    right = {"trader_id": 1, "api_key": limited.api_key(1)}
    wrong = right | {"api_key": "wrong"}
    for _ in range(2 * FAILED_LOGINS):
        assert limited.http.post("/auth/token", json=right).status_code == 200
    statuses = [limited.http.post("/auth/token", json=wrong).status_code for _ in range(FAILED_LOGINS + 1)]

    refused = limited.http.post("/auth/token", json=right)

    assert statuses == [401] * FAILED_LOGINS + [429]
    assert refused.status_code == 429
    assert refused.json()["code"] == "rate_limited"
    retry_after, limit, remaining, reset = rate_headers(refused)
    assert (limit, remaining) == (FAILED_LOGINS, 0)
    assert 1 <= retry_after <= 20
    assert 40 <= reset <= 60
