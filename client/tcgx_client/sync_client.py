"""The client that blocks. `AsyncTcgx` has the same methods; both run the same calls."""

import ssl
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Generic, Literal, Self, TypeVar

import httpx2

from tcgx_client import calls
from tcgx_client.book import BookView
from tcgx_client.calls import Interval
from tcgx_client.configuration import Named, options_of, sync_transport
from tcgx_client.drivers import SyncDriver
from tcgx_client.events import Event
from tcgx_client.live import LiveBookCore, first
from tcgx_client.models import (
    Book,
    CancelAfter,
    Candle,
    Card,
    Fill,
    Level,
    NewOrder,
    Order,
    Rejected,
    Side,
    Ticker,
    TimeInForce,
    Trade,
)
from tcgx_client.pages import PageSource
from tcgx_client.prices import Price
from tcgx_client.session import Session
from tcgx_client.streaming import Settings, StreamCore, Transport, channel_names

T = TypeVar("T")
LIVE_SECONDS = 10.0


class Pages(Iterator[T], Generic[T]):
    """The items of a list, newest first. The next page is asked for when it is needed."""

    def __init__(self, driver: SyncDriver, source: PageSource[T]) -> None:
        self._driver = driver
        self._source = source
        self._items: Iterator[T] = iter(())

    def page(self) -> list[T]:
        """The rest of the current page, else the next page; empty at the end."""
        return list(self._items) or self._driver.run(self._source.next_page())

    def __next__(self) -> T:
        for item in self._items:
            return item
        self._items = iter(self._driver.run(self._source.next_page()))
        return next(self._items)


