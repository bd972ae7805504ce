"""Every call of the exchange, as a generator of effects. Both clients run these."""

import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal, TypeVar
from urllib.parse import quote

import msgspec

from tcgx_client.effects import Call, Sleep
from tcgx_client.errors import Conflict, NotFound, OutcomeUnknown, Timeout, TransportError, Unavailable
from tcgx_client.models import (
    Book,
    CancelAfter,
    Candle,
    Card,
    Fill,
    NewOrder,
    Order,
    Problem,
    Rejected,
    Side,
    Ticker,
    TimeInForce,
    Trade,
)
from tcgx_client.pages import PageSource
from tcgx_client.prices import Price, price_text
from tcgx_client.session import RETRIED, Answer, Change, Session

T = TypeVar("T")
BATCH_MAX = 1_000
PAGE_MAX = 500
LATEST_MAX = 50
ASK_SECONDS = 0.25
SETTLE_SECONDS = 2.0
"""`resolve` takes an order as not accepted if the exchange has not had it for so long after the last try."""


def new_client_order_id() -> str:
    """An id that no other order has: a UUID of version 7, so ids of later orders sort behind."""
    milliseconds = time.time_ns() // 1_000_000
    chance = secrets.randbits(74)
    number = milliseconds << 80 | 0x7 << 76 | (chance >> 62) << 64 | 0b10 << 62 | chance & (1 << 62) - 1
    return f"c-{number:032x}"


def read(answer: Answer, kind: type[T]) -> T:
    """The body of an answer."""
    return msgspec.json.decode(answer.response.body, type=kind)


class _Cards(msgspec.Struct):
    cards: list[Card]


class _Trades(msgspec.Struct):
    trades: list[Trade]


class _Orders(msgspec.Struct):
    orders: list[Order]


def cards(session: Session) -> Call[list[Card]]:
    """`GET /cards`."""
    answer = yield from session.send("GET", "/cards", is_public=True)
    return read(answer, _Cards).cards


def book(session: Session, card: str, depth: int) -> Call[Book]:
    """`GET /cards/{card}/book`."""
    path = f"/cards/{quote(card, safe='')}/book"
    answer = yield from session.send("GET", path, query={"depth": depth}, is_public=True)
    return read(answer, Book)


def trades(session: Session, card: str, limit: int) -> Call[list[Trade]]:
    """`GET /cards/{card}/trades`."""
    path = f"/cards/{quote(card, safe='')}/trades"
    answer = yield from session.send("GET", path, query={"limit": limit}, is_public=True)
    return read(answer, _Trades).trades


# -- placing


def _order_body(order: NewOrder, client_order_id: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "card": order.card,
        "side": order.side,
        "price": price_text(order.price),
        "quantity": order.quantity,
        "time_in_force": order.time_in_force,
        "client_order_id": client_order_id,
    }
    if order.post_only:  # an exchange of an earlier version does not know the field
        body["post_only"] = True
    return body


def place(
    session: Session,
    card: str,
    side: Side,
    price: Price,
    quantity: int,
    *,
    time_in_force: TimeInForce,
    post_only: bool,
    client_order_id: str | None,
    wait: float | None,
) -> Call[Order]:
    """`POST /orders`."""
    name = client_order_id or new_client_order_id()
    order = NewOrder(
        card=card, side=side, price=price, quantity=quantity, time_in_force=time_in_force, post_only=post_only
    )
    answer = yield from session.send(
        "POST", "/orders", body=_order_body(order, name), wait=wait, change=Change("place", (name,))
    )
    return read(answer, Order)


def place_many(session: Session, orders: Sequence[NewOrder]) -> Call[list[Order | Rejected]]:
    """`POST /orders/batch`, in as many requests as are needed."""
    named = [(name := order.client_order_id or new_client_order_id(), _order_body(order, name)) for order in orders]
    results: list[Order | Rejected] = []
    for start in range(0, len(named), BATCH_MAX):
        try:
            found = yield from _place_batch(session, named[start : start + BATCH_MAX])
        except OutcomeUnknown as error:
            error.results = tuple(results)
            raise
        results += found
    return results


def _place_batch(session: Session, named: Sequence[tuple[str, dict[str, Any]]]) -> Call[list[Order | Rejected]]:
    """Places a batch. Orders that the exchange could not take at the moment are sent again."""
    results: dict[str, Order | Rejected] = {}
    waiting = list(named)
    for retries in range(session.options.max_retries + 1):
        change = Change("place_many", tuple(name for name, _ in waiting))
        body = {"orders": [each for _, each in waiting]}
        answer = yield from session.send("POST", "/orders/batch", body=body, change=change)
        found: list[dict[str, Any]] = msgspec.json.decode(answer.response.body)["results"]
        for (name, _), result in zip(waiting, found, strict=True):
            results[name] = _result(name, result)
        waiting = [(name, each) for name, each in waiting if _may_retry(results[name])]
        if not waiting or retries == session.options.max_retries:
            break
        yield Sleep(_pause_of([results[name] for name, _ in waiting], session, retries))
    return [results[name] for name, _ in named]


