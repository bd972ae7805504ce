"""Reads from the archive. All functions and methods raise `Unavailable` if PostgreSQL does not answer."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg
import msgspec

from archiver import api_keys, candles
from archiver.postgres import ARCHIVER_LOCK, RECOVER_SECONDS, postgres_errors
from core.candles import DAY_SECONDS, MINUTE, Candle, Window
from core.errors import Unavailable
from core.model import Order, Reason, Side, Status, TimeInForce, Trade

NUMBER_MAX = 2**62


class Cursor(msgspec.Struct, frozen=True):
    """The last archived event of a card, and the log entry that the event ends with."""

    event_id: str
    log_id: str

    @property
    def sequence(self) -> int:
        """The last archived command."""
        return int(self.event_id.partition("-")[0])


START = Cursor("0-0", "0-0")
"""The cursor of a card of which nothing is archived."""


class ArchiveState(msgspec.Struct, frozen=True, kw_only=True):
    """The history of a card in the archive, and the archive cursor. Unknown values are empty, 0 or None.

    `base`: the sequence before the first command of the history. `given`: the highest sequence that was given out.
    """

    history_id: str = ""
    base: int = 0
    given: int = 0
    cursor: Cursor | None = None
    cursor_history_id: str = ""

    @property
    def last(self) -> int:
        """The highest sequence that the archive has recorded."""
        return max(self.base, self.given, self.cursor.sequence if self.cursor else 0)


class TradeBoundary(NamedTuple):
    """A boundary in the order of trades by time, card and number. The trade with these values is behind it."""

    executed_at: str
    card: str
    number: int


class CandleRows(NamedTuple):
    """Archived candles of one interval, oldest first, all from one moment.

    `sequence`: the last archived command. `number`: the last archived trade. `before`: the candle before the window.
    """

    sequence: int
    number: int
    candles: list[Candle]
    before: Candle | None


class DayRow(NamedTuple):
    """The archived trades of a card in the last 24 hours, and the last archived command."""

    sequence: int
    day: Candle | None


class TradePage(NamedTuple):
    """Trades of a trader, newest first, and the oldest scanned trade; None if that is the first of the card."""

    trades: list[Trade]
    reached: Trade | None


async def cursors(connection: asyncpg.Connection | asyncpg.Pool) -> dict[str, Cursor]:
    """The cursor of each card that has archived commands."""
    with postgres_errors():
        rows = await connection.fetch("SELECT card, event_id, log_id FROM archive_cursor")
    return {row["card"]: Cursor(row["event_id"], row["log_id"]) for row in rows}


async def untraded_cards(connection: asyncpg.Connection, cards: Sequence[str]) -> list[str]:
    """Cards in the archive that are not in `cards`. Their open orders are invisible and cannot be canceled."""
    return sorted(set(await cursors(connection)) - set(cards))


async def archive_states(database: asyncpg.Connection | asyncpg.Pool, cards: Sequence[str]) -> dict[str, ArchiveState]:
    """The archive state of each card."""
    with postgres_errors():
        rows = await database.fetch(
            "SELECT wanted.card, h.history_id, h.base, h.given, c.event_id, c.log_id, "
            "c.history_id AS cursor_history_id "
            "FROM unnest($1::text[]) AS wanted (card) "
            "LEFT JOIN histories h ON h.card = wanted.card AND h.ended_at IS NULL "
            "LEFT JOIN archive_cursor c ON c.card = wanted.card",
            list(cards),
        )
    states = {
        row["card"]: ArchiveState(
            history_id=row["history_id"] or "",
            base=row["base"] or 0,
            given=row["given"] or 0,
            cursor=Cursor(row["event_id"], row["log_id"]) if row["event_id"] else None,
            cursor_history_id=row["cursor_history_id"] or "",
        )
        for row in rows
    }
    return {card: states.get(card, ArchiveState()) for card in cards}


async def completed_sequences(connection: asyncpg.Connection, card: str, sequences: Sequence[int]) -> set[int]:
    """Those of these sequences whose orders are archived."""
    with postgres_errors():
        rows = await connection.fetch(
            "SELECT sequence FROM orders WHERE card = $1 AND sequence = ANY($2)",
            card,
            sequences,
            timeout=RECOVER_SECONDS,
        )
    return {row["sequence"] for row in rows}


async def filled_quantities(connection: asyncpg.Connection, card: str, after: int) -> dict[int, int]:
    """The quantity that archived trades after a trade number filled, by sequence, of orders that are not archived."""
    with postgres_errors():
        rows = await connection.fetch(
            "SELECT sequence, sum(quantity)::bigint AS filled FROM ("
            "SELECT maker_sequence AS sequence, quantity FROM trades WHERE card = $1 AND trade_number > $2 UNION ALL "
            "SELECT taker_sequence, quantity FROM trades WHERE card = $1 AND trade_number > $2) AS fills "
            "WHERE NOT EXISTS (SELECT FROM orders o WHERE o.card = $1 AND o.sequence = fills.sequence) "
            "GROUP BY sequence ORDER BY sequence",
            card,
            after,
            timeout=RECOVER_SECONDS,
        )
    return {row["sequence"]: row["filled"] for row in rows}


async def trade_count(connection: asyncpg.Connection, card: str) -> int:
    """The number of the last archived trade of a card."""
    with postgres_errors():
        return int(await connection.fetchval("SELECT max(trade_number) FROM trades WHERE card = $1", card) or 0)


async def orders_after(connection: asyncpg.Connection, card: str, sequence: int, limit: int) -> list[Order]:
    """The latest `limit` archived orders after a sequence, oldest first."""
    with postgres_errors():
        rows = await connection.fetch(
            f"SELECT {_ORDER} FROM orders WHERE card = $1 AND sequence > $2 ORDER BY sequence DESC LIMIT $3",
            *(card, sequence, limit),
            timeout=RECOVER_SECONDS,
        )
    return [_order(row) for row in reversed(rows)]


async def count_after(connection: asyncpg.Connection, card: str, sequence: int) -> int:
    """The number of archived orders after a sequence."""
    with postgres_errors():
        return int(
            await connection.fetchval(
                "SELECT count(*) FROM orders WHERE card = $1 AND sequence > $2",
                *(card, sequence),
                timeout=RECOVER_SECONDS,
            )
        )


class Archive:
    """The queries of the API."""

    def __init__(self, pool: asyncpg.Pool | asyncpg.Connection) -> None:
        self._pool = pool

    def connections(self) -> tuple[int, int]:
        """The idle and all connections of the pool; none for a single connection."""
        pool = self._pool
        return (pool.get_idle_size(), pool.get_size()) if isinstance(pool, asyncpg.Pool) else (0, 0)

    async def order(self, card: str, sequence: int) -> Order | None:
        """A completed order."""
        rows = await self._fetch(f"SELECT {_ORDER} FROM orders WHERE card = $1 AND sequence = $2", card, sequence)
        return _order(rows[0]) if rows else None

    async def client_order(self, trader_id: int, client_order_id: str) -> Order | None:
        """The latest completed order of a trader with this client_order_id."""
        rows = await self._fetch(
            f"SELECT {_ORDER} FROM orders WHERE trader_id = $1 AND client_order_id = $2 "
            "ORDER BY accepted_at DESC, sequence DESC LIMIT 1",
            trader_id,
            client_order_id,
        )
        return _order(rows[0]) if rows else None

    async def orders_by_sequence(self, card: str, sequences: Sequence[int]) -> list[Order]:
        """The completed orders among these sequences, newest first."""
        rows = await self._fetch(
            f"SELECT {_ORDER} FROM orders WHERE card = $1 AND sequence = ANY($2::bigint[]) ORDER BY sequence DESC",
            card,
            sequences,
        )
        return [_order(row) for row in rows]

    async def orders(
        self, trader_id: int, *, card: str | None, before: tuple[str, int] | None, limit: int
    ) -> list[Order]:
        """A trader's completed orders by acceptance, newest first. `before`: only orders before this card and sequence.

        Raises:
            LookupError: the order `before` is not in the archive.
        """
        start = None
        if before is not None:
            rows = await self._fetch(
                f"SELECT {_ORDER} FROM orders WHERE card = $1 AND sequence = $2 AND trader_id = $3", *before, trader_id
            )
            if not rows:
                raise LookupError(before)
            start = (rows[0]["accepted_text"], *before)
        return await self.orders_before(trader_id, cards=None if card is None else [card], before=start, limit=limit)

    async def orders_before(
        self, trader_id: int, *, cards: Sequence[str] | None, before: tuple[str, str, int] | None, limit: int
    ) -> list[Order]:
        """A trader's completed orders by acceptance, newest first.

        `before`: only orders before this accepted_at, card and sequence. `cards`: only orders of these cards.
        """
        where, values = ["trader_id = $1"], [trader_id]  # type: tuple[list[str], list[Any]]
        if cards is not None:
            values.append(cards)
            where.append(f"card = ANY(${len(values)}::text[])")
        if before is not None:
            values += before
            at, card, sequence = range(len(values) - 2, len(values) + 1)
            where.append(f"(accepted_at, card, sequence) < (${at}::text::timestamptz, ${card}, ${sequence})")
        values.append(limit)
        rows = await self._fetch(
            f"SELECT {_ORDER} FROM orders WHERE {' AND '.join(where)} "
            f"ORDER BY accepted_at DESC, card DESC, sequence DESC LIMIT ${len(values)}",
            *values,
        )
        return [_order(row) for row in rows]

    async def trades(self, card: str, *, before: int | None, limit: int) -> list[Trade]:
        """A card's trades, newest first. `before`: only trades with a lower number."""
        rows = await self._fetch(
            f"SELECT {_TRADE} FROM trades WHERE card = $1 AND trade_number < $2 ORDER BY trade_number DESC LIMIT $3",
            card,
            before if before is not None else NUMBER_MAX,
            limit,
        )
        return [_trade(row) for row in rows]

    async def candles(
        self, card: str, seconds: int, window: Window, *, limit: int | None = None, newest: bool = False
    ) -> CandleRows:
        """The candles of a card and an interval whose starts lie in a window.

        `limit`: the number of candles at most; `newest` keeps the last of them instead of the first.

        Raises:
            Unavailable: PostgreSQL does not answer, or candles lack trades of an earlier version.
        """
        of_interval = f"SELECT {candles.COLUMNS} FROM candles WHERE card = $1 AND seconds = $2"
        rows = await self._fetch(
            f"""
            SELECT place.*, found.* FROM ({_candle_place(card)}) AS place
            LEFT JOIN (
                ({of_interval} AND start >= $3 AND start < $4 ORDER BY start {"DESC" if newest else "ASC"} LIMIT $5)
                UNION ALL ({of_interval} AND start < $3 ORDER BY start DESC LIMIT 1)
            ) AS found ON true
            """,
            *(card, seconds, *window, limit),
        )
        _check_complete(card, rows[0])
        found = sorted((candles.candle_of(row) for row in rows if row["start"] is not None), key=_start_of)
        before = found.pop(0) if found and found[0].start < window.since else None
        return CandleRows(rows[0]["sequence"], rows[0]["last"], found, before)

    async def days(self, cards: Sequence[str], now: float) -> dict[str, DayRow]:
        """The trades of each card in the 24 hours before `now`, to the minute.

        Raises:
            Unavailable: PostgreSQL does not answer, or candles lack trades of an earlier version.
        """
        of_cards = (
            f"""
            SELECT '{card}' AS card, place.*, day.* FROM ({_candle_place(card)}) AS place CROSS JOIN (
                SELECT min(start) AS start, (array_agg(open_cents ORDER BY start))[1] AS open_cents,
                    max(high_cents) AS high_cents, min(low_cents) AS low_cents,
                    (array_agg(close_cents ORDER BY start DESC))[1] AS close_cents,
                    sum(volume)::bigint AS volume, sum(trades)::bigint AS trades
                FROM candles WHERE card = '{card}' AND seconds = {MINUTE} AND start > $1
            ) AS day
            """
            for card in cards
        )
        rows = await self._fetch(" UNION ALL ".join(of_cards), math.floor(now) - DAY_SECONDS - MINUTE)
        for row in rows:
            _check_complete(row["card"], row)
        return {
            row["card"]: DayRow(row["sequence"], None if row["start"] is None else candles.candle_of(row))
            for row in rows
        }

    async def trades_of_order(
        self, card: str, sequence: int, *, quantity: int, before: int | None, limit: int
    ) -> list[Trade]:
        """The trades of an order, newest first. `before`: only trades with a lower number.

        `quantity` is the quantity of the order.
        """
        # The trades of a taker have successive numbers, and there are at most `quantity` of them.
        last = await self._last_number_before(card, "taker_sequence", sequence)
        rows = await self._fetch(
            f"SELECT {_TRADE} FROM trades WHERE card = $1 AND trade_number < $6 AND (maker_sequence = $2 "
            "OR trade_number > $3 AND trade_number <= $4 AND taker_sequence = $2) ORDER BY trade_number DESC LIMIT $5",
            card,
            sequence,
            last,
            last + quantity,
            limit,
            NUMBER_MAX if before is None else before,
        )
        return [_trade(row) for row in rows]

    async def trades_of_orders(self, card: str, quantities: Mapping[int, int]) -> dict[int, list[Trade]]:
        """The trades of many orders of a card, by their sequences, in one query.

        `quantities`: of each order, by its sequence.
        """
        rows = await self._fetch(
            f"""
            SELECT wanted.sequence AS wanted_sequence, found.*
            FROM unnest($1::bigint[], $2::bigint[]) AS wanted (sequence, quantity)
            CROSS JOIN LATERAL ({_search(card, "taker_sequence < wanted.sequence")}) AS before
            CROSS JOIN LATERAL (
                SELECT {_TRADE} FROM trades WHERE card = $3 AND maker_sequence = wanted.sequence
                UNION ALL
                SELECT {_TRADE} FROM trades WHERE card = $3 AND taker_sequence = wanted.sequence
                AND trade_number > before.low AND trade_number <= before.low + wanted.quantity
            ) AS found
            """,
            [*quantities],
            [*quantities.values()],
            card,
        )
        trades: dict[int, list[Trade]] = {sequence: [] for sequence in quantities}
        for row in rows:
            trades[row["wanted_sequence"]].append(_trade(row))
        return trades

    async def trades_of_trader(
        self, trader_id: int, card: str, *, before: TradeBoundary | None, scan_max: int, limit: int
    ) -> TradePage:
        """A trader's trades among the newest `scan_max` trades of a card, or the newest before a boundary.

        The trades are scanned without an index, which would make each row a third more expensive to write
        (docs/measurements/archive.md).
        """
        last = await self._last_before_boundary(card, before)
        first = max(1, last - scan_max + 1)
        rows = await self._fetch(
            f"SELECT {_TRADE} FROM trades WHERE card = $1 AND trade_number >= $2 AND trade_number <= $3 "
            "AND (maker_trader_id = $4 OR taker_trader_id = $4) ORDER BY trade_number DESC LIMIT $5",
            card,
            first,
            last,
            trader_id,
            limit,
        )
        trades = [_trade(row) for row in rows]
        if len(trades) == limit:
            return TradePage(trades, trades[-1])
        if first == 1:
            return TradePage(trades, None)
        rows = await self._fetch(f"SELECT {_TRADE} FROM trades WHERE card = $1 AND trade_number = $2", card, first)
        return TradePage(trades, _trade(rows[0]))

    async def _last_before_boundary(self, card: str, before: TradeBoundary | None) -> int:
        """The number of the last trade of a card, or of the last one before a boundary."""
        if before is None:
            return await self._last_number_before(card, "trade_number", NUMBER_MAX)
        if before.card == card:
            return await self._last_number_before(card, "trade_number", before.number)
        # Trades of the same time are in the order of their cards.
        return await self._last_number_before(card, "executed_at", before.executed_at, inclusive=card < before.card)

    async def last_number_before(self, card: str, moment: datetime | None) -> int:
        """The number of the last trade of a card, or of the last one before a moment; 0 if there is none."""
        if moment is None:
            return await self._last_number_before(card, "trade_number", NUMBER_MAX)
        return await self._last_number_before(card, "executed_at", moment.isoformat())

    async def _last_number_before(self, card: str, column: str, value: int | str, *, inclusive: bool = False) -> int:
        """The number of the last trade of a card whose value in `column` is below (or equals) `value`; 0 if none is.

        The values of the column never decrease from trade to trade, and numbers have no gaps. So this is a binary
        search.
        """
        kind = "text::timestamptz" if isinstance(value, str) else "bigint"
        rows = await self._fetch(_search(card, f"{column} {'<=' if inclusive else '<'} $1::{kind}"), value)
        return int(rows[0]["low"])

    async def cursors(self, cards: Sequence[str]) -> dict[str, Cursor]:
        """The cursor of each card, or `START`, for `archiver.lag.lag`."""
        known = await cursors(self._pool)
        return {card: known.get(card, START) for card in cards}

    async def valid_keys(self, trader_id: int) -> tuple[str, Sequence[tuple[str, bytes]]] | None:
        """See `api_keys.valid_hashes`."""
        return await api_keys.valid_hashes(self._pool, trader_id)

    async def answers(self) -> bool:
        """True if the archive can be read.

        Raises:
            Unavailable: PostgreSQL does not answer, or no migration has been run.
        """
        await self._fetch("SELECT 1 FROM schema_migrations LIMIT 1")
        return True

    async def has_archiver(self) -> bool:
        """Whether an archiver holds the lock."""
        rows = await self._fetch(
            "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 "
            "AND classid::bigint = $1 AND objid::bigint = $2",
            ARCHIVER_LOCK >> 32,
            ARCHIVER_LOCK & 0xFFFF_FFFF,
        )
        return bool(rows)

    async def _fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        with postgres_errors():
            return await self._pool.fetch(query, *arguments)


