"""All SQL of the archive: bulk inserts by the archiver, queries by the API."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import asyncpg
import msgspec

from core import urls
from core.errors import HistoryConflict, StartError, Unavailable, reason
from core.model import Order, Side, Status, TimeInForce, Trade
from engine.codec import ORDER_COLUMNS, TRADE_COLUMNS

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
RECOVER_SECONDS = 3_600
ROWS_BYTES = 500
NUMBER_MAX = 2**62


class Cursor(msgspec.Struct, frozen=True):
    """The last archived event of a card, and the log entry it was made of."""

    event_id: str
    log_id: str

    @property
    def sequence(self) -> int:
        """The last archived command."""
        return int(self.event_id.partition("-")[0])


START = Cursor("0-0", "0-0")
"""Where a card stands of which nothing is archived."""


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """What the archive knows of a card: its history, the sequence before that one's first command, and the highest one
    that was given out; its cursor, and the history that the cursor is of. Empty, 0 and None where it knows nothing."""

    history_id: str = ""
    base: int = 0
    given: int = 0
    cursor: Cursor | None = None
    cursor_history_id: str = ""

    @property
    def last(self) -> int:
        """The highest sequence that the archive knows of."""
        return max(self.base, self.given, self.cursor.sequence if self.cursor else 0)


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


class Before(NamedTuple):
    """A moment between two trades: before all trades of this time, card and number, and later ones."""

    executed_at: str
    card: str
    number: int


class TradesWith(NamedTuple):
    """Trades of a trader, newest first, and the oldest trade that was looked at; None where it is the card's first."""

    trades: list[Trade]
    reached: Trade | None


@contextlib.contextmanager
def postgres_errors() -> Iterator[None]:
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
    with postgres_errors():
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
    with postgres_errors():
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
            with postgres_errors():
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
    with postgres_errors():
        await connection.execute("; ".join(f"SET {name} = {value}" for name, value in settings.items()))


async def beat(connection: asyncpg.Connection) -> None:
    """Asks for nothing, so that the server knows that this client is there, and the client that the server is.

    Raises:
        Unavailable: it is not.
    """
    with postgres_errors():
        await connection.execute("SELECT 1")


async def lock_archiver(connection: asyncpg.Connection) -> bool:
    """Whether this connection is the one that archives now."""
    with postgres_errors():
        return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", ARCHIVER_LOCK))


async def cursors(connection: asyncpg.Connection | asyncpg.Pool) -> dict[str, Cursor]:
    """How far each card is archived; a card of which nothing is has none."""
    with postgres_errors():
        rows = await connection.fetch("SELECT card, event_id, log_id FROM archive_cursor")
    return {row["card"]: Cursor(row["event_id"], row["log_id"]) for row in rows}


async def untraded(connection: asyncpg.Connection, cards: Sequence[str]) -> list[str]:
    """Cards that have orders, but are not among these: nobody sees or cancels what is open of them."""
    return sorted(set(await cursors(connection)) - set(cards))


async def registered(database: asyncpg.Connection | asyncpg.Pool, cards: Sequence[str]) -> dict[str, Registered]:
    """What the archive knows of each of these cards' histories."""
    with postgres_errors():
        rows = await database.fetch(
            "SELECT wanted.card, h.history_id, h.base, h.given, c.event_id, c.log_id, "
            "c.history_id AS cursor_history_id "
            "FROM unnest($1::text[]) AS wanted (card) "
            "LEFT JOIN histories h ON h.card = wanted.card AND h.ended_at IS NULL "
            "LEFT JOIN archive_cursor c ON c.card = wanted.card",
            list(cards),
        )
    found = {
        row["card"]: Registered(
            history_id=row["history_id"] or "",
            base=row["base"] or 0,
            given=row["given"] or 0,
            cursor=Cursor(row["event_id"], row["log_id"]) if row["event_id"] else None,
            cursor_history_id=row["cursor_history_id"] or "",
        )
        for row in rows
    }
    return {card: found.get(card, Registered()) for card in cards}


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


async def completed_among(connection: asyncpg.Connection, card: str, sequences: Sequence[int]) -> set[int]:
    """Which of these orders are archived."""
    with postgres_errors():
        rows = await connection.fetch(
            "SELECT sequence FROM orders WHERE card = $1 AND sequence = ANY($2)",
            card,
            sequences,
            timeout=RECOVER_SECONDS,
        )
    return {row["sequence"] for row in rows}


async def filled_quantities(connection: asyncpg.Connection, card: str, after: int) -> dict[int, int]:
    """The quantity that the archive's trades filled of each order that is not archived itself, after a trade number."""
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
    """The number of a card's last archived trade."""
    with postgres_errors():
        return int(await connection.fetchval("SELECT max(trade_number) FROM trades WHERE card = $1", card) or 0)


async def orders_after(connection: asyncpg.Connection, card: str, sequence: int, limit: int) -> list[Order]:
    """The latest archived orders after a command, oldest first."""
    with postgres_errors():
        rows = await connection.fetch(
            f"SELECT {_ORDER} FROM orders WHERE card = $1 AND sequence > $2 ORDER BY sequence DESC LIMIT $3",
            *(card, sequence, limit),
            timeout=RECOVER_SECONDS,
        )
    return [_order(row) for row in reversed(rows)]