class Stream(Iterator[Event]):
    """The events of a stream, which comes back by itself. `with` connects; nothing is read between two calls."""

    def __init__(self, driver: SyncDriver, core: StreamCore) -> None:
        self._driver = driver
        self._core = core

    @property
    def positions(self) -> dict[str, int]:
        """The last command of each card that was received: `after` of a stream that goes on from here."""
        return self._core.positions

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection that the exchange has greeted on."""
        return self._core.is_connected

    def next(self, timeout: float | None = None) -> Event | None:
        """The next event; None if none came within `timeout` seconds, or once the stream is closed.

        Raises:
            Closed: the exchange ended the stream, and another connection would meet the same.
            ApiError: the exchange refused the stream.
        """
        return self._driver.run(self._core.next(timeout))

    def close(self) -> None:
        """Ends the stream."""
        self._driver.run(self._core.close())

    def __next__(self) -> Event:
        event = self.next()
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        self._driver.run(self._core.begin())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LiveBook(Iterator[BookView]):
    """A book that is kept by a stream. Entering it waits until it is live; `poll` and `next` take what has come.

    Reading a book that is not live raises `Stale`, unless it was made with `allow_stale=True`.
    """

    def __init__(self, driver: SyncDriver, core: LiveBookCore) -> None:
        self._driver = driver
        self._core = core

    @property
    def card(self) -> str:
        """The card."""
        return self._core.state.card

    @property
    def sequence(self) -> int:
        """The last command that the book contains."""
        return self._core.state.sequence

    @property
    def is_live(self) -> bool:
        """Whether the levels are those of the exchange, as far as the client can know."""
        return self._core.is_live

    @property
    def age(self) -> float:
        """The seconds since anything came from the exchange."""
        return self._core.age

    @property
    def best_bid(self) -> Level | None:
        """The highest price that somebody buys at, with its quantity."""
        return self.view().best_bid

    @property
    def best_ask(self) -> Level | None:
        """The lowest price that somebody sells at, with its quantity."""
        return self.view().best_ask

    def bids(self, count: int | None = None) -> tuple[Level, ...]:
        """The best levels that buy, highest price first."""
        return first(self.view().bids, count)

    def asks(self, count: int | None = None) -> tuple[Level, ...]:
        """The best levels that sell, lowest price first."""
        return first(self.view().asks, count)

    def view(self) -> BookView:
        """The book as it is now; it never changes.

        Raises:
            Stale: the book is not live.
        """
        return self._core.view()

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Takes what has come. Waits up to `timeout` seconds for a change, and returns whether there was one."""
        return self._driver.run(self._core.poll(timeout))

    def next(self, timeout: float | None = None) -> BookView | None:
        """The book after its next change, also after one that makes it stale; None if there was none in time."""
        return self._driver.run(self._core.next_view(timeout))

    def wait_for(self, sequence: int, timeout: float = LIVE_SECONDS) -> BookView:
        """Waits until the book is live and contains a command.

        Raises:
            Timeout: it did not in time.
        """
        return self._driver.run(self._core.wait_for(sequence, timeout))

    def close(self) -> None:
        """Ends the stream."""
        self._driver.run(self._core.close())

    def __next__(self) -> BookView:
        view = self.next()
        if view is None:
            raise StopIteration
        return view

    def __enter__(self) -> Self:
        try:
            self._driver.run(self._core.wait_live(LIVE_SECONDS))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Tcgx:
    """A client of the exchange. It may be used by several threads, but each stream and book by one at a time."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        trader_id: int | None = None,
        api_key: str | None = None,
        token: str | None = None,
        timeout: float = 5.0,
        max_retries: int = 3,
        deadline: float | None = None,
        verify: ssl.SSLContext | bool = True,
        transport: httpx2.BaseTransport | Named = "http",
        grpc_target: str | None = None,
    ) -> None:
        """`timeout` is for each try; `deadline` for a call with all of its tries. See `options_of` for defaults.

        With `transport="grpc"` what the contract of gRPC has goes to `grpc_target` (by default port 50051 of the host
        of `base_url`), and the rest to `base_url`. It needs `tcgx-client[grpc]`.
        """
        options = options_of(
            base_url,
            trader_id=trader_id,
            api_key=api_key,
            token=token,
            timeout=timeout,
            max_retries=max_retries,
            deadline=deadline,
        )
        self._session = Session(options)
        chosen = sync_transport(transport, grpc_target, self._session, verify)
        self._driver = SyncDriver(self._session.origin, verify=verify, transport=chosen, owner=self)

    # -- markets

    def cards(self) -> list[Card]:
        """Every card, with its best prices and the bounds of its orders."""
        return self._driver.run(calls.cards(self._session))

    def book(self, card: str, *, depth: int = 20) -> Book:
        """The best price levels of a card."""
        return self._driver.run(calls.book(self._session, card, depth))

    def trades(self, card: str, *, limit: int = 50) -> list[Trade]:
        """The latest trades of a card, newest first."""
        return self._driver.run(calls.trades(self._session, card, limit))

    def ticker(self, card: str) -> Ticker:
        """Prices of a card now and of the last 24 hours."""
        return self._driver.run(calls.ticker(self._session, card))

    def candles(
        self,
        card: str,
        interval: Interval,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        fill: Literal["none", "previous"] = "none",
    ) -> Pages[Candle]:
        """The candles that begin from `start` on and before `end`, oldest first; without `start` the latest ones."""
        source = calls.candle_pages(self._session, card, interval=interval, start=start, end=end, fill=fill)
        return Pages(self._driver, source)

    # -- orders

    def place(
        self,
        card: str,
        side: Side,
        price: Price,
        quantity: int = 1,
        *,
        time_in_force: TimeInForce = "gtc",
        post_only: bool = False,
        client_order_id: str | None = None,
        wait: float | None = None,
    ) -> Order:
        """Places an order; with `wait` it is answered after its match, or after so many seconds.

        Raises:
            OutcomeUnknown: no try was answered; `resolve` tells whether the order was placed.
        """
        call = calls.place(
            self._session,
            card,
            side,
            price,
            quantity,
            time_in_force=time_in_force,
            post_only=post_only,
            client_order_id=client_order_id,
            wait=wait,
        )
        return self._driver.run(call)

    def place_many(self, orders: Sequence[NewOrder]) -> list[Order | Rejected]:
        """Places any number of orders, 1,000 a request. The result has an outcome for each, in order."""
        return self._driver.run(calls.place_many(self._session, orders))

    def replace(
        self,
        order_id: str,
        *,
        price: Price | None = None,
        quantity: int | None = None,
        post_only: bool | None = None,
        client_order_id: str | None = None,
        wait: float | None = None,
    ) -> Order:
        """Replaces an order in one step. `quantity` is the new total, with what is filled.

        Less at the same price keeps id and place in the queue. Anything else is a new order, which is returned.

        Raises:
            Conflict: the order is completed already.
            OutcomeUnknown: no try was answered. Call it again with its `client_order_id`: it is replaced once.
        """
        call = calls.replace(
            self._session,
            order_id,
            price=price,
            quantity=quantity,
            post_only=post_only,
            client_order_id=client_order_id,
            wait=wait,
        )
        return self._driver.run(call)

    def cancel(self, order_id: str, *, wait: float | None = None) -> Order:
        """Cancels an order.

        Raises:
            Conflict: the order is completed already.
            OutcomeUnknown: no try was answered.
        """
        return self._driver.run(calls.cancel(self._session, order_id, wait))

    def cancel_all(self, card: str | None = None, *, wait: float | None = None) -> list[Order]:
        """Cancels all open orders, of one card or of all; returns those that were open."""
        return self._driver.run(calls.cancel_all(self._session, card, wait))

    def cancel_after(self, seconds: float | None) -> CancelAfter:
        """Has all open orders canceled unless it is called again within so many seconds; None turns that off."""
        return self._driver.run(calls.cancel_after(self._session, seconds))

    def order(self, order_id: str) -> Order:
        """An order with its fills."""
        return self._driver.run(calls.order(self._session, order_id))

    def order_by_client_id(self, client_order_id: str) -> Order:
        """The latest order with this id of yours, with its fills."""
        return self._driver.run(calls.order_by_client_id(self._session, client_order_id))

    def resolve(
        self, client_order_id: str | None = None, *, order_id: str | None = None, timeout: float = 60.0
    ) -> Order | None:
        """Asks for an order until the answer is certain; None where the exchange has not got it.

        Raises:
            Timeout: the exchange did not answer for `timeout` seconds.
        """
        return self._driver.run(calls.resolve(self._session, client_order_id, order_id, timeout))

    def orders(
        self, *, status: Literal["open"] | None = None, card: str | None = None, side: Side | None = None
    ) -> Pages[Order]:
        """Your orders, newest first; with `status="open"` those that rest in a book."""
        return Pages(self._driver, calls.order_pages(self._session, status=status, card=card, side=side))

    def fills(self, *, card: str | None = None, order_id: str | None = None) -> Pages[Fill]:
        """Your fills, newest first."""
        return Pages(self._driver, calls.fill_pages(self._session, card=card, order_id=order_id))

    def history_orders(
        self,
        *,
        card: str | None = None,
        status: str | None = None,
        side: Side | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: str | None = None,
    ) -> Pages[Order]:
        """Your completed orders in the archive, newest first; `since` and `until` are times of acceptance.

        `after`: an order_id; those that are newer, oldest first.
        """
        source = calls.history_order_pages(
            self._session, card=card, status=status, side=side, since=since, until=until, after=after
        )
        return Pages(self._driver, source)

    def history_trades(
        self,
        card: str,
        *,
        side: Side | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: str | None = None,
    ) -> Pages[Trade]:
        """All trades of a card in the archive, newest first. `side` is that of the taker.

        `after`: a trade_id; those that are newer, oldest first.
        """
        source = calls.history_trade_pages(self._session, card=card, side=side, since=since, until=until, after=after)
        return Pages(self._driver, source)

    def export_csv(
        self,
        what: Literal["orders", "trades"],
        to: Path | IO[bytes],
        *,
        card: str | None = None,
        status: str | None = None,
        side: Side | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> int:
        """Writes your completed orders, or the trades of a card, to a CSV file, oldest first; returns how many.

        A file that is named by its path appears once it is whole.
        """
        filters = {"card": card, "status": status, "side": side, "since": since, "until": until}
        return self._driver.run(calls.export_csv(self._session, what, to, **filters))

    # -- streams

    def stream(
        self,
        *channels: str,
        after: Mapping[str, int] | None = None,
        interval: int | None = None,
        transport: Transport = "sse",
        lease: int | None = None,
        cancel_on_close: bool = False,
    ) -> Stream:
        """A stream of channels such as `book:pikachu`, `trades:pikachu` and `orders`.

        `after`: the `positions` of an earlier stream. `interval`: milliseconds between two deliveries. `lease`, over a
        WebSocket: all open orders are canceled if the connection is lost and is not back within so many seconds; with
        `cancel_on_close` also when the stream is closed.
        """
        settings = Settings(
            channels=channel_names(channels),
            transport=transport,
            after=after or {},
            interval=interval,
            lease=lease,
            cancel_on_close=cancel_on_close,
        )
        return Stream(self._driver, StreamCore(self._session, settings))

    def live_book(
        self,
        card: str,
        *,
        allow_stale: bool = False,
        interval: int | None = None,
        transport: Transport = "sse",
    ) -> LiveBook:
        """The book of a card, kept by a stream."""
        core = LiveBookCore(self._session, card, allow_stale=allow_stale, transport=transport, interval=interval)
        return LiveBook(self._driver, core)

    # -- life

    def close(self) -> None:
        """Closes the connections."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
