"""What streams promise when things go wrong: cuts, restarts, slow readers, missing events. docs/streams.md has a table
of the tests and of the reports that they answer."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.model import PlaceOrder, Side
from engine import keys
from testing import faults
from testing.clients.stream import EventStream, LocalBook
from testing.exchange import ExchangeServer, exchange_server
from testing.market import Market
from testing.stream_storm import Follower, Load, RestReader, compare, finish_all
from testing.waiting import until
from tests.streams.conftest import Socket

pytestmark = pytest.mark.server

CARD = "pikachu"
STORM_COMMANDS, STORM_CLIENTS = 3_000, 5
PAUSE_SECONDS = 0.05  # after a batch, so that the storm lasts and its books are read meanwhile
MANY = {"stream_address_max": 0, "log_retention": 1_000_000_000}


@pytest.fixture(scope="module")
def own() -> Iterator[ExchangeServer]:
    """An exchange whose parts the tests restart."""
    with exchange_server(stream_slow_seconds=1, stream_heartbeat_seconds=1, **MANY) as server:
        yield server


def rss_bytes(pid: int) -> int:
    """The resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def matched(server: ExchangeServer, card: str = CARD) -> int:
    """The last matched command."""
    return int(server.redis.hget(keys.key(card, "cursor"), "sequence") or 0)


def settled(server: ExchangeServer, card: str = CARD) -> int:
    """The last command, once it is matched."""
    last = server.sequences()[card]
    until(lambda: matched(server, card) >= last, "matching")
    return last


