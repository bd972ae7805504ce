"""Streams and local books of the client on a real exchange, over both transports and connections that break."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from redis import Redis
from tcgx_client import (
    ApiError,
    AsyncTcgx,
    BookView,
    Connected,
    Disconnected,
    Gap,
    Order,
    OrderEvent,
    OrdersSnapshot,
    Tcgx,
    TickerEvent,
    Trades,
)

from core.model import Order as LoggedOrder
from core.model import price_text
from engine import codec, keys
from testing.cutting_relay import CuttingRelay, cutting_relay
from testing.exchange import ExchangeServer
from testing.oracle.reference_book import ReferenceBook
from testing.stream_storm import Load

pytestmark = pytest.mark.server

CARD = "squirtle"
STORM_COMMANDS = 2_400
PATIENCE_SECONDS = 30.0
BATCH_PAUSE_SECONDS = 0.06
"""Makes the run long enough for several cuts and returns."""

MakeClient = Callable[..., Any]
both_transports = pytest.mark.parametrize("transport", ["sse", "ws"])


class Never:
    """What no stream gives."""


def until_event(stream: Any, *kinds: type) -> Any:
    """The next event of one of these kinds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        event = stream.next(PATIENCE_SECONDS)
        if isinstance(event, kinds):
            return event
    raise AssertionError(f"no {kinds} came")


@both_transports
def test_own_orders_and_trades_are_told_as_they_happen(make_client: MakeClient, trader_id: int, transport: str) -> None:
    maker, taker = make_client(trader_id), make_client(1)
    resting = maker.place(CARD, "sell", "5.60", 3, wait=5)
    with maker.stream("orders", f"trades:{CARD}", transport=transport) as stream:
        snapshot = until_event(stream, OrdersSnapshot)
        taken = taker.place(CARD, "buy", "5.60", 3, wait=5)
        filled = until_event(stream, OrderEvent)
        traded = until_event(stream, Trades)

    assert [order.order_id for order in snapshot.orders] == [resting.order_id]
    assert (filled.event, filled.order.order_id, filled.order.status) == ("fill", resting.order_id, "filled")
    assert (filled.fill.trade_id, filled.fill.role) == (taken.trades[0].trade_id, "maker")
    assert [trade.trade_id for trade in traded.trades] == [taken.trades[0].trade_id]
    assert traded.trades[0].price == Decimal("5.60")


@both_transports
def test_a_stream_from_the_positions_of_another_one_has_what_came_in_between(
    make_client: MakeClient, trader_id: int, transport: str
) -> None:
    client = make_client(trader_id)
    with client.stream("orders", f"trades:{CARD}", transport=transport) as stream:
        until_event(stream, OrdersSnapshot)
        first = client.place(CARD, "sell", "5.60", wait=5)
        until_event(stream, OrderEvent)
        client.place(CARD, "buy", "5.60", wait=5)
        until_event(stream, Trades)
        positions = stream.positions
    missed = client.place(CARD, "sell", "5.70", wait=5)
    with client.stream("orders", f"trades:{CARD}", after=positions, transport=transport) as stream:
        connected = until_event(stream, Connected)
        event = until_event(stream, OrderEvent)

    assert connected.resumed is True
    assert positions[CARD] > int(first.order_id.rpartition("-")[2])
    assert (event.event, event.order.order_id) == ("open", missed.order_id)


@both_transports
def test_a_stream_is_refused_with_the_problem_of_the_exchange(make_client: MakeClient, transport: str) -> None:
    with make_client(0).stream("book:missingno", transport=transport) as unknown, pytest.raises(ApiError) as refused:
        until_event(unknown, Never)
    with make_client(0).stream("orders", transport=transport) as own, pytest.raises(ApiError) as nobody:
        until_event(own, Never)

    assert (refused.value.code, nobody.value.code) == ("invalid_channels", "token_missing")


def test_prices_of_a_day_come_too(client: Any) -> None:
    with client.stream(f"ticker:{CARD}") as stream:
        ticker = until_event(stream, TickerEvent)

    assert ticker.card == CARD


