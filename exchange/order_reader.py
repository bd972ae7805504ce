"""What traders read of their orders and fills: from books, events and archive together, as if they were one.

An order or a trade moves one way, from the book to the events, and from there to the archive. Each read looks at these
in that order, so what moves meanwhile is met twice, if need be, and never missed.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import NamedTuple

from archiver.queries import Archive, Before
from core.errors import InvalidRequest, Unavailable, Violation
from core.model import SEQUENCE_PATTERN, Fill, Order, Side, Status, Trade
from core.rules import printable
from core.settings import CARD_PATTERN
from engine import codec
from engine.book_reader import OPEN_A_READ, BookReader
from engine.events import Event
from engine.order_log import Cancels

READ_SECONDS = 5.0
"""How long a read may take: a part of it, the events that are not archived, may be many while the archiver is away."""

CACHED_ORDERS_MAX = 20_000
"""Completed orders that a process keeps, about half a kilobyte each."""

READS_PER_PAGE_MAX = 4
"""Reads of `OPEN_A_READ` orders, for one page of those of a side."""

TRADES_SCANNED, TRADES_SCANNED_MIN = 100_000, 1_000
"""Archived trades for one page of fills, of all cards together and of a card at least: 15 ms of PostgreSQL."""

TIME_PATTERN = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
FILL_KEY = re.compile(rf"({TIME_PATTERN})~({CARD_PATTERN.pattern})-t({SEQUENCE_PATTERN})~(maker|taker)", re.ASCII)
"""A `FillKey` as a text."""

OrderKey = tuple[str, str, int]
"""By which orders of several cards are sorted: accepted_at, card and sequence."""


class FillKey(NamedTuple):
    """By which fills of several cards are sorted; of a trader's trade with itself the maker's fill is the older one."""

    executed_at: str
    card: str
    number: int
    is_taker: bool

    @property
    def text(self) -> str:
        """A place between two fills, as a caller sends it back."""
        return f"{self.executed_at}~{self.card}-t{self.number}~{'taker' if self.is_taker else 'maker'}"

    @classmethod
    def parse(cls, text: str) -> "FillKey":
        """The place that `text` wrote.

        Raises:
            InvalidRequest: it is none.
        """
        found = FILL_KEY.fullmatch(text)
        if not found or not _is_time(found[1]):
            rule = "must be the `next` of a page of fills"
            raise InvalidRequest([Violation("before", "invalid_before", rule, printable(text))])
        return cls(found[1], found[2], int(found[3]), found[4] == "taker")


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def order_key(order: Order) -> OrderKey:
    """When an order was accepted, and what decides between orders of the same moment."""
    return order.accepted_at, order.card, order.sequence


def fill_key(fill: Fill) -> FillKey:
    """When a fill happened, and what decides between fills of the same moment."""
    trade = fill.trade
    return FillKey(trade.executed_at, trade.card, trade.number, fill.is_taker)


async def parse_orders(card: str, lines: Iterable[bytes]) -> list[Order]:
    """Orders from their lines. It lets others go first now and then: ten thousand lines take 30 ms."""
    orders = []
    for count, line in enumerate(lines, 1):
        orders.append(codec.order(card, line.decode().split(",")))
        if count % OPEN_A_READ == 0:
            await asyncio.sleep(0)
    return orders


@asynccontextmanager
async def read_timeout() -> AsyncIterator[None]:
    """Ends a read that takes longer than `READ_SECONDS`.

    Raises:
        Unavailable: it does.
    """
    try:
        async with asyncio.timeout(READ_SECONDS):
            yield
    except TimeoutError:
        raise Unavailable(f"Reading took more than {READ_SECONDS:.0f} s, which the archive may be behind") from None


class CompletedOrders:
    """Completed orders by their sequences. They never change, so those that were read last are kept."""

    def __init__(self, books: BookReader, archive: Archive) -> None:
        self._books = books
        self._archive = archive
        self._cache: dict[tuple[str, int], Order] = {}

    def add(self, orders: Iterable[Order]) -> None:
        """Keeps these instead of those that were kept first."""
        for order in orders:
            self._cache[order.card, order.sequence] = order
        while len(self._cache) > CACHED_ORDERS_MAX:
            del self._cache[next(iter(self._cache))]

    async def find(self, card: str, sequences: Sequence[int]) -> list[Order]:
        """The completed ones of these orders of a card.

        Raises:
            Unavailable: the archive is needed and cannot be read.
        """
        found = [self._cache[card, sequence] for sequence in sequences if (card, sequence) in self._cache]
        missing = set(sequences).difference(order.sequence for order in found)
        for look in (self._archived, self._recent, self._archived) if missing else ():  # what moves meanwhile is met
            read = await look(card, missing)
            self.add(read)
            found += read
            missing.difference_update(order.sequence for order in read)
            if not missing:
                break
        return found

    async def _archived(self, card: str, sequences: Iterable[int]) -> list[Order]:
        return await self._archive.orders_with(card, list(sequences))

    async def _recent(self, card: str, sequences: Iterable[int]) -> list[Order]:
        cursors = await self._archive.cursors([card])
        return await self._books.completed_orders(card, sequences, archived=cursors[card].sequence)


class _FillBatch(NamedTuple):
    """Fills of a card, and the key down to which none is missing; None where there are no more behind."""

    fills: list[Fill]
    reached: FillKey | None


class OrderReader:
    """Finds and lists orders and fills of one trader, or of one order."""

    def __init__(self, books: BookReader, archive: Archive) -> None:
        self._books = books
        self._archive = archive
        self._completed_orders = CompletedOrders(books, archive)

    async def find(self, card: str, sequence: int) -> Order | None:
        """An order, wherever it is: in the log, a book, the events, or the archive.

        Raises:
            Unavailable: the archive is needed and cannot be read.
        """
        order = await self._books.order(card, sequence)
        if order is not None:
            return order
        position = await self._books.position(card)
        if sequence > position.appended:
            return None
        found = await self._completed_orders.find(card, [sequence])
        return found[0] if found else None

    async def latest(self, trader_id: int, cards: Sequence[str], limit: int) -> tuple[list[Order], Order | None]:
        """A trader's latest orders on these cards, newest first, at most `LATEST`; and the one to go on before, None
        where there are surely no more.

        Raises:
            Unavailable: the archive is needed and cannot be read.
        """
        async with read_timeout():
            by_card = await asyncio.gather(*(self._latest(trader_id, card, limit) for card in cards))
        merged = _newest((order for orders, _ in by_card for order in orders), limit + 1)
        has_more = len(merged) > limit or any(is_full for _, is_full in by_card)
        return merged[:limit], merged[limit - 1] if has_more and len(merged) >= limit else None

    async def _latest(self, trader_id: int, card: str, limit: int) -> tuple[list[Order], bool]:
        """The latest orders on a card, and whether there may be more."""
        orders, completed = await self._books.latest(card, trader_id, limit)
        is_full = len(orders) + len(completed) == limit
        return orders + await self._completed_orders.find(card, completed), is_full

    async def open_orders(
        self, trader_id: int, cards: Sequence[str], *, side: Side | None = None, before: Order | None = None, limit: int
    ) -> list[Order]:
        """A trader's orders that rest in the books of these cards, newest first; those before an order, if one is
        given."""
        by_card = await asyncio.gather(
            *(self._open_orders(trader_id, card, side=side, before=before, limit=limit) for card in cards)
        )
        return _newest((order for orders in by_card for order in orders), limit)

    async def _open_orders(
        self, trader_id: int, card: str, *, side: Side | None, before: Order | None, limit: int
    ) -> list[Order]:
        orders: list[Order] = []
        bound = await self._bound(card, before)
        at_once = min(limit, OPEN_A_READ)
        mark = b"," if side is None else f",{side.value},".encode()  # most lines need not be parsed for it
        async with aclosing(self._books.open_lines(card, trader_id, before=bound, at_once=at_once)) as pages:
            async for lines in pages:
                orders += [
                    order
                    for order in await parse_orders(card, (line for line in lines if mark in line))
                    if (side is None or order.side is side) and (before is None or order_key(order) < order_key(before))
                ]
                if len(orders) >= limit:
                    break
        return orders[:limit]

    async def _bound(self, card: str, before: Order | None) -> int | None:
        """A sequence that all orders of a card before this one are below; None where that is not known."""
        if before is None:
            return None
        if before.card == card:
            return before.sequence
        last = await self._books.sequence_at(card, before.accepted_at)
        return None if last is None else last + 1

    async def orders(
        self, trader_id: int, cards: Sequence[str], *, side: Side | None, before: Order | None, limit: int
    ) -> tuple[list[Order], Order | None]:
        """A trader's orders on these cards, newest first; and the one to go on before, None at the end. Of a side there
        may be fewer than `limit`, though there are more.

        Raises:
            Unavailable: the archive cannot be read.
        """
        found: list[Order] = []
        size = limit + 1 if side is None else OPEN_A_READ
        async with read_timeout():
            for _ in range(READS_PER_PAGE_MAX):
                page = await self._orders(trader_id, cards, before=before, limit=size)
                found += [order for order in page if side is None or order.side is side]
                before = page[-1] if len(page) == size else None
                if before is None or len(found) > limit:
                    break
        return found[:limit], found[limit - 1] if len(found) > limit else before

    async def _orders(self, trader_id: int, cards: Sequence[str], *, before: Order | None, limit: int) -> list[Order]:
        accepted = await asyncio.gather(
            *(self._read_accepted(trader_id, card, before=before, limit=limit) for card in cards)
        )
        resting = await self.open_orders(trader_id, cards, before=before, limit=limit)
        cursors = await self._archive.cursors(cards)
        recent = await asyncio.gather(
            *(self._read_completed(trader_id, card, archived=cursors[card].sequence) for card in cards)
        )
        start = None if before is None else order_key(before)
        archived = await self._archive.orders_before(trader_id, cards=cards, before=start, limit=limit)
        known = {order_key(order): order for orders in accepted for order in orders}
        known |= {order_key(order): order for order in resting}
        known |= {
            order_key(order): order
            for orders in recent
            for order in orders
            if start is None or order_key(order) < start
        }
        known |= {order_key(order): order for order in archived}
        return _newest(known.values(), limit)

    async def _read_accepted(self, trader_id: int, card: str, *, before: Order | None, limit: int) -> list[Order]:
        """A trader's orders that are not matched yet."""
        bound = await self._bound(card, before)
        orders = await self._books.accepted_orders(card, trader_id, before=bound, limit=limit)
        return [order for order in orders if before is None or order_key(order) < order_key(before)]

    async def _read_completed(self, trader_id: int, card: str, *, archived: int) -> list[Order]:
        """A trader's orders that are completed and not archived."""
        mark = f",{trader_id},".encode()
        lines = []
        async for event in self._books.events(card, after=archived):
            lines += [line for line in event.order_lines.splitlines() if mark in line]
        return [order for order in await parse_orders(card, lines) if order.trader_id == trader_id]

    async def canceled(self, card: str, cancels: Cancels, limit: int) -> list[Order]:
        """The orders that these cancels, which are matched, have canceled: the newest, newest first.

        Raises:
            Unavailable: the archive is needed and cannot be read.
        """
        if not cancels.orders:
            return []
        events = await self._books.events_of(card, cancels.first, cancels.last)
        if events is None:
            archived = await self._archive.orders_with(card, cancels.orders)
            canceled = [order for order in archived if order.status is Status.CANCELED]
            return [order for order in canceled if order.closed_at in cancels.times][:limit]
        targets = {codec.sequence_text(sequence).encode() for sequence in cancels.orders}
        ends = tuple(f",canceled,{at}".encode() for at in cancels.times)
        lines = [line for event in events for line in event.order_lines.splitlines() if line.endswith(ends)]
        own = sorted((line for line in lines if line[: codec.SEQUENCE_DIGITS] in targets), reverse=True)
        return await parse_orders(card, own[:limit])

    async def find_open(self, card: str, trader_id: int, client_order_id: str) -> Order | None:
        """The trader's newest open order on a card with this client_order_id."""
        mark = f",{client_order_id},".encode()
        async with aclosing(self._books.open_lines(card, trader_id)) as pages:
            async for lines in pages:
                for order in await parse_orders(card, (line for line in lines if mark in line)):
                    if order.client_order_id == client_order_id:
                        return order
        return None

    async def fills_of(self, order: Order) -> list[Fill]:
        """All fills of an order that make up what is filled of it, oldest first.

        Raises:
            Unavailable: the archive is needed for them and cannot be read.
        """
        if not order.filled_quantity:
            return []
        async with read_timeout():
            try:
                fills = await self._fills_of(order, await self._archive_cursor(order.card))
            except Unavailable:
                fills = await self._fills_of(order, None)  # a young order's are all in Redis
        filled, known = [], 0
        for fill in sorted(fills.values(), key=fill_key):
            if known < order.filled_quantity:
                known += fill.trade.quantity
                filled.append(fill)
        if known != order.filled_quantity:
            raise Unavailable(f"The trades of {order.order_id} can't be read now")
        return filled

    async def _fills_of(self, order: Order, archived: int | None) -> dict[FillKey, Fill]:
        after = max(order.sequence - 1, archived or 0)
        fills = [fill async for fill in self._recent_fills_of(order, after=after)]
        if archived is not None:
            trades = await self._archive.trades_of(
                order.card, order.sequence, quantity=order.quantity, before=None, limit=order.quantity
            )
            fills += [Fill(trade, trade.taker_sequence == order.sequence) for trade in trades]
        return {fill_key(fill): fill for fill in fills}

    async def _recent_fills_of(self, order: Order, *, after: int) -> AsyncIterator[Fill]:
        mark = f",{codec.sequence_text(order.sequence)},".encode()
        async for event in self._books.events(order.card, after=after):
            for trade in _trades(order.card, event, mark):
                if order.sequence in (trade.taker_sequence, trade.maker_sequence):
                    yield Fill(trade, trade.taker_sequence == order.sequence)

    async def fills_of_order(
        self, order: Order, *, before: FillKey | None, limit: int
    ) -> tuple[list[Fill], FillKey | None]:
        """Fills of an order, newest first; those before a key, if one is given. And the key to go on before, None at
        the end.

        Raises:
            Unavailable: the archive cannot be read.
        """
        async with read_timeout():
            archived = await self._archive_cursor(order.card)
            after = max(order.sequence - 1, archived)
            fills = [fill async for fill in self._recent_fills_of(order, after=after)]
            bound = before.number if before and before.card == order.card else None
            trades = await self._archive.trades_of(
                order.card, order.sequence, quantity=order.quantity, before=bound, limit=limit + 1
            )
        fills += [Fill(trade, trade.taker_sequence == order.sequence) for trade in trades]
        found = _newest_fills(fills, before)
        return found[:limit], fill_key(found[limit - 1]) if len(found) > limit else None

    async def fills(
        self, trader_id: int, cards: Sequence[str], *, before: FillKey | None, limit: int
    ) -> tuple[list[Fill], FillKey | None]:
        """A trader's fills on these cards, newest first; those before a key, if one is given. And the key to go on
        before, None at the end: there may be fewer than `limit`, though there are more.

        Raises:
            Unavailable: the archive cannot be read.
        """
        async with read_timeout():
            cursors = await self._archive.cursors(cards)
            recent = await asyncio.gather(
                *(
                    self._recent_fills(trader_id, card, after=cursors[card].sequence, before=before, limit=limit)
                    for card in cards
                )
            )
            looked_at = max(TRADES_SCANNED_MIN, TRADES_SCANNED // len(cards))
            archived = await asyncio.gather(
                *(
                    self._archived_fills(trader_id, card, before=before, looked_at=looked_at, limit=limit)
                    for card in cards
                )
            )
        parts = [*recent, *archived]
        # Down to the latest of these keys nothing is missing, of whatever card.
        reached = max((part.reached for part in parts if part.reached is not None), default=None)
        fills = _newest_fills((fill for part in parts for fill in part.fills), before)
        complete = [fill for fill in fills if reached is None or fill_key(fill) >= reached]
        return complete[:limit], fill_key(complete[limit - 1]) if len(complete) > limit else reached

    async def _recent_fills(
        self, trader_id: int, card: str, *, after: int, before: FillKey | None, limit: int
    ) -> _FillBatch:
        """A trader's fills that are not archived, newest first."""
        mark = f",{trader_id},".encode()
        fills: list[Fill] = []
        async with aclosing(self._books.events(card, after=after)) as events:
            async for event in events:
                found = [fill for trade in _trades(card, event, mark) for fill in own_fills(trade, trader_id)]
                fills += [fill for fill in reversed(found) if before is None or fill_key(fill) < before]
                if len(fills) >= limit:
                    return _FillBatch(fills, fill_key(fills[-1]))
        return _FillBatch(fills, None)

    async def _archived_fills(
        self, trader_id: int, card: str, *, before: FillKey | None, looked_at: int, limit: int
    ) -> _FillBatch:
        # Before a taker's fill there may be the maker's fill of the same trade.
        start = None if before is None else Before(before.executed_at, before.card, before.number + before.is_taker)
        found = await self._archive.trades_with(trader_id, card, before=start, looked_at=looked_at, limit=limit)
        reached = None if found.reached is None else fill_key(Fill(found.reached, is_taker=False))
        return _FillBatch([fill for trade in found.trades for fill in own_fills(trade, trader_id)], reached)

    async def _archive_cursor(self, card: str) -> int:
        cursors = await self._archive.cursors([card])
        return cursors[card].sequence


def own_fills(trade: Trade, trader_id: int) -> list[Fill]:
    """What a trade was for a trader, the maker's first."""
    fills = []
    if trade.maker_trader_id == trader_id:
        fills.append(Fill(trade, is_taker=False))
    if trade.taker_trader_id == trader_id:
        fills.append(Fill(trade, is_taker=True))
    return fills


def _trades(card: str, event: Event, mark: bytes) -> list[Trade]:
    """The trades of an event whose lines contain this."""
    lines = event.trade_lines
    if mark not in lines:
        return []
    return [codec.trade(card, line.decode()) for line in lines.splitlines() if mark in line]


def _newest(orders: Iterable[Order], limit: int) -> list[Order]:
    return sorted(orders, key=order_key, reverse=True)[:limit]


def _newest_fills(fills: Iterable[Fill], before: FillKey | None) -> list[Fill]:
    """These fills, each once, newest first; those before a key, if one is given."""
    known = {fill_key(fill): fill for fill in fills}
    return [known[key] for key in sorted(known, reverse=True) if before is None or key < before]
