"""What is written into the archive: rows and cursors in one transaction, histories, the lock of the one that writes."""

from collections.abc import AsyncIterator, Mapping, Sequence

import asyncpg
import msgspec

from archiver.postgres import ARCHIVER_LOCK, postgres_errors
from archiver.queries import Cursor
from core.errors import HistoryConflict, Unavailable
from engine.codec import ORDER_COLUMNS, TRADE_COLUMNS

ROWS_BYTES = 500


class RowBatch(msgspec.Struct, frozen=True):
    """What is archived together of a card: lines as in {card}:events, and the position after them."""

    card: str
    trades: bytes
    orders: bytes
    cursor: Cursor

    @property
    def bytes(self) -> int:
        """What it takes in memory, about."""
        return len(self.trades) + len(self.orders) + ROWS_BYTES


async def lock_archiver(connection: asyncpg.Connection) -> bool:
    """Whether this connection is the one that archives now."""
    with postgres_errors():
        return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", ARCHIVER_LOCK))


async def register(
    database: asyncpg.Connection | asyncpg.Pool, card: str, history_id: str, *, base: int, given: int
) -> str:
    """Makes a history the card's, unless it has one. The id that it has then."""
    with postgres_errors():
        await database.execute(
            "INSERT INTO histories (card, history_id, base, given) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            card,
            history_id,
            base,
            given,
        )
        found = await database.fetchval("SELECT history_id FROM histories WHERE card = $1 AND ended_at IS NULL", card)
    if found is None:
        raise Unavailable(f"the archive has no history of {card}: it was ended meanwhile")
    return str(found)


async def raise_given(database: asyncpg.Connection | asyncpg.Pool, news: Mapping[str, tuple[str, int]]) -> None:
    """Notes up to which sequence was given out: history id and sequence, by card."""
    with postgres_errors():
        await database.execute(
            "UPDATE histories SET given = greatest(given, news.sequence) "
            "FROM unnest($1::text[], $2::text[], $3::bigint[]) AS news (card, history_id, sequence) "
            "WHERE histories.card = news.card AND histories.history_id = news.history_id",
            list(news),
            [history_id for history_id, _ in news.values()],
            [sequence for _, sequence in news.values()],
        )


async def name_cursor(connection: asyncpg.Connection, card: str, history_id: str) -> None:
    """Says of which history a card's cursor is that was written before there were any."""
    with postgres_errors():
        await connection.execute(
            "UPDATE archive_cursor SET history_id = $2 WHERE card = $1 AND history_id = ''", card, history_id
        )


async def follow(
    connection: asyncpg.Connection, card: str, history_id: str, *, base: int, given: int, cursor: Cursor
) -> None:
    """Ends a card's history in the archive and begins the one that follows it, at a position."""
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
    """Rows and cursors in one transaction: after it, all of these are archived, or none is. `histories`: the history
    that each card's rows are of."""
    of_card = histories or {}
    with postgres_errors():
        async with connection.transaction():
            await _check_current(connection, of_card)
            for rows in archived:
                await _copy(connection, f"trades_{rows.card}", TRADE_COLUMNS, rows.trades)
                await _copy(connection, f"orders_{rows.card}", ORDER_COLUMNS, rows.orders)
            await connection.executemany(
                "INSERT INTO archive_cursor (card, event_id, sequence, log_id, history_id, archived_at) "
                "VALUES ($1, $2, $3, $4, $5, now()) ON CONFLICT (card) DO UPDATE "
                "SET event_id = $2, sequence = $3, log_id = $4, history_id = $5, archived_at = now()",
                [
                    (card, cursor.event_id, cursor.sequence, cursor.log_id, of_card.get(card, ""))
                    for card, cursor in {rows.card: rows.cursor for rows in archived}.items()
                ],
            )


async def _check_current(connection: asyncpg.Connection, histories: Mapping[str, str]) -> None:
    """That these are the cards' histories, and stay so until the transaction ends."""
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

    # The lines are in the text format of COPY already; their values hold no character that needs an escape.
    await connection.copy_to_table(table, source=source(), columns=columns, delimiter=",", null="")
