"""The seam below HTTP: a door of under 60 lines places, cancels and lists, with the refusals of REST."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from exchange import tokens, wiring
from testing.exchange import ExchangeServer
from tests.exchange import toy_door
from tests.exchange.toy_door import ToyDoor

pytestmark = pytest.mark.server

trader_ids = itertools.count(700_001)
Say = Callable[[str], Awaitable[str]]

REFUSED: dict[str, dict[str, Any]] = {
    "no card": {"side": "buy", "price": "1.00"},
    "another card": {"card": "mew", "side": "buy", "price": "1.00"},
    "another side": {"card": "pikachu", "side": "up", "price": "1.00"},
    "a price above": {"card": "pikachu", "side": "buy", "price": "10.01"},
    "a price of three decimals": {"card": "pikachu", "side": "buy", "price": "1.001"},
    "a quantity of nothing": {"card": "pikachu", "side": "buy", "price": "1.00", "quantity": 0},
    "an id of dots": {"card": "pikachu", "side": "buy", "price": "1.00", "client_order_id": ".."},
    "a field too many": {"card": "pikachu", "side": "buy", "price": "1.00", "colour": "blue"},
    "everything": {"card": "mew", "side": "up", "price": "x", "quantity": 0, "time_in_force": "day"},
}


def through(exchange: ExchangeServer, trader_id: int, work: Callable[[Say], Awaitable[None]]) -> None:
    """Does work with the toy door, connected to a running exchange as a process of its own would be."""
    settings = exchange.settings
    token = tokens.issue_token(settings.jwt_secret, trader_id, "trader", 60)

    async def connected() -> None:
        async with wiring.connect(settings) as services:
            door = ToyDoor(services)
            await work(lambda line: door.answer(f"{token} {line}"))

    asyncio.run(connected())


def test_a_door_is_under_60_lines_of_code() -> None:
    code = [line for line in Path(toy_door.__file__).read_text().splitlines() if line.strip()]

    assert len(code) < 60


@pytest.mark.parametrize("draft", REFUSED.values(), ids=REFUSED)
def test_the_refusals_are_those_of_rest(exchange: ExchangeServer, draft: dict[str, Any]) -> None:
    trader_id = next(trader_ids)
    rest = exchange.client(trader_id).post("/orders", json=draft).json()

    async def work(say: Say) -> None:
        code, *sentences = (await say("place " + " ".join(f"{name}={value}" for name, value in draft.items()))).split(
            "\n"
        )
        assert code == rest["code"]
        assert "; ".join(sentences) == rest["detail"]

    through(exchange, trader_id, work)


def test_what_is_placed_here_is_listed_and_canceled_there_and_the_other_way_round(exchange: ExchangeServer) -> None:
    trader_id = next(trader_ids)
    rest, other = exchange.client(trader_id), exchange.client(next(trader_ids))
    there = rest.post("/orders", json={"card": "squirtle", "side": "sell", "price": "9.99"}).json()["order_id"]
    anothers = other.post("/orders", json={"card": "squirtle", "side": "sell", "price": "9.98"}).json()["order_id"]

    async def work(say: Say) -> None:
        ok, here = (await say("place card=pikachu side=buy price=1.01 quantity=2 client_order_id=toy")).split()
        assert ok == "ok"
        assert await say("place card=pikachu side=buy price=1.01 quantity=2 client_order_id=toy") == f"ok {here}"
        conflict = {"card": "pikachu", "side": "buy", "price": "1.02", "client_order_id": "toy"}
        assert await say("place card=pikachu side=buy price=1.02 client_order_id=toy") == "client_order_id_conflict"
        assert rest.post("/orders", json=conflict).json()["code"] == "client_order_id_conflict"

        assert [line.split()[0] for line in (await say("list")).split("\n")[1:]] == [here, there]
        assert [order["order_id"] for order in rest.get("/orders").json()["orders"]] == [here, there]

        assert await say(f"cancel {there}") == f"ok {there} sell 999 0/1 canceled"
        canceled = rest.delete(f"/orders/{here}", headers={"prefer": "wait=5"}).json()
        assert (canceled["order_id"], canceled["status"]) == (here, "canceled")
        assert await say(f"cancel {here}") == "order_completed"
        assert rest.delete(f"/orders/{there}").json()["code"] == "order_completed"
        assert await say(f"cancel {anothers}") == rest.delete(f"/orders/{anothers}").json()["code"] == "order_not_found"
        assert await say("list status=open") == "ok"

    through(exchange, trader_id, work)


def test_wrong_filters_and_tokens_are_refused_as_by_rest(exchange: ExchangeServer) -> None:
    trader_id = next(trader_ids)
    rest = exchange.client(trader_id)

    async def work(say: Say) -> None:
        for words, query in (("status=done", "status=done"), ("card=mew", "card=mew"), ("before=x-1", "before=x-1")):
            code, *sentences = (await say(f"list {words}")).split("\n")
            refused = rest.get(f"/orders?{query}").json()
            assert (code, "; ".join(sentences)) == (refused["code"], refused["detail"])

    through(exchange, trader_id, work)

    async def unknown() -> None:
        async with wiring.connect(exchange.settings) as services:
            assert await ToyDoor(services).answer("a.b.c list") == "token_invalid"

    asyncio.run(unknown())
    assert rest.get("/orders", headers={"authorization": "Bearer a.b.c"}).json()["code"] == "token_invalid"