def test_a_poll_returns_in_time_and_the_stream_goes_on(client: Any) -> None:
    with client.stream(f"trades:{CARD}") as stream:
        until_event(stream, Connected)
        while stream.next(0.05) is not None:
            pass
        assert stream.next(0.05) is None
        client.place(CARD, "sell", "5.60", wait=5)
        client.place(CARD, "buy", "5.60", wait=5)
        assert until_event(stream, Trades).trades[0].quantity == 1
        stream.close()
        assert stream.next(1) is None
        assert list(stream) == []


@both_transports
def test_a_live_book_is_the_book_of_the_exchange(client: Any, transport: str) -> None:
    client.place(CARD, "buy", "5.50", 3, wait=5)
    with client.live_book(CARD, transport=transport) as book:
        assert book.best_bid == (Decimal("5.50"), 3)
        placed = client.place(CARD, "sell", "5.60", 4, wait=5)
        view = book.wait_for(int(placed.order_id.rpartition("-")[2]))
        before = book.view()
        client.place(CARD, "buy", "5.60", 1, wait=5)
        assert book.next(PATIENCE_SECONDS).best_ask == (Decimal("5.60"), 3)

        rest = client.book(CARD)
        assert (book.sequence, book.bids(), book.asks(1)) == (rest.sequence, rest.bids, rest.asks[:1])
        assert (before.best_ask, view.best_ask) == ((Decimal("5.60"), 4), (Decimal("5.60"), 4))
        assert (book.is_live, book.card) == (True, CARD)
        assert book.age < PATIENCE_SECONDS


# -- connections that break


