"""Completed orders and trades of the archive as callers ask for them: filters, pages in both directions, exports."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from archiver.archive_pages import (
    ORDER_FIELDS,
    TRADE_FIELDS,
    ArchivePages,
    OrderFilters,
    TradeFilters,
    exported_orders,
    exported_trades,
)
from archiver.exports import Export, Exports
from core.errors import InvalidRequest, Violation
from core.model import COMPLETED, Order, Side, Status, Trade
from core.rules import printable
from exchange.market import parse_time
from exchange.paging import BOTH_RULE, ORDER_ID_RULE, TRADE_ID_RULE, parse_id
from exchange.tokens import Caller

PAGE_LIMIT_MAX = 500
STATUSES = tuple(status.value for status in Status if status in COMPLETED)


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The completed orders or trades that a caller asks for; the texts are not checked yet.

    `since` and `until` bound the time of acceptance or of the trade: `[since, until)`. `side`: that of the order, or of
    the taker of a trade. `before` and `after` are ids: only what is older or newer.
    """

    card: str | None = None
    status: str | None = None
    side: str | None = None
    since: str | None = None
    until: str | None = None
    before: str | None = None
    after: str | None = None
    limit: int = PAGE_LIMIT_MAX


class OrdersFound(NamedTuple):
    """Orders, newest first; `before` of the page with older ones, and `after` of that with newer ones, or None."""

    orders: list[Order]
    older: str | None
    newer: str | None


class TradesFound(NamedTuple):
    """Trades, newest first; `before` of the page with older ones, and `after` of that with newer ones, or None."""

    trades: list[Trade]
    older: str | None
    newer: str | None


class ArchiveReader:
    """The archive, as callers may read it."""

    def __init__(self, cards: Sequence[str], pages: ArchivePages, exports: Exports) -> None:
        self._cards = tuple(cards)
        self._pages = pages
        self._exports = exports

    async def orders(self, caller: Caller, query: HistoryQuery) -> OrdersFound:
        """Lists the caller's completed orders.

        Raises:
            InvalidRequest: the query is wrong; the error names every wrong part.
            Unavailable: the archive cannot be read.
        """
        filters = self._order_filters(caller, query)
        name, place = _direction(query)
        start = None
        if place is not None:
            card, sequence = parse_id(name, place, "-", ORDER_ID_RULE)
            start = await self._pages.position(caller.trader_id, card, sequence)
            if start is None:
                rule = "must be an order_id of the archive"
                raise InvalidRequest([Violation(name, f"invalid_{name}", rule, printable(place))])
        newer = name == "after"
        page = await self._pages.orders(filters, start, newer=newer, limit=query.limit)
        ids = [order.order_id for order in page.orders]
        reached = None if page.reached is None else page.reached.order_id
        return OrdersFound(page.orders, *_neighbours(ids, place, reached, newer=newer))

    async def trades(self, query: HistoryQuery) -> TradesFound:
        """Lists the trades of a card.

        Raises:
            InvalidRequest: the query is wrong; the error names every wrong part.
            Unavailable: the archive cannot be read.
        """
        filters = self._trade_filters(query)
        name, place = _direction(query)
        start = None
        if place is not None:
            card, start = parse_id(name, place, "-t", TRADE_ID_RULE)
            if card != query.card:
                rule = f"must be a trade_id of {query.card}"
                raise InvalidRequest([Violation(name, f"invalid_{name}", rule, printable(place))])
        newer = name == "after"
        page = await self._pages.trades(filters, start, newer=newer, limit=query.limit)
        ids = [trade.trade_id for trade in page.trades]
        reached = None if page.reached is None else f"{query.card}-t{page.reached}"
        return TradesFound(page.trades, *_neighbours(ids, place, reached, newer=newer))

    async def export_orders(self, caller: Caller, query: HistoryQuery) -> Export:
        """Begins an export of the caller's completed orders, which must be closed.

        Raises:
            InvalidRequest: the query is wrong; the error names every wrong part.
            TooManyExports: as many exports go on as may.
            Unavailable: the archive cannot be read.
        """
        return await self._exports.open(tuple(ORDER_FIELDS), exported_orders(self._order_filters(caller, query)))

    async def export_trades(self, query: HistoryQuery) -> Export:
        """Begins an export of the trades of a card, which must be closed.

        Raises:
            InvalidRequest: the query is wrong; the error names every wrong part.
            TooManyExports: as many exports go on as may.
            Unavailable: the archive cannot be read.
        """
        filters = self._trade_filters(query)
        return await self._exports.open(
            tuple(TRADE_FIELDS), exported_trades(filters, await self._pages.bounds(filters))
        )

    def _order_filters(self, caller: Caller, query: HistoryQuery) -> OrderFilters:
        errors = self._errors(query)
        since, until = parse_time("since", query.since, errors), parse_time("until", query.until, errors)
        if errors:
            raise InvalidRequest(errors)
        return OrderFilters(
            trader_id=caller.trader_id,
            card=query.card,
            status=query.status,
            side=query.side,
            since=since,
            until=until,
        )

    def _trade_filters(self, query: HistoryQuery) -> TradeFilters:
        errors = self._errors(query)
        since, until = parse_time("since", query.since, errors), parse_time("until", query.until, errors)
        if errors:
            raise InvalidRequest(errors)
        return TradeFilters(card=query.card or "", side=query.side, since=since, until=until)

    def _errors(self, query: HistoryQuery) -> list[Violation]:
        errors = []
        if query.card is not None and query.card not in self._cards:
            rule = "must be one of " + ", ".join(self._cards)
            errors.append(Violation("card", "unknown_card", rule, printable(query.card)))
        if query.status is not None and query.status not in STATUSES:
            rule = "must be one of " + ", ".join(STATUSES)
            errors.append(Violation("status", "invalid_status", rule, printable(query.status)))
        if query.side is not None and query.side not in tuple(Side):
            rule = "must be one of " + ", ".join(Side)
            errors.append(Violation("side", "invalid_side", rule, printable(query.side)))
        if not 1 <= query.limit <= PAGE_LIMIT_MAX:
            rule = f"must be a whole number from 1 to {PAGE_LIMIT_MAX}"
            errors.append(Violation("limit", "invalid_limit", rule, str(query.limit)))
        if query.before is not None and query.after is not None:
            errors.append(Violation("after", "invalid_after", BOTH_RULE, printable(query.after)))
        return errors


def _direction(query: HistoryQuery) -> tuple[str, str | None]:
    """The name of the parameter that says where a page begins, and its value."""
    return ("after", query.after) if query.after is not None else ("before", query.before)


def _neighbours(
    ids: Sequence[str], place: str | None, reached: str | None, *, newer: bool
) -> tuple[str | None, str | None]:
    """`before` of the page with older rows and `after` of the page with newer ones, behind a page at a place.

    `reached`: the last row that was looked at in the direction of the page, if more follow.
    """
    if newer:
        return (ids[-1] if ids else None), reached
    return reached, ((ids[0] if ids else None) if place is not None else None)
