"""`/orders/cancel-after`: the switch of a trader over HTTP, and what the engine makes of it."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from core.model import CANCEL_AFTER_SECONDS_MAX
from engine import keys
from testing import faults
from testing.exchange import ExchangeServer, exchange_server
from testing.waiting import until

pytestmark = pytest.mark.server

PATH = "/orders/cancel-after"
OFF = {"seconds": 0, "cancel_at": None, "lease": None}
ALL_CARDS_COUNT = 4


@pytest.fixture(scope="module")
def own() -> Iterator[ExchangeServer]:
    """An exchange whose services the tests stop."""
    with exchange_server() as server:
        yield server


def cancels(server: ExchangeServer, trader_id: int) -> dict[str, list[int]]:
    """By card, of each log entry with cancels of this trader how many it has."""
    found: dict[str, list[int]] = {}
    client: Any = server.redis
    for card in server.settings.cards:
        for _, fields in client.xrange(keys.key(card, "orders")):
            kinds, traders = fields[b"kinds"].decode(), fields[b"traders"].decode()
            if "C" in kinds and f'"{trader_id}"' in traders:
                found.setdefault(card, []).append(len(kinds))
    return found


def statuses(trader: Any) -> set[str]:
    return {order["status"] for order in trader.http.get("/orders").json()["orders"]}


def place_on_all_cards(server: ExchangeServer, trader: Any) -> None:
    for card in server.settings.cards:
        trader.place(card, "buy", "1.00")


def test_it_is_off_until_it_is_set_and_again_when_it_is_cleared(own: ExchangeServer) -> None:
    http = own.trader().http
    before = http.get(PATH).json()
    answer = http.put(PATH, json={"seconds": 60})
    renewed = http.put(PATH, json={"seconds": 90}).json()
    seen = http.get(PATH).json()
    cleared = http.put(PATH, json={"seconds": 0}).json()

    assert before == cleared == http.get(PATH).json() == OFF
    assert (answer.status_code, answer.json()["seconds"]) == (200, 60)
    cancel_at = datetime.fromisoformat(renewed["cancel_at"])
    assert 85 < (cancel_at - datetime.now(UTC)).total_seconds() < 91
    assert (seen["cancel_at"], seen["seconds"]) == (renewed["cancel_at"], 90)


def test_after_its_seconds_the_orders_on_all_cards_are_canceled_once_and_it_is_off(own: ExchangeServer) -> None:
    trader, other = own.trader(), own.trader()
    place_on_all_cards(own, trader)
    other.place("pikachu", "buy", "1.10")
    began = time.monotonic()
    trader.http.put(PATH, json={"seconds": 1})
    until(lambda: statuses(trader) == {"canceled"}, "the orders are canceled")
    seconds = time.monotonic() - began
    stays = trader.place("pikachu", "buy", "1.00")

    assert 0.9 < seconds < 4
    assert trader.http.get(PATH).json() == OFF
    assert cancels(own, trader.trader_id) == {card: [1] for card in own.settings.cards}
    assert statuses(other) == {"open"}
    assert trader.http.get(f"/orders/{stays['order_id']}").json()["status"] == "open"


def test_two_engines_of_which_one_is_killed_cancel_once(own: ExchangeServer) -> None:
    traders = [own.trader() for _ in range(5)]
    own.start_service("engine-2")
    try:
        for trader in traders:
            place_on_all_cards(own, trader)
            trader.http.put(PATH, json={"seconds": 1})
        until(lambda: cancels(own, traders[0].trader_id), "the first deadline is over")
        own.kill_service("engine")
        until(lambda: all(statuses(trader) == {"canceled"} for trader in traders), "all orders are canceled")
    finally:
        own.start_service("engine")
        own.stop_service("engine-2")

    for trader in traders:
        assert cancels(own, trader.trader_id) == {card: [1] for card in own.settings.cards}


def test_it_fires_without_an_api_and_begins_anew_after_a_time_without_engines(own: ExchangeServer) -> None:
    trader = own.trader()
    place_on_all_cards(own, trader)
    trader.http.put(PATH, json={"seconds": 2})
    own.stop_service("engine")
    until(lambda: trader.http.get(PATH).json()["seconds"] == 0, "the time is over")
    time.sleep(2)  # no engine has looked for longer than a pause is
    with faults.without(own, "api"):
        began = time.monotonic()
        own.start_service("engine")
        until(lambda: len(cancels(own, trader.trader_id)) == ALL_CARDS_COUNT, "the orders are canceled")
        seconds = time.monotonic() - began

    assert seconds > 1.5
    assert cancels(own, trader.trader_id) == {card: [1] for card in own.settings.cards}


def test_after_a_restart_of_redis_it_cancels_once_an_api_has_compared_it(own: ExchangeServer) -> None:
    trader = own.trader()
    place_on_all_cards(own, trader)
    trader.http.put(PATH, json={"seconds": 1})
    with faults.without(own, "api"):
        with faults.without_redis(own):
            pass
        time.sleep(2.5)
        before = cancels(own, trader.trader_id)
    until(lambda: len(cancels(own, trader.trader_id)) == ALL_CARDS_COUNT, "the orders are canceled")

    assert before == {}
    assert cancels(own, trader.trader_id) == {card: [1] for card in own.settings.cards}


def test_it_is_answered_with_503_while_redis_is_away(own: ExchangeServer) -> None:
    http = own.trader().http
    with faults.without_redis(own):
        put, got = http.put(PATH, json={"seconds": 5}), http.get(PATH)
    until(lambda: http.put(PATH, json={"seconds": 0}).status_code == 200, "Redis is back")

    assert {put.status_code, got.status_code} == {503}
    assert int(put.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"", "invalid_json", "the body is empty"),
        (b"[]", "invalid_body", "object"),
        (b"{}", "missing_field", "seconds is required"),
        (b'{"seconds":-1}', "invalid_seconds", "seconds must be a whole number of seconds from 0 to 86400, got -1"),
        (b'{"seconds":86401}', "invalid_seconds", "got 86401"),
        (b'{"seconds":1.5}', "invalid_seconds", "got 1.5"),
        (b'{"seconds":"60"}', "invalid_seconds", "got '60'"),
        (b'{"seconds":true}', "invalid_seconds", "got true"),
        (b'{"seconds":null}', "invalid_seconds", "got null"),
        (b'{"seconds":1e400}', "invalid_seconds", "seconds must be"),
        (b'{"seconds":5,"card":"pikachu"}', "unknown_field", "card is not a field"),
        (b'{"seconds":5,"seconds":6}', "duplicate_field", "seconds must be given once"),
    ],
)
def test_a_wrong_body_is_refused_and_the_switch_stays(
    exchange: ExchangeServer, client: httpx.Client, body: bytes, code: str, words: str
) -> None:
    set_before = client.put(PATH, json={"seconds": CANCEL_AFTER_SECONDS_MAX}).json()

    answer = client.put(PATH, content=body)

    assert (answer.status_code, answer.json()["code"]) in {(422, code), (400, code)}
    assert words in answer.json()["detail"]
    assert client.get(PATH).json()["cancel_at"] == set_before["cancel_at"]
    assert exchange.http.put(PATH, json={"seconds": 1}).json()["code"] == "token_missing"