def _result(name: str, result: dict[str, Any]) -> Order | Rejected:
    if "error" in result:
        return Rejected(name, msgspec.convert(result["error"], Problem))
    return msgspec.convert(result, Order)


def _may_retry(result: Order | Rejected) -> bool:
    return isinstance(result, Rejected) and result.problem.status in RETRIED and result.code != "card_halted"


def _pause_of(results: Sequence[Order | Rejected], session: Session, retries: int) -> float:
    asked = [each.problem.retry_after or 0.0 for each in results if isinstance(each, Rejected)]
    return max(*asked, 0.0, session.random() * 0.2 * 2.0**retries)


# -- finding


def order(session: Session, order_id: str) -> Call[Order]:
    """`GET /orders/{order_id}`."""
    answer = yield from session.send("GET", f"/orders/{quote(order_id, safe='')}")
    return read(answer, Order)


def order_by_client_id(session: Session, client_order_id: str) -> Call[Order]:
    """`GET /orders/by-client-id/{client_order_id}`."""
    answer = yield from session.send("GET", f"/orders/by-client-id/{quote(client_order_id, safe='')}")
    return read(answer, Order)


def resolve(session: Session, client_order_id: str | None, order_id: str | None, timeout: float) -> Call[Order | None]:
    """Asks for an order until the answer is certain; None where the exchange has not got it."""
    if (client_order_id is None) == (order_id is None):
        raise ValueError("resolve needs a client_order_id or an order_id")
    started = session.clock()
    missing_since: float | None = None
    while True:
        try:
            if client_order_id is not None:
                return (yield from order_by_client_id(session, client_order_id))
            return (yield from order(session, order_id or ""))
        except NotFound:
            missing_since = session.clock() if missing_since is None else missing_since
            if session.clock() - missing_since >= SETTLE_SECONDS:
                return None
        except (TransportError, Unavailable) as error:
            missing_since = None
            if session.clock() - started >= timeout:
                raise Timeout(f"the exchange did not say within {timeout:g} s what became of the order") from error
        yield Sleep(ASK_SECONDS)


def order_pages(session: Session, *, status: str | None, card: str | None, side: Side | None) -> PageSource[Order]:
    """`GET /orders`."""
    limit = PAGE_MAX if status == "open" else LATEST_MAX
    query: dict[str, object] = {"status": status, "card": card, "side": side, "limit": limit}
    return PageSource(session, "/orders", query, items="orders", kind=Order, name_of=_order_name)


def fill_pages(session: Session, *, card: str | None, order_id: str | None) -> PageSource[Fill]:
    """`GET /fills`."""
    query: dict[str, object] = {"card": card, "order_id": order_id, "limit": PAGE_MAX}
    return PageSource(session, "/fills", query, items="fills", kind=Fill, name_of=_trade_name)


def history_order_pages(session: Session, **filters: object) -> PageSource[Order]:
    """`GET /history/orders`; with `after` from there to the newest."""
    query: dict[str, object] = {**_filters(filters), "limit": PAGE_MAX}
    return PageSource(
        session,
        "/history/orders",
        query,
        items="orders",
        kind=Order,
        name_of=_order_name,
        **_direction(filters.get("after") is not None),
    )


def history_trade_pages(session: Session, **filters: object) -> PageSource[Trade]:
    """`GET /history/trades`."""
    query: dict[str, object] = {**_filters(filters), "limit": PAGE_MAX}
    return PageSource(
        session,
        "/history/trades",
        query,
        items="trades",
        kind=Trade,
        name_of=_trade_name,
        is_public=True,
        **_direction(filters.get("after") is not None),
    )


def _direction(is_forward: bool) -> dict[str, Any]:
    return {"cursor": "after", "key": "previous", "is_reversed": True} if is_forward else {}


def _order_name(order: Order) -> str:
    return order.order_id


def _trade_name(trade: Trade) -> str:
    return trade.trade_id


def _filters(filters: dict[str, object]) -> dict[str, object]:
    return {name: time_text(value) if isinstance(value, datetime) else value for name, value in filters.items()}


