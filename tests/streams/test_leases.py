"""Leases of streams: orders are canceled once where a client is gone, and only there."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from engine import keys
from testing import faults
from testing.clients.stream import EventStream
from testing.clients.trader import Trader
from testing.exchange import ExchangeServer, exchange_server
from testing.waiting import until
from tests.streams.conftest import Socket

pytestmark = pytest.mark.server

CARDS = ("pikachu", "squirtle")
GRACE = 2


@pytest.fixture(scope="module")
def own() -> Iterator[ExchangeServer]:
    """An exchange whose API the tests kill."""
    with exchange_server(stream_heartbeat_seconds=1, cards=CARDS) as server:
        yield server


@pytest.fixture
def trader(own: ExchangeServer) -> Trader:
    """A trader with an order on each card."""
    made = own.trader()
    for card in CARDS:
        made.place(card, "buy", "1.00")
    return made


def cancels(server: ExchangeServer, trader: Trader) -> dict[str, list[int]]:
    """By card, of each log entry with cancels of this trader how many it has."""
    found: dict[str, list[int]] = {}
    client: Any = server.redis
    for card in CARDS:
        for _, fields in client.xrange(keys.key(card, "orders")):
            kinds, traders = fields[b"kinds"].decode(), fields[b"traders"].decode()
            if "C" in kinds and f'"{trader.trader_id}"' in traders:
                found.setdefault(card, []).append(len(kinds))
    return found


ONCE = {card: [1] for card in CARDS}


def until_canceled(server: ExchangeServer, trader: Trader) -> float:
    """Waits until the orders of a trader are canceled on all cards; how many seconds that took."""
    began = time.monotonic()
    until(lambda: len(cancels(server, trader)) == len(CARDS), "the orders are canceled", seconds=20)
    return time.monotonic() - began


def leased(server: ExchangeServer, trader: Trader, **options: Any) -> Socket:
    """A stream of a trader that holds its lease."""
    socket = Socket(server, trader_id=trader.trader_id)
    socket.say(op="lease", grace_seconds=GRACE, id=1, **options)
    answer = socket.next("lease")
    assert (answer["id"], answer["grace_seconds"], answer["ended"]) == (1, GRACE, None)
    return socket


def lease_of(trader: Trader) -> Any:
    """The lease of a trader, as REST shows it."""
    return trader.http.get("/orders/cancel-after").json()["lease"]


def break_off(socket: Socket) -> None:
    """Ends a connection without a close frame."""
    socket.socket.socket.close()


def test_a_killed_api_cancels_after_the_grace_once_and_no_order_without_a_lease(
    own: ExchangeServer, trader: Trader
) -> None:
    other = own.trader()
    other.place("pikachu", "buy", "1.00")
    socket, without = leased(own, trader), Socket(own, trader_id=other.trader_id)
    for _ in range(3):  # for longer than the grace
        socket.next("heartbeat")
    assert cancels(own, trader) == {}
    own.kill_service("api")
    try:
        seconds = until_canceled(own, trader)
    finally:
        own.start_service("api")
    time.sleep(1.5)  # a second cancel would come with one of the next looks
    for each in (socket, without):
        each.close()

    assert GRACE - 0.2 < seconds < GRACE + 4
    assert cancels(own, trader) == ONCE
    assert cancels(own, other) == {}
    assert lease_of(trader) is None


def test_a_connection_that_breaks_cancels_after_the_grace(own: ExchangeServer, trader: Trader) -> None:
    socket = leased(own, trader)
    break_off(socket)

    assert until_canceled(own, trader) > GRACE - 0.2
    assert cancels(own, trader) == ONCE


def test_a_reconnect_within_the_grace_takes_the_lease_over(own: ExchangeServer, trader: Trader) -> None:
    socket = leased(own, trader)
    shown = lease_of(trader)
    break_off(socket)
    with Socket(own, trader_id=trader.trader_id) as again:
        hello = again.next("hello")
        again.say(op="lease", grace_seconds=GRACE)
        assert again.next("lease")["grace_seconds"] == GRACE
        for _ in range(GRACE + 2):
            again.next("heartbeat")
        before = cancels(own, trader)
        again.say(op="lease", grace_seconds=0)
        given_up = again.next("lease")

    assert shown["grace_seconds"] == hello["lease"]["grace_seconds"] == GRACE
    assert before == {}
    assert (given_up["grace_seconds"], given_up["ended"], lease_of(trader)) == (0, None, None)


def test_the_stream_that_asks_last_has_the_lease_and_the_other_is_told(own: ExchangeServer, trader: Trader) -> None:
    with leased(own, trader) as first, leased(own, trader) as second:
        told = first.next("lease")
        first.say(op="lease", grace_seconds=0, id=9)
        assert first.next("lease")["id"] == 9
        still = lease_of(trader)
        break_off(first)
        for _ in range(GRACE + 1):
            second.next("heartbeat")
        before = cancels(own, trader)

    assert (told["ended"], told["grace_seconds"], told["id"]) == ("taken_over", 0, None)
    assert still["grace_seconds"] == GRACE
    assert before == {}


def test_a_clean_close_ends_the_lease_and_cancels_nothing(own: ExchangeServer, trader: Trader) -> None:
    socket = leased(own, trader)
    socket.close()

    until(lambda: lease_of(trader) is None, "the lease ends")
    time.sleep(1.0)
    assert cancels(own, trader) == {}


def test_a_clean_close_cancels_at_once_where_the_client_asked_for_it(own: ExchangeServer, trader: Trader) -> None:
    socket = leased(own, trader, cancel_on_close=True)
    socket.close()

    assert until_canceled(own, trader) < GRACE
    assert cancels(own, trader) == ONCE


def test_a_lease_that_could_not_be_renewed_is_told_to_have_ended(own: ExchangeServer, trader: Trader) -> None:
    with leased(own, trader) as socket:
        with faults.paused([own.pid("api")]):
            until_canceled(own, trader)
        told = socket.next("lease")
        later = trader.place("pikachu", "buy", "1.00")
        socket.next("heartbeat")

    assert (told["ended"], told["grace_seconds"]) == ("expired", 0)
    assert trader.http.get(f"/orders/{later['order_id']}").json()["status"] == "open"


def test_a_restart_of_the_api_leaves_clients_the_time_to_come_back(own: ExchangeServer, trader: Trader) -> None:
    socket = leased(own, trader)
    with faults.without(own, "api"):
        found, code = socket.until_closed()
        deadline: Any = own.redis.zscore(keys.key("pikachu", "deadlines"), f"{trader.trader_id} lease")
        assert deadline is not None
        seconds_left = float(deadline) / 1_000 - time.time()
    with leased(own, trader) as again:
        again.next("heartbeat")
        before = cancels(own, trader)

    assert (code, found[-1]["code"]) == (1012, "restarting")
    assert seconds_left > GRACE + found[-1]["reconnect_after_ms"] / 1_000
    assert before == {}


def test_a_restart_of_redis_cancels_nothing_of_a_stream_that_lives_on(own: ExchangeServer, trader: Trader) -> None:
    with leased(own, trader) as socket:
        with faults.without_redis(own):
            time.sleep(GRACE + 1)
        for _ in range(GRACE + 3):
            socket.next("heartbeat")
        before, lease = cancels(own, trader), lease_of(trader)
        break_off(socket)
        until_canceled(own, trader)

    assert before == {}
    assert lease["grace_seconds"] == GRACE
    assert cancels(own, trader) == ONCE


def test_a_lease_needs_a_token_and_a_grace_within_bounds(own: ExchangeServer, trader: Trader) -> None:
    with Socket(own) as nobody, Socket(own, trader_id=trader.trader_id) as socket:
        nobody.say(op="lease", grace_seconds=5, id=1)
        missing = nobody.next("error")
        errors = []
        for grace in (1, 301, -5, None):
            socket.say(op="lease", **({} if grace is None else {"grace_seconds": grace}), id=grace)
            errors.append(socket.next("error"))
        nobody.say(op="auth", token=own.bearer(trader.trader_id)["authorization"].removeprefix("Bearer "))
        authenticated = nobody.next("authenticated")

    assert (missing["code"], missing["id"]) == ("token_missing", 1)
    assert {error["code"] for error in errors} == {"invalid_grace_seconds"}
    assert "must be 2 to 300, or 0 to give up the lease, got 301" in errors[1]["detail"]
    assert authenticated["lease"] is None
    assert lease_of(trader) is None


def test_hello_over_sse_shows_the_lease_of_the_trader(own: ExchangeServer, trader: Trader) -> None:
    with leased(own, trader), EventStream(own.url, "orders", headers=own.bearer(trader.trader_id)) as stream:
        hello = stream.next("hello").data
    with EventStream(own.url, "ticker") as stream:
        nobodys = stream.next("hello").data

    assert hello["lease"]["grace_seconds"] == GRACE
    assert nobodys["lease"] is None
