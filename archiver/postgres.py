"""Connections to PostgreSQL, and the mapping of its errors."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import structlog

from core import urls
from core.errors import StartError, Unavailable, reason

log = structlog.get_logger()

ARCHIVER_LOCK = 0x7463_6778_0002
"""The advisory lock of the active archiver. It ends with the connection."""

RECOVER_SECONDS = 3_600

HEARTBEAT_SECONDS = 10.0

IDLE_SECONDS = 25

SESSION_TIMEOUTS = {
    "tcp_keepalives_idle": 3,
    "tcp_keepalives_interval": 2,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 9_000,
    "idle_in_transaction_session_timeout": IDLE_SECONDS * 1_000,
}
"""Session settings by which the server detects a lost client: within 10 s, so that a standby goes on.

`idle_session_timeout` does so within 25 s if a device in between, or the kernel of a client that hangs, still answers.
A server before version 14 lacks it.
On a unix socket the kernel reports the end of a client at once, and settings of TCP have no effect.
"""

POOLER_PROBES = 10

POOLER = (
    "TCGX_DATABASE_URL leads to a connection pooler that lends a session for one transaction only (pgbouncer: "
    "pool_mode=transaction), but the archiver's lock needs one of its own: use pool_mode=session, or the address of "
    "PostgreSQL itself"
)

CONNECT_SECONDS = 5

CLOSE_SECONDS = 1.0
"""How long connections of a pool may take to be closed. A server that hangs must not delay the end of a process."""

COMMAND_SECONDS = 30


@contextlib.contextmanager
def postgres_errors() -> Iterator[None]:
    """Maps errors of asyncpg to `Unavailable`. The context must contain only calls of asyncpg.

    Raises:
        Unavailable: the archive could not be read or written.
    """
    try:
        yield
    except (asyncpg.ReadOnlySQLTransactionError, asyncpg.TargetServerAttributeNotMatched) as error:
        raise Unavailable(
            f"PostgreSQL can't be written to, no host of its address is the primary: {reason(error)}"
        ) from error
    except asyncpg.DiskFullError as error:
        raise Unavailable(f"The disk of PostgreSQL is full: {reason(error)}") from error
    except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresError) as error:
        raise Unavailable(f"PostgreSQL did not answer: {reason(error)}") from error
    except (AssertionError, BufferError, ValueError, LookupError) as error:
        # asyncpg fails so if its decoder gets the reply to another statement, for example through a pooler.
        raise Unavailable(f"PostgreSQL's reply can't be read: {type(error).__name__} {error}") from error


async def connect(url: str) -> asyncpg.Connection:
    """One connection, with a session of its own.

    Raises:
        StartError: the url is invalid, the server refuses the password or the database, or a pooler gives every
            transaction another session.
        Unavailable: PostgreSQL does not answer.
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
            return await asyncpg.connect(
                url, timeout=CONNECT_SECONDS, command_timeout=COMMAND_SECONDS, **_wanted_server(url), **options
            )
        except (
            asyncpg.InvalidAuthorizationSpecificationError,
            asyncpg.InvalidCatalogNameError,
            asyncpg.ClientConfigurationError,
            ValueError,  # the port is not a number
        ) as error:
            raise StartError(f"PostgreSQL refuses TCGX_DATABASE_URL: {reason(error)}") from error


def _wanted_server(url: str) -> dict[str, Any]:
    """The options that select the primary among the hosts of an address, unless it says otherwise by itself."""
    return {} if "target_session_attrs=" in url else {"target_session_attrs": "read-write"}


async def _check_session(connection: asyncpg.Connection, url: str) -> None:
    """Checks that a connection keeps its session, since locks and prepared statements belong to a session.

    Raises:
        StartError: a pooler gives every transaction another session.
    """
    with postgres_errors():
        # A simple query, since a prepared statement would stay in a session of the pooler that other clients get.
        own = await connection.execute(f"SELECT 1 WHERE pg_backend_pid() = {connection.get_server_pid()}")
    if own == "SELECT 1":
        return
    # There is a pooler. One with a session per transaction reuses the session that was returned last.
    others = [await _connect(url, statement_cache_size=0) for _ in range(2)]
    try:
        used = [await _session(other) for _ in range(POOLER_PROBES) for other in others]
    except TimeoutError:
        return  # no session is free for the second connection, so each connection keeps its own
    finally:
        for other in others:
            other.terminate()
    if used[0::2].count(used[0]) < POOLER_PROBES or used[0] in used[1::2]:
        raise StartError(POOLER)