def _candle_place(card: str) -> str:
    """A query for the last archived command of a card, its last archived trade, and the last one in candles."""
    return f"""
        SELECT greatest(c.sequence, h.base, 0) AS sequence, coalesce(c.candles_to, 0) AS candles_to,
            (SELECT coalesce(max(trade_number), 0) FROM trades_{card}) AS last
        FROM (VALUES ('{card}')) AS wanted (card) LEFT JOIN archive_cursor c ON c.card = wanted.card
        LEFT JOIN histories h ON h.card = wanted.card AND h.ended_at IS NULL
    """


def _check_complete(card: str, row: asyncpg.Record) -> None:
    if row["candles_to"] < row["last"]:
        raise Unavailable(
            f"The candles of {card} are still made, {row['candles_to']} of {row['last']} trades are in them"
        )


def _start_of(candle: Candle) -> int:
    return candle.start


_RFC3339 = 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'
_ORDER = (
    "card, sequence, trader_id, side::text, price_cents, quantity, filled_quantity, status::text, "
    "time_in_force::text, client_order_id, post_only, replaces, carried_quantity, reason, replaced_by, "
    f"to_char(accepted_at AT TIME ZONE 'UTC', '{_RFC3339}') AS accepted_text, "
    f"to_char(closed_at AT TIME ZONE 'UTC', '{_RFC3339}') AS closed_text"
)

