"""Writes to the archive: rows and cursors in one transaction, histories, and the lock of the archiver.

All functions raise `Unavailable` if PostgreSQL does not answer.
"""

from collections.abc import AsyncIterator, Mapping, Sequence

import asyncpg
import msgspec

from archiver import candles
from archiver.postgres import ARCHIVER_LOCK, postgres_errors, terminate_if_late
from archiver.queries import Cursor
from core.errors import HistoryConflict, Unavailable
from engine.codec import CHAIN_COLUMNS, ORDER_COLUMNS, TRADE_COLUMNS, archive_lines

OVERHEAD_BYTES = 500
"""The approximate size of an empty batch in memory."""


class RowBatch(msgspec.Struct, frozen=True):
    """Rows of a card that are archived together: lines as in {card}:events, and the cursor after them."""

    card: str
    trades: bytes
    orders: bytes
    cursor: Cursor

    @property
    def bytes(self) -> int:
        """The approximate size in memory."""
        return len(self.trades) + len(self.orders) + OVERHEAD_BYTES


async def lock_archiver(connection: asyncpg.Connection) -> bool:
    """Tries to take the lock of the archiver. Whether this connection holds it."""
    with postgres_errors():
        return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", ARCHIVER_LOCK))


async def unlock_archiver(connection: asyncpg.Connection) -> None:
    """Releases the lock of the archiver, which this connection holds."""
    with postgres_errors():
        await connection.execute("SELECT pg_advisory_unlock($1)", ARCHIVER_LOCK)


async def register(
    database: asyncpg.Connection | asyncpg.Pool, card: str, history_id: str, *, base: int, given: int
) -> str:
    """Registers a history of a card, unless the card has one. Returns the id of the history that the card then has."""
    with postgres_errors():
        await database.execute(
            "INSERT INTO histories (card, history_id, base, given) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            card,
            history_id,
            base,
            given,
        )
        current = await database.fetchval("SELECT history_id FROM histories WHERE card = $1 AND ended_at IS NULL", card)
    if current is None:
        raise Unavailable(f"the archive has no history of {card}: it was ended meanwhile")
    return str(current)


async def record_given(database: asyncpg.Connection | asyncpg.Pool, news: Mapping[str, tuple[str, int]]) -> None:
    """Records the last sequence that was given out for each card. `news`: history id and sequence by card."""
    with postgres_errors():
        await database.execute(
            "UPDATE histories SET given = greatest(given, news.sequence) "
            "FROM unnest($1::text[], $2::text[], $3::bigint[]) AS news (card, history_id, sequence) "
            "WHERE histories.card = news.card AND histories.history_id = news.history_id",
            list(news),
            [history_id for history_id, _ in news.values()],
            [sequence for _, sequence in news.values()],
        )


async def set_cursor_history(connection: asyncpg.Connection, card: str, history_id: str) -> None:
    """Assigns a history to a cursor from a version without histories."""
    with postgres_errors():
        await connection.execute(
            "UPDATE archive_cursor SET history_id = $2 WHERE card = $1 AND history_id = ''", card, history_id
        )


async def succeed_history(
    connection: asyncpg.Connection, card: str, history_id: str, *, base: int, given: int, cursor: Cursor
) -> None:
    """Ends the history of a card and begins its successor. The cursor of the card becomes `cursor`."""
    with postgres_errors():
        async with connection.transaction():
            await connection.execute("UPDATE histories SET ended_at = now() WHERE card = $1 AND ended_at IS NULL", card)
            await connection.execute(
                "INSERT INTO histories (card, history_id, base, given) VALUES ($1, $2, $3, $4)",
                *(card, history_id, base, given),
            )
            await connection.execute(
                "INSERT INTO archive_cursor (card, event_id, sequence, log_id, history_id, archived_at) "
                "VALUES ($1, $2, $3, $4, $5, now()) ON CONFLICT (card) DO UPDATE "
                "SET event_id = $2, sequence = $3, log_id = $4, history_id = $5, archived_at = now()",
                *(card, cursor.event_id, cursor.sequence, cursor.log_id, history_id),
            )


async def insert(
    connection: asyncpg.Connection, archived: Sequence[RowBatch], histories: Mapping[str, str] | None = None
) -> None:
    """Inserts rows, moves cursors and adds trades to candles in one transaction.

    `histories`: the history of each card's rows.

    Raises:
        HistoryConflict: the archive has another history of a card.
    """
    history_of = histories or {}
    with postgres_errors():
        async with connection.transaction():
            with terminate_if_late(connection):
                await _check_current(connection, history_of)
                for rows in archived:
                    await _copy(connection, f"trades_{rows.card}", TRADE_COLUMNS, rows.trades)
                    plain, chained = archive_lines(rows.orders)
                    await _copy(connection, f"orders_{rows.card}", ORDER_COLUMNS, plain)
                    await _copy(connection, f"orders_{rows.card}", ORDER_COLUMNS + CHAIN_COLUMNS, chained)
                await connection.executemany(
                    "INSERT INTO archive_cursor (card, event_id, sequence, log_id, history_id, archived_at) "
                    "VALUES ($1, $2, $3, $4, $5, now()) ON CONFLICT (card) DO UPDATE "
                    "SET event_id = $2, sequence = $3, log_id = $4, history_id = $5, archived_at = now()",
                    [
                        (card, cursor.event_id, cursor.sequence, cursor.log_id, history_of.get(card, ""))
                        for card, cursor in {rows.card: rows.cursor for rows in archived}.items()
                    ],
                )
                for card, lines in {rows.card: rows.trades for rows in archived if rows.trades}.items():
                    await candles.add(connection, card, _last_number(lines))


def _last_number(trade_lines: bytes) -> int:
    """The number of the last trade of lines that each end with a newline."""
    begin = trade_lines.rfind(b"\n", 0, -1) + 1
    return int(trade_lines[begin : trade_lines.index(b",", begin)])


async def _check_current(connection: asyncpg.Connection, histories: Mapping[str, str]) -> None:
    """Checks the current history of each card, and locks it until the transaction ends."""
    rows = await connection.fetch(
        "SELECT card, history_id FROM histories WHERE card = ANY($1) AND ended_at IS NULL FOR SHARE", list(histories)
    )
    current = {row["card"]: row["history_id"] for row in rows}
    for card, history_id in histories.items():
        if current.get(card) != history_id:
            raise HistoryConflict(f"the archive has another history of {card} than when the archiver began")


async def _copy(connection: asyncpg.Connection, table: str, columns: Sequence[str], lines: bytes) -> None:
    if not lines:
        return

    async def source() -> AsyncIterator[bytes]:
        yield lines

    # The lines are in the text format of COPY. Their values have no character that needs an escape.
    await connection.copy_to_table(table, source=source(), columns=columns, delimiter=",", null="")
