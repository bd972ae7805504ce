"""Connections to PostgreSQL, and what its errors mean to a caller."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import asyncpg

from core import urls
from core.errors import StartError, Unavailable, reason

ARCHIVER_LOCK = 0x7463_6778_0002
"""PostgreSQL advisory lock of the archiver that works; it goes with its connection."""

RECOVER_SECONDS = 3_600

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