_TRADE = (
    "card, trade_number, taker_sequence, maker_sequence, taker_trader_id, maker_trader_id, price_cents, quantity, "
    f"taker_side::text, to_char(executed_at AT TIME ZONE 'UTC', '{_RFC3339}') AS executed_text"
)


def _order(row: asyncpg.Record) -> Order:
    return Order(
        card=row["card"],
        sequence=row["sequence"],
        trader_id=row["trader_id"],
        side=Side(row["side"]),
        price_cents=row["price_cents"],
        quantity=row["quantity"],
        filled_quantity=row["filled_quantity"],
        status=Status(row["status"]),
        time_in_force=TimeInForce(row["time_in_force"]),
        client_order_id=row["client_order_id"],
        accepted_at=row["accepted_text"],
        closed_at=row["closed_text"],
        post_only=bool(row["post_only"]),
        replaces=row["replaces"],
        carried_quantity=row["carried_quantity"] or 0,
        reason=Reason(row["reason"]) if row["reason"] else None,
        replaced_by=row["replaced_by"],
    )


def _trade(row: asyncpg.Record) -> Trade:
    return Trade(
        card=row["card"],
        number=row["trade_number"],
        taker_sequence=row["taker_sequence"],
        maker_sequence=row["maker_sequence"],
        taker_trader_id=row["taker_trader_id"],
        maker_trader_id=row["maker_trader_id"],
        price_cents=row["price_cents"],
        quantity=row["quantity"],
        taker_side=Side(row["taker_side"]),
        executed_at=row["executed_text"],
    )


ORDER_COLUMNS, TRADE_COLUMNS = _ORDER, _TRADE
order_of, trade_of = _order, _trade
"""What pages select, and their rows as orders and trades, for other modules of the archive."""


def _search(card: str, is_before: str) -> str:
    """The query of a binary search over the trades of a card: `low` is the number of the last one for which a condition
    holds; 0 if it holds for none. The condition holds for no trade behind one for which it does not hold."""
    return f"""
        WITH RECURSIVE search (low, high) AS (
            SELECT 0::bigint, (SELECT coalesce(max(trade_number), 0) FROM trades_{card})
            UNION ALL
            SELECT CASE WHEN is_before THEN middle ELSE low END, CASE WHEN is_before THEN high ELSE middle - 1 END
            FROM search
            CROSS JOIN LATERAL (SELECT (low + high + 1) / 2 AS middle) AS half
            CROSS JOIN LATERAL (
                SELECT {is_before} AS is_before FROM trades_{card} WHERE trade_number = middle
            ) AS probe
            WHERE low < high
        )
        SELECT low FROM search WHERE low = high
    """
