"""Reads of orders and fills, over books, events and archive as if they were one store.

An order or a trade moves one way: from the book to the events, and from there to the archive. Each read visits the
stores in that order. A record that moves meanwhile is read twice at worst, and never missed.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import NamedTuple

from archiver.queries import Archive, TradeBoundary
from core.errors import InvalidRequest, Unavailable, Violation
from core.model import SEQUENCE_PATTERN, Fill, Order, Side, Status, Trade
from core.rules import printable
from core.settings import CARD_PATTERN
from engine import codec
from engine.book_reader import OPEN_ORDERS_PER_READ, BookReader
from engine.events import Event
from engine.order_log import CancelAllResult

READ_SECONDS = 5.0
"""Time limit of a read: while the archiver is away, the events that are not archived become many."""

CACHED_ORDERS_MAX = 20_000
"""Completed orders in the cache of a process, about half a kilobyte each."""

READS_PER_PAGE_MAX = 4
"""Reads of `OPEN_ORDERS_PER_READ` orders for one page that is filtered by side, at most."""

TRADES_SCANNED, TRADES_SCANNED_MIN = 100_000, 1_000
"""Archived trades that one page of fills scans: of all cards together, and of each card at least."""

TIME_PATTERN = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
FILL_KEY = re.compile(rf"({TIME_PATTERN})~({CARD_PATTERN.pattern})-t({SEQUENCE_PATTERN})~(maker|taker)", re.ASCII)
"""The text of a `FillKey`."""

OrderKey = tuple[str, str, int]
"""The sort key of orders of several cards: accepted_at, card and sequence."""


class FillKey(NamedTuple):
    """The sort key of fills of several cards. In a trade of a trader with itself, the maker's fill is the older one."""

    executed_at: str
    card: str
    number: int
    is_taker: bool

    @property
    def text(self) -> str:
        """The key as the text that a caller sends back as `before`."""
        return f"{self.executed_at}~{self.card}-t{self.number}~{'taker' if self.is_taker else 'maker'}"

    @classmethod
    def parse(cls, text: str) -> "FillKey":
        """Reads a key from its text.

        Raises:
            InvalidRequest: the text is no key.
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
    """The sort key of an order: the time of acceptance, then card and sequence."""
    return order.accepted_at, order.card, order.sequence


def fill_key(fill: Fill) -> FillKey:
    """The sort key of a fill: the time of the trade, then card, number and role."""
    trade = fill.trade
    return FillKey(trade.executed_at, trade.card, trade.number, fill.is_taker)


async def parse_orders(card: str, lines: Iterable[bytes]) -> list[Order]:
    """Parses the lines of orders. Other tasks run in between, since ten thousand lines take 30 ms."""
    orders = []
    for count, line in enumerate(lines, 1):
        orders.append(codec.order(card, line.decode().split(",")))
        if count % OPEN_ORDERS_PER_READ == 0:
            await asyncio.sleep(0)
    return orders


@asynccontextmanager
async def read_timeout() -> AsyncIterator[None]:
    """Limits the time of a read to `READ_SECONDS`.

    Raises:
        Unavailable: the read takes longer.
    """
    try:
        async with asyncio.timeout(READ_SECONDS):
            yield
    except TimeoutError:
        raise Unavailable(f"Reading took more than {READ_SECONDS:.0f} s, which the archive may be behind") from None


class CompletedOrders:
    """Completed orders by their sequences, with a cache: a completed order never changes."""

    def __init__(self, books: BookReader, archive: Archive) -> None:
        self._books = books
        self._archive = archive
        self._cache: dict[tuple[str, int], Order] = {}

    def add(self, orders: Iterable[Order]) -> None:
        """Adds orders to the cache; beyond `CACHED_ORDERS_MAX` the oldest entries go."""
        for order in orders:
            self._cache[order.card, order.sequence] = order
        while len(self._cache) > CACHED_ORDERS_MAX:
            del self._cache[next(iter(self._cache))]

    async def find(self, card: str, sequences: Sequence[int]) -> list[Order]:
        """Reads the orders with these sequences of a card, without those that are not completed.

        Raises:
            Unavailable: the archive is needed and cannot be read.
        """
        found = [self._cache[card, sequence] for sequence in sequences if (card, sequence) in self._cache]
        missing = set(sequences).difference(order.sequence for order in found)
        # The second look into the archive finds orders that moved there meanwhile.
        for look in (self._from_archive, self._from_events, self._from_archive) if missing else ():
            read = await look(card, missing)
            self.add(read)
            found += read
            missing.difference_update(order.sequence for order in read)
            if not missing:
                break
        return found

    async def _from_archive(self, card: str, sequences: Iterable[int]) -> list[Order]:
        return await self._archive.orders_by_sequence(card, list(sequences))

    async def _from_events(self, card: str, sequences: Iterable[int]) -> list[Order]:
        cursors = await self._archive.cursors([card])
        return await self._books.completed_orders(card, sequences, archived=cursors[card].sequence)


class _FillBatch(NamedTuple):
    """Fills of a card, and the key down to which no fill is missing: None if no older fill exists."""

    fills: list[Fill]
    reached: FillKey | None


class OrderReader:
    """Finds and lists the orders and fills of one trader, and the fills of one order."""

    def __init__(self, books: BookReader, archive: Archive) -> None:
        self._books = books
        self._archive = archive
        self._completed_orders = CompletedOrders(books, archive)

    async def find(self, card: str, sequence: int) -> Order | None:
        """Reads an order from the log, a book, the events or the archive; None if no store has it.

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
        """Reads a trader's latest orders on these cards, newest first; `limit` is at most `LATEST`.

        Returns a page, and the order that is `before` of the next page: None if this page is the last one.

        Raises:
            Unavailable: the archive is needed and cannot be read.
        """
        async with read_timeout():
            by_card = await asyncio.gather(*(self._latest(trader_id, card, limit) for card in cards))
        merged = _newest((order for orders, _ in by_card for order in orders), limit + 1)
        has_more = len(merged) > limit or any(is_full for _, is_full in by_card)
        if has_more and len(merged) < limit:  # the lists of Redis also have replaces that are no orders
            return await self.orders(trader_id, cards, side=None, before=None, limit=limit)
        return merged[:limit], merged[limit - 1] if has_more and len(merged) >= limit else None

    async def _latest(self, trader_id: int, card: str, limit: int) -> tuple[list[Order], bool]:
        """Reads the latest orders on a card, and whether older ones may exist."""
        orders, completed = await self._books.latest(card, trader_id, limit)
        is_full = len(orders) + len(completed) == limit
        return orders + await self._completed_orders.find(card, completed), is_full

    async def open_orders(
        self, trader_id: int, cards: Sequence[str], *, side: Side | None = None, before: Order | None = None, limit: int
    ) -> list[Order]:
        """Reads a trader's orders that rest in the books of these cards, newest first, from `before` on."""
        by_card = await asyncio.gather(
            *(self._open_orders(trader_id, card, side=side, before=before, limit=limit) for card in cards)
        )
        return _newest((order for orders in by_card for order in orders), limit)

    async def _open_orders(
        self, trader_id: int, card: str, *, side: Side | None, before: Order | None, limit: int
    ) -> list[Order]:
        orders: list[Order] = []
        bound = await self._bound(card, before)
        at_once = min(limit, OPEN_ORDERS_PER_READ)
        mark = b"," if side is None else f",{side.value},".encode()  # a line without it is skipped unread
        async with aclosing(self._books.open_lines(card, trader_id, before=bound, page_size=at_once)) as pages:
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
        """A bound below which all orders of a card lie that are older than `before`; None if no bound is known."""
        if before is None:
            return None
        if before.card == card:
            return before.sequence
        last = await self._books.sequence_at(card, before.accepted_at)
        return None if last is None else last + 1

    async def orders(
        self, trader_id: int, cards: Sequence[str], *, side: Side | None, before: Order | None, limit: int
    ) -> tuple[list[Order], Order | None]:
        """Reads a trader's orders on these cards, newest first, from `before` on.

        Returns a page, and the order that is `before` of the next page: None if this page is the last one. A page that
        is filtered by side may be short although more orders follow.

        Raises:
            Unavailable: the archive cannot be read.
        """
        found: list[Order] = []
        size = limit + 1 if side is None else OPEN_ORDERS_PER_READ
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
        """Reads a trader's orders that are not matched yet."""
        bound = await self._bound(card, before)
        orders = await self._books.accepted_orders(card, trader_id, before=bound, limit=limit)
        return [order for order in orders if before is None or order_key(order) < order_key(before)]

    async def _read_completed(self, trader_id: int, card: str, *, archived: int) -> list[Order]:
        """Reads a trader's orders that are completed and not archived."""
        mark = f",{trader_id},".encode()
        lines = []
        async for event in self._books.events(card, after=archived):
            lines += [line for line in event.order_lines.splitlines() if mark in line]
        return [order for order in await parse_orders(card, lines) if order.trader_id == trader_id]

    async def canceled_orders(self, card: str, cancels: CancelAllResult, limit: int) -> list[Order]:
        """Reads the orders that matched cancels have canceled: the `limit` newest, newest first.

        Raises:
            Unavailable: the archive is needed and cannot be read.
        """
        if not cancels.orders:
            return []
        events = await self._books.events_of(card, cancels.first, cancels.last)
        if events is None:
            archived = await self._archive.orders_by_sequence(card, cancels.orders)
            canceled = [order for order in archived if order.status is Status.CANCELED and order.reason is None]
            return [order for order in canceled if order.closed_at in cancels.times][:limit]
        targets = {codec.sequence_text(sequence).encode() for sequence in cancels.orders}
        ends = tuple(f",canceled,{at}".encode() for at in cancels.times)
        lines = [line for event in events for line in event.order_lines.splitlines() if line.endswith(ends)]
        own = sorted((line for line in lines if line[: codec.SEQUENCE_DIGITS] in targets), reverse=True)
        return await parse_orders(card, own[:limit])

    async def find_open(self, card: str, trader_id: int, client_order_id: str) -> Order | None:
        """Reads the trader's newest open order on a card with this client_order_id."""
        mark = f",{client_order_id},".encode()
        async with aclosing(self._books.open_lines(card, trader_id)) as pages:
            async for lines in pages:
                for order in await parse_orders(card, (line for line in lines if mark in line)):
                    if order.client_order_id == client_order_id:
                        return order
        return None

    async def fills_of(self, order: Order) -> list[Fill]:
        """Reads the fills that make up an order's `traded_quantity`, oldest first.

        Raises:
            Unavailable: some fills are in the archive, and the archive cannot be read.
        """
        if not order.traded_quantity:
            return []
        async with read_timeout():
            try:
                fills = await self._fills_of(order, await self._archive_cursor(order.card))
            except Unavailable:
                fills = await self._fills_of(order, None)  # Redis may have all fills of a young order
        return _whole(order, fills.values())

    async def fills_of_many(self, orders: Iterable[Order]) -> dict[str, list[Fill]]:
        """Reads the fills of many orders by their order_ids, as `fills_of` does, with a fixed number of reads a card.

        Raises:
            Unavailable: the archive cannot be read.
        """
        filled: dict[str, dict[int, Order]] = {}
        found: dict[str, list[Fill]] = {}
        for order in orders:
            found[order.order_id] = []
            if order.traded_quantity:
                filled.setdefault(order.card, {})[order.sequence] = order
        if not filled:
            return found
        async with read_timeout():
            cursors = await self._archive.cursors([*filled])
            read = await asyncio.gather(
                *(self._fills_of_card(card, each, cursors[card].sequence) for card, each in filled.items())
            )
        for card, fills in zip(filled, read, strict=True):
            for sequence, order in filled[card].items():
                found[order.order_id] = _whole(order, {fill_key(fill): fill for fill in fills[sequence]}.values())
        return found

    async def _fills_of_card(self, card: str, orders: Mapping[int, Order], archived: int) -> dict[int, list[Fill]]:
        fills: dict[int, list[Fill]] = {sequence: [] for sequence in orders}
        marks = {f",{order.trader_id},".encode() for order in orders.values()}
        async for event in self._books.events(card, after=max(min(orders) - 1, archived)):
            for mark in marks:
                for trade in _trades(card, event, mark):
                    for sequence in {trade.taker_sequence, trade.maker_sequence} & fills.keys():
                        fills[sequence].append(Fill(trade, trade.taker_sequence == sequence))
        quantities = {sequence: order.quantity for sequence, order in orders.items()}
        for sequence, trades in (await self._archive.trades_of_orders(card, quantities)).items():
            fills[sequence] += [Fill(trade, trade.taker_sequence == sequence) for trade in trades]
        return fills

    async def _fills_of(self, order: Order, archived: int | None) -> dict[FillKey, Fill]:
        after = max(order.sequence - 1, archived or 0)
        fills = [fill async for fill in self._recent_fills_of(order, after=after)]
        if archived is not None:
            trades = await self._archive.trades_of_order(
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
        """Reads fills of an order, newest first, from `before` on.

        Returns a page, and the key that is `before` of the next page: None if this page is the last one.

        Raises:
            Unavailable: the archive cannot be read.
        """
        async with read_timeout():
            archived = await self._archive_cursor(order.card)
            after = max(order.sequence - 1, archived)
            fills = [fill async for fill in self._recent_fills_of(order, after=after)]
            bound = before.number if before and before.card == order.card else None
            trades = await self._archive.trades_of_order(
                order.card, order.sequence, quantity=order.quantity, before=bound, limit=limit + 1
            )
        fills += [Fill(trade, trade.taker_sequence == order.sequence) for trade in trades]
        found = _newest_fills(fills, before)
        return found[:limit], fill_key(found[limit - 1]) if len(found) > limit else None

    async def fills(
        self, trader_id: int, cards: Sequence[str], *, before: FillKey | None, limit: int
    ) -> tuple[list[Fill], FillKey | None]:
        """Reads a trader's fills on these cards, newest first, from `before` on.

        Returns a page, and the key that is `before` of the next page: None if this page is the last one. A page may be
        short although more fills follow.

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
        # Down to the latest of these keys no fill of any card is missing.
        reached = max((part.reached for part in parts if part.reached is not None), default=None)
        fills = _newest_fills((fill for part in parts for fill in part.fills), before)
        complete = [fill for fill in fills if reached is None or fill_key(fill) >= reached]
        return complete[:limit], fill_key(complete[limit - 1]) if len(complete) > limit else reached

    async def _recent_fills(
        self, trader_id: int, card: str, *, after: int, before: FillKey | None, limit: int
    ) -> _FillBatch:
        """Reads a trader's fills that are not archived, newest first."""
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
        # The maker's fill of the same trade may stand before a taker's fill.
        start = (
            None if before is None else TradeBoundary(before.executed_at, before.card, before.number + before.is_taker)
        )
        found = await self._archive.trades_of_trader(trader_id, card, before=start, scan_max=looked_at, limit=limit)
        reached = None if found.reached is None else fill_key(Fill(found.reached, is_taker=False))
        return _FillBatch([fill for trade in found.trades for fill in own_fills(trade, trader_id)], reached)

    async def _archive_cursor(self, card: str) -> int:
        cursors = await self._archive.cursors([card])
        return cursors[card].sequence


def _whole(order: Order, fills: Iterable[Fill]) -> list[Fill]:
    """The fills that make up an order's `traded_quantity`, oldest first.

    Raises:
        Unavailable: some are missing.
    """
    filled, known = [], 0
    for fill in sorted(fills, key=fill_key):
        if known < order.traded_quantity:
            known += fill.trade.quantity
            filled.append(fill)
    if known != order.traded_quantity:
        raise Unavailable(f"The trades of {order.order_id} can't be read now")
    return filled


def own_fills(trade: Trade, trader_id: int) -> list[Fill]:
    """The fills that a trade is for a trader: none, one, or two, the maker's first."""
    fills = []
    if trade.maker_trader_id == trader_id:
        fills.append(Fill(trade, is_taker=False))
    if trade.taker_trader_id == trader_id:
        fills.append(Fill(trade, is_taker=True))
    return fills


def _trades(card: str, event: Event, mark: bytes) -> list[Trade]:
    """Parses those trades of an event whose lines contain `mark`."""
    lines = event.trade_lines
    if mark not in lines:
        return []
    return [codec.trade(card, line.decode()) for line in lines.splitlines() if mark in line]


def _newest(orders: Iterable[Order], limit: int) -> list[Order]:
    return sorted(orders, key=order_key, reverse=True)[:limit]


def _newest_fills(fills: Iterable[Fill], before: FillKey | None) -> list[Fill]:
    """Sorts fills newest first, each once, from `before` on."""
    known = {fill_key(fill): fill for fill in fills}
    return [known[key] for key in sorted(known, reverse=True) if before is None or key < before]