async def _session(connection: asyncpg.Connection) -> Any:
    """The process id of the session that runs a transaction.

    Raises:
        TimeoutError: no session is free.
    """
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            with postgres_errors():
                async with connection.transaction():
                    return await connection.fetchval("SELECT pg_backend_pid()")
    except Unavailable as error:
        if "transaction blocks not allowed" in str(error):  # a pooler with a session per statement
            raise StartError(POOLER) from error
        raise


async def watch_termination(connection: asyncpg.Connection) -> None:
    """Waits until the connection ends. Without this, an idle client would not notice it.

    Raises:
        Unavailable: the connection has ended.
    """
    ended = asyncio.Event()
    connection.add_termination_listener(lambda _: ended.set())
    if not connection.is_closed():
        await ended.wait()
    raise Unavailable("PostgreSQL closed the connection")


async def set_session_timeouts(connection: asyncpg.Connection) -> None:
    """Makes the server end this connection, with its locks, soon after it has lost the client.

    By default a server detects a broken network path after two hours only. The client must send a query at least every
    `HEARTBEAT_SECONDS`.
    """
    settings = dict(SESSION_TIMEOUTS)
    if connection.get_server_version().major >= 14:
        settings["idle_session_timeout"] = IDLE_SECONDS * 1_000
    with postgres_errors():
        await connection.execute("; ".join(f"SET {name} = {value}" for name, value in settings.items()))


@contextlib.contextmanager
def terminate_if_late(connection: asyncpg.Connection) -> Iterator[None]:
    """Ends a connection on which a statement takes too long. The context is inside of a transaction.

    The rollback would wait for the lost answer for as long again.
    """
    try:
        yield
    except TimeoutError:
        connection.terminate()
        raise


async def send_heartbeat(connection: asyncpg.Connection) -> None:
    """Sends an empty query, by which server and client see that the other side is alive.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    with postgres_errors():
        await connection.execute("SELECT 1")


class _PoolConnection(asyncpg.Connection):
    """A connection that closes if a query is canceled or times out, or if the server takes no writes.

    A connection of asyncpg would first wait until the server has canceled the query. If the server hangs, the caller
    would wait for up to `CONNECT_SECONDS`. A server that takes no writes was demoted, and its reads are old.
    """

    async def fetch(self, *arguments: Any, **options: Any) -> Any:
        """Runs a query, as in asyncpg."""
        with self._close_if_lost():
            return await super().fetch(*arguments, **options)

    async def fetchval(self, *arguments: Any, **options: Any) -> Any:
        """Runs a query, as in asyncpg."""
        with self._close_if_lost():
            return await super().fetchval(*arguments, **options)

    async def execute(self, *arguments: Any, **options: Any) -> Any:
        """Runs a query, as in asyncpg."""
        with self._close_if_lost():
            return await super().execute(*arguments, **options)

    @contextlib.contextmanager
    def _close_if_lost(self) -> Iterator[None]:
        try:
            yield
        except (asyncio.CancelledError, TimeoutError, asyncpg.ReadOnlySQLTransactionError):
            self.terminate()
            raise


@contextlib.asynccontextmanager
async def pool(url: str, *, size: int = 4) -> AsyncIterator[asyncpg.Pool]:
    """A pool for the API. Connections open on first use, so orders are accepted without PostgreSQL.

    Raises:
        SettingError: the url is invalid.
    """
    urls.check_database(url)

    async def check(connection: asyncpg.Connection) -> None:
        try:
            await _check_session(connection, url)
        except StartError as error:
            raise Unavailable(f"PostgreSQL can't be read through this pooler: {error}") from error

    connections = await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=size,
        timeout=CONNECT_SECONDS,
        command_timeout=CONNECT_SECONDS,
        init=check,
        connection_class=_PoolConnection,
        **_wanted_server(url),
    )
    try:
        yield connections
    finally:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await connections.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            connections.terminate()
            log.info("connections were cut, because PostgreSQL took no leave", reason=reason(error))
