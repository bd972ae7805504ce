"""Pages of archived orders and trades, by filters and in both directions.

Orders are in the order of acceptance, then card and sequence. Trades of a card are in the order of their numbers, which
is that of their times. If a filter leaves rows out, a page looks at a bounded number of rows. It may then end early,
and says how far it has looked.
"""

from datetime import datetime
from typing import Any, NamedTuple

import asyncpg
import msgspec

from archiver.postgres import postgres_errors
from archiver.queries import ORDER_COLUMNS, TRADE_COLUMNS, Archive, order_of, trade_of
from core.model import Order, Trade

ROWS_SCANNED_MAX = 2_000
"""Rows that one page looks at if a filter leaves rows out."""


class OrderFilters(msgspec.Struct, frozen=True, kw_only=True):
    """Filters over the archived orders of one trader. `since` and `until` bound `accepted_at`: `[since, until)`."""

    trader_id: int
    card: str | None = None
    status: str | None = None
    side: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class TradeFilters(msgspec.Struct, frozen=True, kw_only=True):
    """Filters over the archived trades of one card. `since` and `until` bound `executed_at`: `[since, until)`.

    `side`: the side of the takers.
    """

    card: str
    side: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Position(NamedTuple):
    """An order in the order of acceptance."""

    accepted_at: datetime
    card: str
    sequence: int

    @property
    def order_id(self) -> str:
        """The public id of the order."""
        return f"{self.card}-{self.sequence}"


class PageOfOrders(NamedTuple):
    """Orders, newest first, and the last order that the page has looked at; None if no further one exists."""

    orders: list[Order]
    reached: Position | None


class PageOfTrades(NamedTuple):
    """Trades, newest first, and the number of the last trade that the page has looked at; None if no further exists."""

    trades: list[Trade]
    reached: int | None


class Statement(NamedTuple):
    """A query and its values."""

    query: str
    values: list[Any]