def time_text(at: datetime) -> str:
    """A time as the API takes it.

    Raises:
        ValueError: the time has no zone, so it may be any of a day.
    """
    if at.tzinfo is None:
        raise ValueError(f"times need a zone, e.g. datetime.now(UTC), got {at!r}")
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -- candles, tickers, exports

Interval = Literal["1m", "5m", "1h", "1d"]


def ticker(session: Session, card: str) -> Call[Ticker]:
    """`GET /cards/{card}/ticker`."""
    answer = yield from session.send("GET", f"/cards/{quote(card, safe='')}/ticker", is_public=True)
    return read(answer, Ticker)


def candle_pages(session: Session, card: str, **filters: object) -> PageSource[Candle]:
    """`GET /cards/{card}/candles`."""
    return PageSource(
        session,
        f"/cards/{quote(card, safe='')}/candles",
        {**_filters(filters), "limit": PAGE_MAX},
        items="candles",
        kind=Candle,
        name_of=lambda candle: time_text(candle.start),
        is_public=True,
        cursor="start",
    )


class CsvSink:
    """A CSV file that is written as it comes. A try that is cut off leaves nothing behind."""

    def __init__(self, to: "Path | IO[bytes]") -> None:
        self.lines = 0
        self._to = to
        self._start = 0 if isinstance(to, Path) else to.tell()
        self._part = to.with_name(to.name + ".part") if isinstance(to, Path) else None
        self._file: IO[bytes] | None = None if isinstance(to, Path) else to

    def begin(self) -> None:
        """Begins anew."""
        self.lines = 0
        if self._part is not None:
            self.close()
            self._file = self._part.open("wb")
        elif self._file is not None and self._file.tell() != self._start:
            self._file.seek(self._start)
            self._file.truncate()

    def write(self, data: bytes) -> None:
        """Writes a part."""
        if self._file is not None:
            self._file.write(data)
            self.lines += data.count(b"\n")

    def close(self) -> None:
        """Closes the file that was opened here."""
        if self._part is not None and self._file is not None:
            self._file.close()

    def finish(self) -> int:
        """Puts the file into its place. Returns how many rows it has, without the header."""
        self.close()
        if self._part is not None and isinstance(self._to, Path):
            self._part.replace(self._to)
        return max(0, self.lines - 1)

    def discard(self) -> None:
        """Removes what a failed export has written beside the file."""
        self.close()
        if self._part is not None:
            self._part.unlink(missing_ok=True)


def export_csv(
    session: Session, what: Literal["orders", "trades"], to: "Path | IO[bytes]", **filters: object
) -> Call[int]:
    """`GET /history/{what}.csv`, into a file."""
    sink = CsvSink(to)
    try:
        yield from session.send(
            "GET", f"/history/{what}.csv", query=_filters(filters), sink=sink, is_public=what == "trades"
        )
    except BaseException:
        sink.discard()
        raise
    return sink.finish()


# -- replacing and canceling


def replace(
    session: Session,
    order_id: str,
    *,
    price: Price | None,
    quantity: int | None,
    post_only: bool | None,
    client_order_id: str | None,
    wait: float | None,
) -> Call[Order]:
    """`PATCH /orders/{order_id}`."""
    name = client_order_id or new_client_order_id()
    asked = {"price": None if price is None else price_text(price), "quantity": quantity, "post_only": post_only}
    body = {field: value for field, value in asked.items() if value is not None} | {"client_order_id": name}
    path = f"/orders/{quote(order_id, safe='')}"
    change = Change("replace", (name,), order_id)
    answer = yield from session.send("PATCH", path, body=body, wait=wait, change=change)
    return read(answer, Order)


def cancel_after(session: Session, seconds: float | None) -> Call[CancelAfter]:
    """`PUT /orders/cancel-after`."""
    answer = yield from session.send("PUT", "/orders/cancel-after", body={"seconds": seconds or 0})
    return read(answer, CancelAfter)


def cancel(session: Session, order_id: str, wait: float | None) -> Call[Order]:
    """`DELETE /orders/{order_id}`. A cancel whose answer was lost is found done, and is no error."""
    path = f"/orders/{quote(order_id, safe='')}"
    try:
        answer = yield from session.send("DELETE", path, wait=wait, change=Change("cancel", order_id=order_id))
    except Conflict as error:
        if error.code != "order_completed" or not error.is_repeat:
            raise
        found = yield from order(session, order_id)
        if found.status != "canceled":
            raise
        return found
    return read(answer, Order)


def cancel_all(session: Session, card: str | None, wait: float | None) -> Call[list[Order]]:
    """`DELETE /orders`."""
    answer = yield from session.send("DELETE", "/orders", query={"card": card}, wait=wait, change=Change("cancel_all"))
    return read(answer, _Orders).orders
