"""Both doors of the order calls on a whole exchange: what our HTTP server answers by itself, and Litestar's handlers,
which get what comes in chunks. Both say the same."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from testing.exchange import ExchangeServer
from tests.api.test_bad_input import CALLER, TABLE, Case

pytestmark = pytest.mark.server

HEADERS = ("content-type", "www-authenticate", "retry-after", "allow")
CASES = [case for case in TABLE if case.method == "POST" and case.path == "/orders"]
RIGHT = [
    {"card": "pikachu", "side": "buy", "price": "1.00"},
    {"card": "squirtle", "side": "sell", "price": 10, "quantity": 3, "client_order_id": None},
    {"card": "charmander", "side": "buy", "price": 1.5, "quantity": 10_000, "time_in_force": "ioc"},
    {"card": "bulbasaur", "side": "sell", "price": "9.99", "client_order_id": "doors", "time_in_force": "fok"},
]


def in_chunks(body: bytes) -> Iterator[bytes]:
    """A body whose length is not said, so that it comes in chunks."""
    yield body


def both(client: httpx.Client, path: str, body: bytes, headers: list[tuple[str, str]]) -> tuple[httpx.Response, ...]:
    """The answers to a body with its length, and in chunks."""
    return (
        client.post(path, content=body, headers=headers),
        client.post(path, content=in_chunks(body), headers=headers),
    )


def assert_alike(direct: httpx.Response, litestar: httpx.Response) -> None:
    assert direct.status_code == litestar.status_code
    assert {name: direct.headers.get(name) for name in HEADERS} == {
        name: litestar.headers.get(name) for name in HEADERS
    }
    assert direct.content == litestar.content


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_wrong_order_is_answered_alike(exchange: ExchangeServer, case: Case) -> None:
    token = exchange.bearer(CALLER)["authorization"] if case.token is None else case.token(exchange)
    headers = [*case.headers, *([("authorization", token)] if token is not None else [])]

    direct, litestar = both(exchange.http, "/orders", case.body or b"", headers)

    assert direct.status_code == case.status
    assert_alike(direct, litestar)


@pytest.mark.parametrize("path", ["/orders", "/orders/batch"])
@pytest.mark.parametrize("token", [None, "", "Bearer", "Bearer x.y.z", "Basic YTpi", "Bearer \xe9"])
def test_a_wrong_token_is_answered_alike_before_the_body_is_looked_at(
    exchange: ExchangeServer, path: str, token: str | None
) -> None:
    headers = [] if token is None else [("authorization", token)]
    with httpx.Client(base_url=exchange.url, trust_env=False, default_encoding="latin-1") as client:
        for body in (b'{"card":"pikachu"}', b"no JSON"):
            encoded: Any = [(name.encode(), value.encode("latin-1")) for name, value in headers]
            direct, litestar = both(client, path, body, encoded)

            assert direct.status_code == 401
            assert direct.headers["www-authenticate"] == "Bearer"
            assert_alike(direct, litestar)


@pytest.mark.parametrize("order", RIGHT)
def test_an_accepted_order_is_answered_alike(client: httpx.Client, order: dict[str, Any]) -> None:
    changing = re.compile(rb'"(order_id|accepted_at|client_order_id)":"[^"]*"')
    answers = []
    for content in (bytes, in_chunks):
        body = json.dumps({**order, **({"client_order_id": str(time.time_ns())} if "client_order_id" in order else {})})
        answers.append(client.post("/orders", content=content(body.encode())))

    direct, litestar = answers

    assert direct.status_code == litestar.status_code == 202
    assert direct.headers["content-type"] == litestar.headers["content-type"] == "application/json"
    assert changing.sub(b"", direct.content) == changing.sub(b"", litestar.content)
    assert direct.json()["status"] == "accepted"


def test_an_order_that_waits_is_answered_alike(client: httpx.Client) -> None:
    body = b'{"card":"pikachu","side":"buy","price":"1.00","client_order_id":"waits-at-both"}'

    direct, litestar = both(client, "/orders", body, [("prefer", "wait=5")])

    assert direct.status_code == 200
    assert direct.json()["status"] == "open"
    assert_alike(direct, litestar)


def test_a_conflict_is_answered_alike(client: httpx.Client) -> None:
    first = {"card": "pikachu", "side": "buy", "price": "1.00", "client_order_id": "conflicts-at-both"}
    assert client.post("/orders", json=first).status_code == 202

    direct, litestar = both(client, "/orders", json.dumps({**first, "price": "1.01"}).encode(), [])

    assert direct.status_code == 409
    assert_alike(direct, litestar)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"orders":[]}',
        b'{"orders":[1,{"card":"mew"},{"card":"pikachu","side":"buy","price":0}]}',
        b'{"orders":[{"card":"pikachu","side":"buy","price":5,"price":6}]}',
        b'{"orders":[1],"orders":[2]}',
    ],
)
def test_a_wrong_batch_is_answered_alike(client: httpx.Client, body: bytes) -> None:
    direct, litestar = both(client, "/orders/batch", body, [])

    assert direct.status_code in (202, 422)
    assert_alike(direct, litestar)


def test_a_batch_has_the_same_outcomes_as_its_orders_alone(client: httpx.Client) -> None:
    orders = [{"card": "pikachu", "side": "buy", "price": "1.00", "client_order_id": f"alone-{i}"} for i in range(3)]
    for order in orders:
        assert client.post("/orders", json=order, headers={"prefer": "wait=5"}).status_code == 200
    alone = [client.post("/orders", json=order).json() for order in orders]

    direct, litestar = both(client, "/orders/batch", json.dumps({"orders": orders}).encode(), [])

    assert direct.json()["results"] == alone
    assert_alike(direct, litestar)


def test_every_method_works_on_one_connection(client: httpx.Client) -> None:
    for _ in range(2):
        placed = client.post("/orders", json=RIGHT[0], headers={"prefer": "wait=5"})
        listed = client.get("/orders?limit=1")
        head = client.head("/orders")
        canceled = client.delete("/orders", headers={"prefer": "wait=5"})

        assert placed.status_code == 200
        assert listed.json()["orders"][0]["order_id"] == placed.json()["order_id"]
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 10
        assert [order["status"] for order in canceled.json()["orders"]] == ["canceled"]


def test_a_body_that_is_too_large_is_refused_after_the_token(exchange: ExchangeServer, client: httpx.Client) -> None:
    body = b" " * (exchange.settings.body_bytes_max + 1)

    for answer in both(client, "/orders/batch", body, []):
        assert answer.status_code == 413
        assert answer.json()["code"] == "body_too_large"
    for answer in both(exchange.http, "/orders/batch", body, []):
        assert answer.status_code == 401