async def count_after(connection: asyncpg.Connection, card: str, sequence: int) -> int:
    """How many orders are archived after a command."""
    with postgres_errors():
        return int(
            await connection.fetchval(
                "SELECT count(*) FROM orders WHERE card = $1 AND sequence > $2",
                *(card, sequence),
                timeout=RECOVER_SECONDS,
            )
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


class Archive:
    """What the API reads from PostgreSQL."""

    def __init__(self, pool: asyncpg.Pool | asyncpg.Connection) -> None:
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

    async def orders_with(self, card: str, sequences: Sequence[int]) -> list[Order]:
        """The completed ones of these orders, newest first."""
        rows = await self._fetch(
            f"SELECT {_ORDER} FROM orders WHERE card = $1 AND sequence = ANY($2::bigint[]) ORDER BY sequence DESC",
            card,
            sequences,
        )
        return [_order(row) for row in rows]

    async def orders(
        self, trader_id: int, *, card: str | None, before: tuple[str, int] | None, limit: int
    ) -> list[Order]:
        """A trader's completed orders, by acceptance, newest first; those before an order, if one is given.

        Raises:
            LookupError: the order to continue before is not in the archive.
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
        """A trader's completed orders, by acceptance, newest first; those before an accepted_at, card and sequence, if
        they are given. `cards`: only these."""
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
        """A card's trades, newest first; those before a trade number, if one is given."""
        rows = await self._fetch(
            f"SELECT {_TRADE} FROM trades WHERE card = $1 AND trade_number < $2 ORDER BY trade_number DESC LIMIT $3",
            card,
            before if before is not None else NUMBER_MAX,
            limit,
        )
        return [_trade(row) for row in rows]

    async def trades_of(
        self, card: str, sequence: int, *, quantity: int, before: int | None, limit: int
    ) -> list[Trade]:
        """The trades of an order of this quantity, newest first; those before a trade number, if one is given."""
        # As taker it had one after the other, at most as many as its quantity.
        last = await self._last_before(card, "taker_sequence", sequence)
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

    async def trades_with(
        self, trader_id: int, card: str, *, before: Before | None, looked_at: int, limit: int
    ) -> TradesWith:
        """A trader's trades among the newest of a card, or the newest before a moment: so many are looked at, without
        an index, which would cost every row as much as a third of what it costs (docs/measurements/archive.md)."""
        last = await self._last(card, before)
        first = max(1, last - looked_at + 1)
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
            return TradesWith(trades, trades[-1])
        if first == 1:
            return TradesWith(trades, None)
        rows = await self._fetch(f"SELECT {_TRADE} FROM trades WHERE card = $1 AND trade_number = $2", card, first)
        return TradesWith(trades, _trade(rows[0]))

    async def _last(self, card: str, before: Before | None) -> int:
        """The number of a card's last trade, or of the last one before a moment."""
        if before is None:
            return await self._last_before(card, "trade_number", NUMBER_MAX)
        if before.card == card:
            return await self._last_before(card, "trade_number", before.number)
        # Trades of one moment are in the order of their cards.
        return await self._last_before(card, "executed_at", before.executed_at, inclusive=card < before.card)

    async def _last_before(self, card: str, column: str, value: int | str, *, inclusive: bool = False) -> int:
        """The number of a card's last trade whose value in this column, which never falls from one trade to the next,
        is below (or at) this one; 0 if there is none. The numbers have no gaps, so the search halves them."""
        kind = "text::timestamptz" if isinstance(value, str) else "bigint"
        rows = await self._fetch(
            f"""
            WITH RECURSIVE search (low, high) AS (
                SELECT 0::bigint, (SELECT coalesce(max(trade_number), 0) FROM trades_{card})
                UNION ALL
                SELECT CASE WHEN is_before THEN middle ELSE low END, CASE WHEN is_before THEN high ELSE middle - 1 END
                FROM search
                CROSS JOIN LATERAL (SELECT (low + high + 1) / 2 AS middle) AS half
                CROSS JOIN LATERAL (
                    SELECT {column} {"<=" if inclusive else "<"} $1::{kind} AS is_before
                    FROM trades_{card} WHERE trade_number = middle
                ) AS looked_at
                WHERE low < high
            )
            SELECT low FROM search WHERE low = high
            """,
            value,
        )
        return int(rows[0]["low"])

    async def cursors(self, cards: Sequence[str]) -> dict[str, Cursor]:
        """How far each of these cards is archived, for `archiver.lag.lag`."""
        found = await cursors(self._pool)
        return {card: found.get(card, START) for card in cards}

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
        with postgres_errors():
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
        url,
        min_size=0,
        max_size=4,
        timeout=CONNECT_SECONDS,
        command_timeout=CONNECT_SECONDS,
        init=check,
        connection_class=_Connection,
    )


class _Connection(asyncpg.Connection):
    """A connection that is closed where a query is given up. Otherwise it goes back to the pool only once the server
    has taken the query back, and whoever gave it up waits for that: up to `CONNECT_SECONDS` if the server hangs."""

    async def fetch(self, *arguments: Any, **options: Any) -> Any:
        """As asyncpg has it."""
        with self._closed_if_given_up():
            return await super().fetch(*arguments, **options)

    async def fetchval(self, *arguments: Any, **options: Any) -> Any:
        """As asyncpg has it."""
        with self._closed_if_given_up():
            return await super().fetchval(*arguments, **options)

    async def execute(self, *arguments: Any, **options: Any) -> Any:
        """As asyncpg has it."""
        with self._closed_if_given_up():
            return await super().execute(*arguments, **options)

    @contextlib.contextmanager
    def _closed_if_given_up(self) -> Iterator[None]:
        try:
            yield
        except (asyncio.CancelledError, TimeoutError):
            self.terminate()
            raise


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