class ArchivePages:
    """The pages of an archive. All methods raise `Unavailable` if PostgreSQL does not answer."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._archive = Archive(pool)

    async def position(self, trader_id: int, card: str, sequence: int) -> Position | None:
        """The place of an archived order of a trader; None if there is none."""
        with postgres_errors():
            row = await self._pool.fetchrow(
                "SELECT accepted_at, card, sequence FROM orders WHERE card = $1 AND sequence = $2 AND trader_id = $3",
                *(card, sequence, trader_id),
            )
        return None if row is None else Position(*row)

    async def orders(self, filters: OrderFilters, start: Position | None, *, newer: bool, limit: int) -> PageOfOrders:
        """A page of orders behind `start`: older ones, or with `newer` newer ones."""
        where, values = order_conditions(filters)
        order = "ASC" if newer else "DESC"
        by_age = f"ORDER BY accepted_at {order}, card {order}, sequence {order}"
        if start is not None:
            values += start
            at, card, sequence = range(len(values) - 2, len(values) + 1)
            where.append(f"(accepted_at, card, sequence) {'>' if newer else '<'} (${at}, ${card}, ${sequence})")
        kept, values = _kept({"status": filters.status, "side": filters.side}, values)
        scan_max = ROWS_SCANNED_MAX if kept else limit + 1
        rows = await self._fetch(
            f"""
            WITH scanned AS MATERIALIZED (
                SELECT * FROM orders WHERE {" AND ".join(where)} {by_age} LIMIT {scan_max}
            ), found AS (
                SELECT * FROM scanned {f"WHERE {' AND '.join(kept)}" if kept else ""} {by_age} LIMIT {limit + 1}
            ), reached AS (
                SELECT * FROM scanned WHERE (SELECT count(*) FROM scanned) = {scan_max}
                ORDER BY accepted_at {_OPPOSITE[order]}, card {_OPPOSITE[order]}, sequence {_OPPOSITE[order]} LIMIT 1
            )
            SELECT {ORDER_COLUMNS}, accepted_at, false AS is_reached FROM found
            UNION ALL SELECT {ORDER_COLUMNS}, accepted_at, true FROM reached
            """,
            values,
        )
        found = [row for row in rows if not row["is_reached"]]
        found.sort(key=_position_of, reverse=not newer)
        edge = next((row for row in rows if row["is_reached"]), None)
        if len(found) > limit:
            edge = found[limit - 1]
        page = sorted(found[:limit], key=_position_of, reverse=True)
        return PageOfOrders([order_of(row) for row in page], None if edge is None else _position_of(edge))

    async def trades(self, filters: TradeFilters, start: int | None, *, newer: bool, limit: int) -> PageOfTrades:
        """A page of trades behind the number `start`: older ones, or with `newer` newer ones."""
        low, high = await self.bounds(filters)
        if start is not None:
            low, high = (max(low, start), high) if newer else (low, min(high, start - 1))
        if low >= high:
            return PageOfTrades([], None)
        scan_max = limit + 1 if filters.side is None else ROWS_SCANNED_MAX
        first, last = (low + 1, min(high, low + scan_max)) if newer else (max(low + 1, high - scan_max + 1), high)
        kept, values = _kept({"taker_side": filters.side}, [first, last])
        rows = await self._fetch(
            f"SELECT {TRADE_COLUMNS} FROM trades_{filters.card} "
            f"WHERE {' AND '.join(['trade_number BETWEEN $1 AND $2', *kept])} "
            f"ORDER BY trade_number {'ASC' if newer else 'DESC'} LIMIT {limit + 1}",
            values,
        )
        trades = [trade_of(row) for row in rows]
        if len(trades) > limit:
            edge: int | None = trades[limit - 1].number
        elif newer:
            edge = last if last < high else None
        else:
            edge = first if first > low + 1 else None
        page = trades[:limit]
        return PageOfTrades(page[::-1] if newer else page, edge)

    async def bounds(self, filters: TradeFilters) -> tuple[int, int]:
        """The trade number before the first trade within the times of filters, and the last one within them."""
        card, until = filters.card, filters.until
        low = 0 if filters.since is None else await self._archive.last_number_before(card, filters.since)
        return low, await self._archive.last_number_before(card, until)

    async def _fetch(self, query: str, values: list[Any]) -> list[asyncpg.Record]:
        with postgres_errors():
            return await self._pool.fetch(query, *values)


_OPPOSITE = {"ASC": "DESC", "DESC": "ASC"}


def order_conditions(filters: OrderFilters) -> tuple[list[str], list[Any]]:
    """The conditions of filters that the index of traders serves, and their values."""
    where, values = ["trader_id = $1"], [filters.trader_id]  # type: tuple[list[str], list[Any]]
    for condition, value in (
        ("card = $", filters.card),
        ("accepted_at >= $", filters.since),
        ("accepted_at < $", filters.until),
    ):
        if value is not None:
            values.append(value)
            where.append(f"{condition}{len(values)}")
    return where, values


def _kept(wanted: dict[str, str | None], values: list[Any]) -> tuple[list[str], list[Any]]:
    """The conditions of columns of enums, and all values. Their names are checked words of an enum."""
    conditions, values = [], [*values]
    for column, value in wanted.items():
        if value is not None:
            values.append(value)
            conditions.append(f"{column}::text = ${len(values)}")
    return conditions, values


def _position_of(row: asyncpg.Record) -> Position:
    return Position(row["accepted_at"], row["card"], row["sequence"])


# -- exports

_PRICE = "(price_cents / 100) || '.' || lpad((price_cents % 100)::text, 2, '0')"
_TIME = "to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
ORDER_FIELDS = {
    "order_id": "card || '-' || sequence",
    "client_order_id": "client_order_id",
    "card": "card",
    "side": "side",
    "price": _PRICE,
    "quantity": "quantity",
    "filled_quantity": "filled_quantity",
    "status": "status",
    "time_in_force": "time_in_force",
    "accepted_at": _TIME.format(column="accepted_at"),
    "closed_at": _TIME.format(column="closed_at"),
    "post_only": "coalesce(post_only, false)",
    "replaces": "card || '-' || replaces",
    "carried_quantity": "coalesce(carried_quantity, 0)",
    "reason": "reason",
    "replaced_by": "card || '-' || replaced_by",
}
TRADE_FIELDS = {
    "trade_id": "card || '-t' || trade_number",
    "card": "card",
    "price": _PRICE,
    "quantity": "quantity",
    "taker_side": "taker_side",
    "executed_at": _TIME.format(column="executed_at"),
}
"""The fields of an export in order, as they are in JSON, and the expressions of their texts.

No value has a comma, a quote or a line break: ids, cards and words have letters, digits and `._:-` alone.
"""


def exported_orders(filters: OrderFilters) -> Statement:
    """The statement that gives the line of each order, oldest first."""
    where, values = order_conditions(filters)
    kept, values = _kept({"status": filters.status, "side": filters.side}, values)
    return Statement(
        f"SELECT {_line(ORDER_FIELDS)} FROM orders WHERE {' AND '.join([*where, *kept])} "
        "ORDER BY accepted_at, orders.card, sequence",
        values,
    )


def exported_trades(filters: TradeFilters, bounds: tuple[int, int]) -> Statement:
    """The statement that gives the line of each trade within bounds of `ArchivePages.bounds`, oldest first."""
    kept, values = _kept({"taker_side": filters.side}, [*bounds])
    where = " AND ".join(["trade_number > $1", "trade_number <= $2", *kept])
    return Statement(
        f"SELECT {_line(TRADE_FIELDS)} FROM trades_{filters.card} WHERE {where} ORDER BY trade_number", values
    )


def _line(fields: dict[str, str]) -> str:
    values = ", ".join(f"coalesce(({text})::text, '')" for text in fields.values())
    return f"concat_ws(',', {values}) AS line"