class Follower:
    """Follows a card through the relay, in a thread of its own, until it is at a sequence."""

    def __init__(self, relay: CuttingRelay, key: str, trader_id: int, transport: Any) -> None:
        self.views: dict[int, BookView] = {}
        self.numbers: list[int] = []
        self.orders: dict[str, Order] = {}
        self.cuts = 0
        self.goal: int | None = None
        self.reached = 0
        self.error: BaseException | None = None
        self.options: dict[str, Any] = {
            "base_url": f"http://127.0.0.1:{relay.port}",
            "trader_id": trader_id,
            "api_key": key,
        }
        self.transport = transport
        self.subscribed = threading.Event()
        self._threads = [threading.Thread(target=self._guard, args=[work]) for work in (self._book, self._events)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        assert self.subscribed.wait(PATIENCE_SECONDS)

    def finish(self, sequence: int) -> None:
        self.goal = sequence
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive(), f"stands at {self.reached} and {max(self.views)}, not at {sequence}"
        if self.error is not None:
            raise self.error

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised by `finish`
            self.error = error

    def _is_done(self, reached: int) -> bool:
        return self.error is not None or (self.goal is not None and reached >= self.goal)

    def _book(self) -> None:
        raise NotImplementedError

    def _events(self) -> None:
        raise NotImplementedError

    def take(self, event: Any) -> None:
        """Takes an event of the stream."""
        assert not isinstance(event, Gap)
        self.cuts += isinstance(event, Disconnected)
        if isinstance(event, OrdersSnapshot):
            self.subscribed.set()
        elif isinstance(event, Trades):
            self.reached = event.sequence
            self.numbers += [trade.number for trade in event.trades]
        elif isinstance(event, OrderEvent):
            before = self.orders.get(event.order.order_id)
            assert before is None or before.filled_quantity <= event.order.filled_quantity
            self.orders[event.order.order_id] = event.order

    def note(self, view: BookView | None) -> None:
        """Notes a book that is live."""
        if view is not None and view.is_live:
            known = self.views.setdefault(view.sequence, view)
            assert known == view, f"two books at {view.sequence}"


class SyncFollower(Follower):
    """With the client that blocks."""

    def _book(self) -> None:
        with Tcgx(**self.options) as client, client.live_book(CARD, interval=0, transport=self.transport) as book:
            while not self._is_done(book.sequence):
                self.note(book.next(0.2))

    def _events(self) -> None:
        channels = ("orders", f"trades:{CARD}")
        with Tcgx(**self.options) as client, client.stream(*channels, interval=0, transport=self.transport) as stream:
            while not self._is_done(stream.positions.get(CARD, 0)):
                self.take(stream.next(0.2))


class AsyncFollower(Follower):
    """With the client for asyncio."""

    def _book(self) -> None:
        async def follow() -> None:
            async with (
                AsyncTcgx(**self.options) as client,
                client.live_book(CARD, interval=0, transport=self.transport) as book,
            ):
                while not self._is_done(book.sequence):
                    self.note(await book.next(0.2))

        asyncio.run(follow())

    def _events(self) -> None:
        async def follow() -> None:
            channels = ("orders", f"trades:{CARD}")
            async with (
                AsyncTcgx(**self.options) as client,
                client.stream(*channels, interval=0, transport=self.transport) as stream,
            ):
                while not self._is_done(stream.positions.get(CARD, 0)):
                    self.take(await stream.next(0.2))

        asyncio.run(follow())


def commands(redis: Redis) -> Iterator[tuple[int, str, Any]]:
    """The log of the card: sequence, time and command."""
    entries: Any = redis.xrange(keys.key(CARD, "orders"))
    for entry_id, fields in entries:
        first = int(entry_id.partition(b"-")[2])
        for place, command in enumerate(codec.decode(CARD, fields)):
            yield first + place, fields[b"at"].decode(), command


def side(orders: list[LoggedOrder]) -> tuple[tuple[Decimal, int], ...]:
    """The price levels of orders."""
    found: dict[Decimal, int] = {}
    for order in orders:
        price = Decimal(price_text(order.price_cents))
        found[price] = found.get(price, 0) + order.quantity - order.filled_quantity
    return tuple(found.items())


def test_books_trades_and_orders_are_exact_though_every_connection_breaks(
    exchange: ExchangeServer, trader_id: int
) -> None:
    load = Load(exchange.url, CARD, [exchange.bearer(trader_id), exchange.bearer(2_001)], seed=21)
    load.send(100)
    with Tcgx(exchange.url, token=exchange.bearer(trader_id)["authorization"].removeprefix("Bearer ")) as client:
        exchange.archived()
        latest = client.trades(CARD, limit=1)[0].number
        with cutting_relay(exchange.url, seed=5) as relay:
            key = exchange.api_key(trader_id)
            followers = [SyncFollower(relay, key, trader_id, "sse"), AsyncFollower(relay, key, trader_id, "ws")]
            for follower in followers:
                follower.start()
            load.send(STORM_COMMANDS, batch=40, pause=BATCH_PAUSE_SECONDS)
            relay.is_cutting = False
            maker, taker = client.place(CARD, "sell", "1.00", 10_000), client.place(CARD, "buy", "10.00", wait=5)
            end = int(taker.order_id.rpartition("-")[2])
            assert maker.order_id != taker.order_id
            for follower in followers:
                follower.finish(end)
        load.close()
        final = {order.order_id: order for order in client.orders(card=CARD)}

    reference = ReferenceBook(CARD)
    wanted: dict[int, list[BookView]] = {}
    for follower in followers:
        for sequence, view in follower.views.items():
            wanted.setdefault(sequence, []).append(view)
    compared = 0
    for sequence, at, command in commands(exchange.redis):
        reference.apply(sequence, at, command)
        for view in wanted.pop(sequence, ()):
            assert (view.bids, view.asks) == (side(reference.bids()), side(reference.asks())), f"book {sequence}"
            compared += 1
    assert wanted.keys() <= {0}
    numbers = list(range(latest + 1, len(reference.trades) + 1))
    for follower in followers:
        assert follower.numbers == numbers, "trades are missing or double"
        assert follower.cuts >= 1
        told = {name: order for name, order in follower.orders.items() if name in final}
        assert len(told) > 50
        assert {name: (order.status, order.filled_quantity) for name, order in told.items()} == {
            name: (final[name].status, final[name].filled_quantity) for name in told
        }
    assert sum(follower.cuts for follower in followers) >= 4
    assert compared > 60
    assert len(numbers) > 300