def test_books_and_trades_are_exact_through_cuts_and_restarts_of_api_and_redis(own: ExchangeServer) -> None:
    followers = [Follower(own.url, CARD, f"storm-{number}") for number in range(STORM_CLIENTS - 2)]
    load = Load(own.url, CARD, [own.bearer(number) for number in (1, 2, 3)], seed=11)
    rest = RestReader(own.url, CARD)
    try:
        for number, fault in enumerate((faults.without(own, "api"), faults.without_redis(own))):
            load.send(STORM_COMMANDS // 6, pause=PAUSE_SECONDS)
            followers.append(Follower(own.url, CARD, f"late-{number}", start=matched(own)))
            load.send(STORM_COMMANDS // 6, pause=PAUSE_SECONDS)
            with fault:
                pass
        load.send(STORM_COMMANDS // 3, pause=PAUSE_SECONDS)
        last = settled(own)
    finally:
        load.close()
        finish_all(followers, matched(own))
        rest.finish()

    trades, compared = compare(own.redis, CARD, followers, [rest])
    assert len(rest.books) > 10
    assert last >= STORM_COMMANDS
    assert trades > 500
    assert compared > 60
    assert sum(follower.reconnects for follower in followers) >= STORM_CLIENTS


def test_a_killed_api_gives_every_trade_once_to_those_who_come_back(own: ExchangeServer) -> None:
    """The kill is in the middle of the flow. What was read of an unfinished delivery comes again, with its numbers."""
    start = matched(own)
    followers = [Follower(own.url, CARD, f"killed-{number}", start=start) for number in range(3)]
    load = Load(own.url, CARD, [own.bearer(number) for number in (1, 2, 3)], seed=12)
    flow = threading.Thread(target=load.send, args=[STORM_COMMANDS], kwargs={"batch": 20})
    flow.start()
    try:
        until(lambda: matched(own) > start + STORM_COMMANDS // 4, "orders do not flow")
        own.kill_service("api")
        own.start_service("api")
        flow.join()
        settled(own)
    finally:
        flow.join()
        load.close()
        finish_all(followers, matched(own))

    trades, _ = compare(own.redis, CARD, followers)
    assert trades > 500
    assert sum(follower.reconnects for follower in followers) >= len(followers)


def test_a_book_after_a_cut_has_no_levels_of_before(own: ExchangeServer) -> None:
    trader = own.trader()
    gone = trader.place("bulbasaur", "buy", "5.50", quantity=3)
    with EventStream(own.url, "book:bulbasaur") as stream:
        assert stream.next("book").data["bids"] == [["5.50", 3]]
    trader.http.delete(f"/orders/{gone['order_id']}", headers={"prefer": "wait=10"})
    trader.place("bulbasaur", "buy", "5.40")

    with EventStream(own.url, "book:bulbasaur") as stream:
        again = stream.next("book").data

    assert (again["type"], again["bids"]) == ("snapshot", [["5.40", 1]])
    rest = own.http.get("/cards/bulbasaur/book").json()
    assert (rest["sequence"], rest["bids"]) == (again["sequence"], again["bids"])


def test_300_levels_that_go_one_by_one_leave_the_others_exact(own: ExchangeServer) -> None:
    trader = own.trader()
    prices = [f"{cents // 100}.{cents % 100:02d}" for cents in range(600, 900)]
    orders = [{"card": "squirtle", "side": "sell", "price": price, "quantity": 1} for price in prices]
    assert trader.http.post("/orders/batch", json={"orders": orders}).status_code == 202
    settled(own, "squirtle")
    book = LocalBook()
    with EventStream(own.url, "book:squirtle", interval=0) as stream:
        book.apply(stream.next("book").data)
        taker = own.trader()
        for price in prices[:250]:
            taker.submit("squirtle", "buy", price)
        last = settled(own, "squirtle")
        while book.sequence < last:
            assert book.apply(stream.next("book").data)
            assert not book.is_crossed

    assert book.levels("asks") == [[price, 1] for price in prices[250:]]
    assert book.snapshots == 1


def test_a_taker_through_three_levels_never_shows_a_crossed_book(own: ExchangeServer) -> None:
    maker, taker = own.trader(), own.trader()
    book = LocalBook()
    with EventStream(own.url, "book:charmander", interval=0) as stream:
        book.apply(stream.next("book").data)
        for price in ("5.50", "5.60", "5.70"):
            maker.place("charmander", "sell", price, quantity=3)
        taker.place("charmander", "buy", "5.80", quantity=10)
        last = settled(own, "charmander")
        while book.sequence < last:
            assert book.apply(stream.next("book").data)
            assert not book.is_crossed

    assert (book.levels("bids"), book.levels("asks")) == ([["5.80", 1]], [])


def test_a_reader_that_sleeps_gets_one_update_and_every_trade(own: ExchangeServer) -> None:
    book = LocalBook()
    numbers: list[int] = []
    load = Load(own.url, CARD, [own.bearer(4)], seed=12)
    with EventStream(own.url, f"book:{CARD},trades:{CARD}", interval=1_000) as stream:
        book.apply(stream.next("book").data)
        first = book.sequence
        load.send(2_000, batch=500)
        load.close()
        last = settled(own)
        updates = 0
        while book.sequence < last:
            event = stream.next("book", "trades", "gap")
            assert event.event != "gap"
            if event.event == "trades":
                numbers += [int(trade["trade_id"].rpartition("-t")[2]) for trade in event.data["trades"]]
            else:
                assert book.apply(event.data)
                updates += 1

    assert last - first >= 2_000
    assert updates <= 6
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    rest = own.http.get(f"/cards/{CARD}/book", params={"depth": 1_000}).json()
    assert (book.levels("bids"), book.levels("asks")) == (rest["bids"], rest["asks"])


def test_sockets_that_never_read_cost_little_and_are_closed_as_too_slow(own: ExchangeServer) -> None:
    before = rss_bytes(own.pid("api"))
    host, port = own.url.removeprefix("http://").split(":")
    silent = []
    for _ in range(100):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect((host, int(port)))
        target = f"/stream?channels=book:{CARD},trades:{CARD}&after={CARD}.0&interval=0"
        connection.sendall(f"GET {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        silent.append(connection)
    load = Load(own.url, CARD, [own.bearer(5)], seed=13)
    load.send(6_000, batch=1_000)
    load.close()
    grown = rss_bytes(own.pid("api")) - before
    _wait_until_slow(own)
    for connection in silent:
        connection.settimeout(5)
    texts = [_read_to_end(connection) for connection in silent]
    for connection in silent:
        connection.close()

    assert grown < 50_000_000, f"{grown:,} bytes"
    assert sum(b'"code":"too_slow"' in text for text in texts) == len(silent)


def _wait_until_slow(server: ExchangeServer) -> None:
    """Waits for longer than a stream may be slow, by the heartbeats of another stream that is served meanwhile."""
    with EventStream(server.url, f"book:{CARD}") as stream:
        assert stream.next("book").data["type"] == "snapshot"
        for _ in range(4):
            stream.next("heartbeat")


def _read_to_end(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def test_a_websocket_that_never_reads_is_closed_with_4410(own: ExchangeServer) -> None:
    with Socket(own, is_small=True) as slow:
        slow.say(op="subscribe", channels=[f"trades:{CARD}"], after={CARD: 0}, interval=0)
        load = Load(own.url, CARD, [own.bearer(6)], seed=14)
        load.send(8_000, batch=1_000)
        load.close()
        _wait_until_slow(own)
        found, code = slow.until_closed()

    assert code == 4410, found[-1:]


def test_a_position_before_the_events_of_redis_gets_a_gap_with_its_range() -> None:
    with exchange_server(event_retention=1, **MANY) as server:
        load = Load(server.url, CARD, [server.bearer(1)], seed=15)
        load.send(4_000, batch=500)
        load.close()
        settled(server)
        server.archived()
        # Events are trimmed in steps; a stream goes back as far as they are kept, even while there are older ones.
        until(lambda: server.redis.xlen(keys.key(CARD, "events")) == 1, "trimming")
        oldest = _oldest(server)
        with EventStream(server.url, f"trades:{CARD}", after=f"{CARD}.0") as stream:
            gap = stream.next("gap").data

    expected = {"type": "gap", "channel": "trades", "card": CARD, "after": 0, "before": oldest}
    assert oldest > 1
    assert gap.items() >= expected.items()


def _oldest(server: ExchangeServer) -> int:
    entries: Any = server.redis.xrange(keys.key(CARD, "events"), count=1)
    return int(entries[0][1][b"first"])


def test_an_event_that_is_lost_is_told_as_a_gap(own: ExchangeServer) -> None:
    market = Market(own.redis, "bulbasaur")
    with EventStream(own.url, "trades:bulbasaur") as stream:
        stream.next("hello")
        with faults.paused([own.pid("api")]):
            sequences = [_append(market, cents) for cents in (201, 202, 203)]
            own.redis.xdel(market.key("events"), market.events()[-2][0])
        end = stream.next("bye").data
    position = f"bulbasaur.{sequences[0] - 1}"
    with EventStream(own.url, "trades:bulbasaur", after=position) as again:
        gap = again.next("gap").data

    assert end["code"] == "restarting"
    assert gap.items() >= {"after": sequences[0], "before": sequences[2], "channel": "trades"}.items()


def _append(market: Market, cents: int) -> int:
    """Appends an order past the API, and waits for its match."""
    order = PlaceOrder(trader_id=1, card=market.card, side=Side.BUY, price_cents=cents)
    sequence = market.append([order]).first
    until(lambda: int(market.redis.hget(market.key("cursor"), "sequence") or 0) >= sequence)
    return sequence


def test_a_position_ahead_of_the_log_is_reset(own: ExchangeServer) -> None:
    with EventStream(own.url, f"trades:{CARD}", after=f"{CARD}.999999999") as stream:
        reset = stream.next("reset").data

    assert reset == {"type": "reset", "card": CARD, "position": matched(own)}


def test_streams_are_told_of_a_restart_and_the_server_ends_in_time() -> None:
    with exchange_server(**MANY) as server:
        streams = [EventStream(server.url, f"book:{CARD}") for _ in range(200)]
        sockets = [Socket(server) for _ in range(5)]
        for stream in streams:
            stream.next("book")
        began = time.monotonic()
        assert server.stop_service("api") == 0
        seconds = time.monotonic() - began
        byes = [stream.next("bye").data for stream in streams]
        codes = [each.until_closed()[1] for each in sockets]
        for stream in streams:
            stream.close()
        for each in sockets:
            each.close()

    assert seconds < 3
    assert {bye["code"] for bye in byes} == {"restarting"}
    assert len({bye["reconnect_after_ms"] for bye in byes}) > 20
    assert all(0 <= bye["reconnect_after_ms"] < 5_000 for bye in byes)
    assert codes == [1012] * 5


def _opened(server: ExchangeServer, channels: str) -> EventStream:
    """A stream, as soon as the API has found Redis again."""

    def open_stream() -> EventStream | None:
        stream = EventStream(server.url, channels)
        if stream.status == 200:
            return stream
        stream.close()
        return None

    return until(open_stream, "streams are available again")


def test_streams_end_as_unavailable_while_redis_is_away(own: ExchangeServer) -> None:
    with EventStream(own.url, f"book:{CARD}") as stream:
        stream.next("book")
        with faults.without_redis(own):
            end = stream.next("bye").data
            refused = httpx.get(f"{own.url}/stream", params={"channels": f"book:{CARD}"}, timeout=20)
    with _opened(own, f"book:{CARD}") as stream:
        again = stream.next("book").data

    assert end["code"] == "unavailable"
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert again["sequence"] == matched(own)
