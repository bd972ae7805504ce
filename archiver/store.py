"""All SQL of the archive: bulk inserts by the archiver, queries by the API."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import asyncpg
import msgspec

from engine import urls
from engine.codec import ORDER_COLUMNS, TRADE_COLUMNS
from engine.errors import StartError, Unavailable, reason
from engine.model import Order, Side, Status, TimeInForce, Trade

ARCHIVER_LOCK = 0x7463_6778_0002
"""PostgreSQL advisory lock of the archiver that works; it goes with its connection."""

BEAT_SECONDS = 10.0
IDLE_SECONDS = 60
LOST_CLIENT = {
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 25_000,
    "idle_in_transaction_session_timeout": IDLE_SECONDS * 1_000,
}
"""Settings of a session after which the server knows in half a minute that its client is gone, and in a minute where
something between them still answers for it. On a unix socket the kernel tells at once, and those of TCP are ignored."""

POOLER_PROBES = 10
POOLER = (
    "TCGX_DATABASE_URL leads to a connection pooler that lends a session for one transaction only (pgbouncer: "
    "pool_mode=transaction), but the archiver's lock needs one of its own: use pool_mode=session, or the address of "
    "PostgreSQL itself"
)
CONNECT_SECONDS = 5
COMMAND_SECONDS = 30
ROWS_BYTES = 500


class Cursor(msgspec.Struct, frozen=True):
    """The last archived event of a card, and the log entry it was made of."""

    event_id: str
    log_id: str

    @property
    def sequence(self) -> int:
        """The last archived command."""
        return int(self.event_id.partition("-")[0])


BEGINNING = Cursor("0-0", "0-0")
"""Where a card stands of which nothing is archived."""


class Rows(msgspec.Struct, frozen=True):
    """What is archived together of a card: lines as in {card}:events, and the position after them."""

    card: str
    trades: bytes
    orders: bytes
    cursor: Cursor

    @property
    def bytes(self) -> int:
        """What it takes in memory, about."""
        return len(self.trades) + len(self.orders) + ROWS_BYTES


@contextlib.contextmanager
def understood() -> Iterator[None]:
    """Turns errors of asyncpg into `Unavailable`: whatever it is, the archive could not be read or written. Nothing but
    calls of asyncpg belongs inside."""
    try:
        yield
    except asyncpg.DiskFullError as error:
        raise Unavailable(f"The disk of PostgreSQL is full: {reason(error)}") from error
    except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresError) as error:
        raise Unavailable(f"PostgreSQL did not answer: {reason(error)}") from error
    except (AssertionError, BufferError, ValueError, LookupError) as error:
        # asyncpg ends so where what decodes the replies gets those to another statement, as through a pooler.
        raise Unavailable(f"PostgreSQL's reply can't be read: {type(error).__name__} {error}") from error


async def connect(url: str) -> asyncpg.Connection:
    """One connection, with a session of its own.

    Raises:
        StartError: the url is none, the server refuses the password or the database, or a pooler gives every
            transaction another session.
        Unavailable: it does not answer.
    """
    urls.check_database(url)
    connection = await _connect(url)
    try:
        await _check_session(connection, url)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _connect(url: str, **options: Any) -> asyncpg.Connection:
    with understood():
        try:
            return await asyncpg.connect(url, timeout=CONNECT_SECONDS, command_timeout=COMMAND_SECONDS, **options)
        except (
            asyncpg.InvalidAuthorizationSpecificationError,
            asyncpg.InvalidCatalogNameError,
            asyncpg.ClientConfigurationError,
            ValueError,  # a port that is no number
        ) as error:
            raise StartError(f"PostgreSQL refuses TCGX_DATABASE_URL: {reason(error)}") from error


async def _check_session(connection: asyncpg.Connection, url: str) -> None:
    """That one session does all that a connection asks for: locks and prepared statements belong to a session.

    Raises:
        StartError: it does not.
    """
    with understood():
        # A plain query: through a pooler, a prepared statement would stay behind in somebody else's session.
        own = await connection.execute(f"SELECT 1 WHERE pg_backend_pid() = {connection.get_server_pid()}")
    if own == "SELECT 1":
        return
    # There is a pooler between. If it lends a session for a transaction, the one that was given back last is lent next.
    others = [await _connect(url, statement_cache_size=0) for _ in range(2)]
    try:
        used = [await _session(other) for _ in range(POOLER_PROBES) for other in others]
    except TimeoutError:
        return  # no session is free for the second: each connection has its own
    finally:
        for other in others:
            other.terminate()
    if used[0::2].count(used[0]) < POOLER_PROBES or used[0] in used[1::2]:
        raise StartError(POOLER)


async def _session(connection: asyncpg.Connection) -> Any:
    """The process that does a transaction.

    Raises:
        TimeoutError: none is free.
    """
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            with understood():
                async with connection.transaction():
                    return await connection.fetchval("SELECT pg_backend_pid()")
    except Unavailable as error:
        if "transaction blocks not allowed" in str(error):  # a pooler that lends it for a statement only
            raise StartError(POOLER) from error
        raise


async def end_of(connection: asyncpg.Connection) -> None:
    """Raises `Unavailable` when the connection ends, which an idle one would not notice by itself."""
    ended = asyncio.Event()
    connection.add_termination_listener(lambda _: ended.set())
    if not connection.is_closed():
        await ended.wait()
    raise Unavailable("PostgreSQL closed the connection")


async def end_with_client(connection: asyncpg.Connection) -> None:
    """Lets the server end this connection, and what is locked with it, soon after its client is gone, however: a path
    through the network that breaks tells nobody, and the server would wait for two hours. Such a client asks for
    something at least every `BEAT_SECONDS`."""
    settings = dict(LOST_CLIENT)
    if connection.get_server_version().major >= 14:
        settings["idle_session_timeout"] = IDLE_SECONDS * 1_000
    with understood():
        await connection.execute("; ".join(f"SET {name} = {value}" for name, value in settings.items()))


async def beat(connection: asyncpg.Connection) -> None:
    """Asks for nothing, so that the server knows that this client is there, and the client that the server is.

    Raises:
        Unavailable: it is not.
    """
    with understood():
        await connection.execute("SELECT 1")


async def lock_archiver(connection: asyncpg.Connection) -> bool:
    """Whether this connection is the one that archives now."""
    with understood():
        return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", ARCHIVER_LOCK))


async def cursors(connection: asyncpg.Connection | asyncpg.Pool) -> dict[str, Cursor]:
    """How far each card is archived; a card of which nothing is has none."""
    with understood():
        rows = await connection.fetch("SELECT card, event_id, log_id FROM archive_cursor")
    return {row["card"]: Cursor(row["event_id"], row["log_id"]) for row in rows}


async def untraded(connection: asyncpg.Connection, cards: Sequence[str]) -> list[str]:
    """Cards that have orders, but are not among these: nobody sees or cancels what is open of them."""
    return sorted(set(await cursors(connection)) - set(cards))


async def insert(connection: asyncpg.Connection, archived: Sequence[Rows]) -> None:
    """Rows and cursors in one transaction: after it, all of these are archived, or none is."""
    with understood():
        async with connection.transaction():
            for rows in archived:
                await _copy(connection, f"trades_{rows.card}", TRADE_COLUMNS, rows.trades)
                await _copy(connection, f"orders_{rows.card}", ORDER_COLUMNS, rows.orders)
            await connection.executemany(
                "INSERT INTO archive_cursor (card, event_id, sequence, log_id, archived_at) "
                "VALUES ($1, $2, $3, $4, now()) "
                "ON CONFLICT (card) DO UPDATE SET event_id = $2, sequence = $3, log_id = $4, archived_at = now()",
                [
                    (card, cursor.event_id, cursor.sequence, cursor.log_id)
                    for card, cursor in {rows.card: rows.cursor for rows in archived}.items()
                ],
            )


async def _copy(connection: asyncpg.Connection, table: str, columns: Sequence[str], lines: bytes) -> None:
    if not lines:
        return

    async def source() -> AsyncIterator[bytes]:
        yield lines

    # The lines are in the text format of COPY already; their values hold no character that needs an escape.
    await connection.copy_to_table(table, source=source(), columns=columns, delimiter=",", null="")


class Archive:
    """What the API reads from PostgreSQL."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def order(self, card: str, sequence: int) -> Order | None:
        """A completed order."""
        rows = await self._fetch(f"SELECT {_ORDER} FROM orders WHERE card = $1 AND sequence = $2", card, sequence)
        return _order(rows[0]) if rows else None

    async def client_order(self, trader_id: int, client_order_id: str) -> Order | None:
        """The latest completed order that a trader entered under its own id."""
        rows = await self._fetch(
            f"SELECT {_ORDER} FROM orders WHERE trader_id = $1 AND client_order_id = $2 "
            "ORDER BY accepted_at DESC, sequence DESC LIMIT 1",
            trader_id,
            client_order_id,
        )
        return _order(rows[0]) if rows else None

    async def orders(
        self, trader_id: int, *, card: str | None, before: tuple[str, int] | None, limit: int
    ) -> list[Order]:
        """A trader's completed orders, by acceptance, newest first; those before an order, if one is given.

        Raises:
            LookupError: the order to continue before is not in the archive.
        """
        where, arguments = ["trader_id = $1"], [trader_id]
        values: list[Any] = list(arguments)
        if card is not None:
            values.append(card)
            where.append(f"card = ${len(values)}")
        if before is not None:
            start = await self._fetch(
                "SELECT accepted_at FROM orders WHERE card = $1 AND sequence = $2 AND trader_id = $3",
                *before,
                trader_id,
            )
            if not start:
                raise LookupError(before)
            values += [start[0]["accepted_at"], *before]
            where.append(f"(accepted_at, card, sequence) < (${len(values) - 2}, ${len(values) - 1}, ${len(values)})")
        values.append(limit)
        rows = await self._fetch(
            f"SELECT {_ORDER} FROM orders WHERE {' AND '.join(where)} "
            f"ORDER BY accepted_at DESC, card DESC, sequence DESC LIMIT ${len(values)}",
            *values,
        )
        return [_order(row) for row in rows]

    async def trades(self, card: str, *, before: int | None, limit: int) -> list[Trade]:
        """A card's trades, newest first; those before a trade number, if one is given."""
        rows = await self._fetch(
            f"SELECT {_TRADE} FROM trades WHERE card = $1 AND trade_number < $2 ORDER BY trade_number DESC LIMIT $3",
            card,
            before if before is not None else 2**62,
            limit,
        )
        return [_trade(row) for row in rows]

    async def taker_trades(self, card: str, sequence: int) -> list[Trade]:
        """The trades that an order made when it arrived, in order."""
        rows = await self._fetch(
            f"SELECT {_TRADE} FROM trades WHERE card = $1 AND taker_sequence = $2 ORDER BY trade_number", card, sequence
        )
        return [_trade(row) for row in rows]

    async def cursor(self, card: str) -> str:
        """The last archived event id of a card."""
        rows = await self._fetch("SELECT event_id FROM archive_cursor WHERE card = $1", card)
        return str(rows[0]["event_id"]) if rows else "0-0"

    async def cursors(self, cards: Sequence[str]) -> dict[str, Cursor]:
        """How far each of these cards is archived, for `archiver.lag.lag`."""
        found = await cursors(self._pool)
        return {card: found.get(card, BEGINNING) for card in cards}

    async def api_key(self, trader_id: int) -> tuple[bytes, str] | None:
        """SHA-256 of a trader's API key, and the trader's role."""
        rows = await self._fetch("SELECT api_key_sha256, role FROM traders WHERE trader_id = $1", trader_id)
        return (rows[0]["api_key_sha256"], rows[0]["role"]) if rows else None

    async def answers(self) -> bool:
        """True, or raises `Unavailable`, also while no migration has been run."""
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
        with understood():
            return await self._pool.fetch(query, *arguments)


def pool(url: str) -> asyncpg.Pool:
    """Connections for the API; they are opened when first needed, so that orders flow without PostgreSQL.

    Raises:
        SettingError: the url is none.
    """
    urls.check_database(url)

    async def check(connection: asyncpg.Connection) -> None:
        try:
            await _check_session(connection, url)
        except StartError as error:
            raise Unavailable(f"PostgreSQL can't be read through this pooler: {error}") from error

    return asyncpg.create_pool(
        url, min_size=0, max_size=4, timeout=CONNECT_SECONDS, command_timeout=CONNECT_SECONDS, init=check
    )


_RFC3339 = 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'
_ORDER = (
    "card, sequence, trader_id, side::text, price_cents, quantity, filled_quantity, status::text, "
    "time_in_force::text, client_order_id, "
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
