"""Connections that lead to the primary server, directly or as sentinels name it.

A connection checks the role of its server once it is open. A failover may demote a server while connections to it are
open. A demoted server answers writes with READONLY, and redis-py would keep such a connection. Here a reply that shows
another role closes the connection, so the next command looks for the primary again.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import redis.exceptions
import structlog
from redis.asyncio import Redis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from core import urls
from core.errors import reason

log = structlog.get_logger()

SENTINEL_SECONDS = 1.0
"""The longest time that a sentinel may take to answer."""

CONNECT_SECONDS = 1.0
"""The longest time until a connection is open. The address of a host that is off answers nothing at all."""

WRONG_ROLE = (
    redis.exceptions.ReadOnlyError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.MasterDownError,
    redis.exceptions.ClusterDownError,
)
"""Replies of a server that is no primary any more, or not yet."""
WRONG_ROLE_WORDS = ("READONLY ", "LOADING ", "MASTERDOWN ", "CLUSTERDOWN ", "UNBLOCKED ")

NOT_ELECTING = (
    redis.exceptions.AuthenticationError,
    redis.exceptions.AuthorizationError,
    redis.exceptions.BusyLoadingError,
)
"""Replies of a primary, although they are errors of the connection."""

ROLE_SECONDS = 5.0

WATCH_SECONDS = 1.0
"""The interval at which a service looks whether its connections still lead to the primary."""


class NotPrimary(redis.exceptions.ConnectionError):
    """The server of an address is no primary. The text completes "TCGX_REDIS_URL names …"."""


class NoPrimary(redis.exceptions.ConnectionError):
    """The sentinels name no primary. The text is a sentence."""


class NoPrimaryYet(NoPrimary):
    """The sentinels elect a primary, or will. The text is a sentence."""


class Sentinels:
    """The sentinels of an address, and the primary that they name."""

    def __init__(self, address: urls.SentinelAddress) -> None:
        self._name = address.name
        self._urls = address.sentinels

    async def primary(self) -> tuple[str, int]:
        """Host and port of the primary, as a majority of the sentinels was asked for it.

        A sentinel that was cut off may still name an earlier primary. So the latest configuration counts.

        Raises:
            NoPrimary: no sentinel answers, none knows the name, or the primary is down.
        """
        answers, failures = await self._ask()
        known = [answer for answer in answers if answer is not None]
        if not answers:
            raise NoPrimary(f"no sentinel of TCGX_REDIS_URL answers: {'; '.join(failures)}")
        if not known:
            raise NoPrimary(f"the sentinels of TCGX_REDIS_URL do not know a primary named {self._name!r}")
        latest = max(known, key=_epoch)
        host, port = str(latest["ip"]), int(latest["port"])
        current = [answer for answer in known if _epoch(answer) == _epoch(latest)]
        if any(answer["is_odown"] for answer in current) or all(answer["is_sdown"] for answer in current):
            raise NoPrimaryYet(
                f"the sentinels see no primary at present: {host}:{port} is down, and they have no other yet"
            )
        return host, port

    async def _ask(self) -> tuple[list[Mapping[str, Any] | None], list[str]]:
        """The answers of a majority, or all that come in time; None from a sentinel that does not know the name."""
        answers: list[Mapping[str, Any] | None] = []
        failures: list[str] = []
        pending = {asyncio.ensure_future(self._ask_one(url)) for url in self._urls}
        try:
            while pending and len(answers) <= len(self._urls) // 2:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    try:
                        answers.append(task.result())
                    except (redis.exceptions.RedisError, OSError) as error:
                        failures.append(reason(error))
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        return answers, failures

    async def _ask_one(self, url: str) -> Mapping[str, Any] | None:
        client = Redis.from_url(
            url,
            socket_timeout=SENTINEL_SECONDS,
            socket_connect_timeout=SENTINEL_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            answer: Any = await client.sentinel_master(self._name)
        except redis.exceptions.ResponseError as error:
            if "No such master" not in str(error):
                raise
            return None
        finally:
            await _close_at_once(client)
        known: Mapping[str, Any] = answer
        return known


async def _close_at_once(client: Redis) -> None:
    """Closes the connections of a client without a pause.

    redis-py closes them in tasks of their own. A caller that is canceled meanwhile would leave them open.
    """
    for connection in _connections(client):
        await connection.disconnect(nowait=True)


def _connections(client: Redis) -> list[Any]:
    pool: Any = client.connection_pool  # redis-py has no public access to open connections
    return [*pool._available_connections, *pool._in_use_connections]


def _epoch(answer: Mapping[str, Any]) -> int:
    return int(answer.get("config-epoch", 0))


class _ChecksRole(AbstractConnection):
    """A connection that ends if its server is no primary."""

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        """Opens the connection, unless it is open.

        Raises:
            NotPrimary: the server is a replica or a sentinel.
        """
        try:
            await super().connect_check_health(check_health, retry_socket_connect)
        except redis.exceptions.ConnectionError as error:
            if isinstance(error.__cause__, NotPrimary):  # redis-py logs in to a unix socket while it connects
                raise error.__cause__ from None
            raise
        except RuntimeError as error:  # uvloop says so if the server ends the connection while it is opened
            raise redis.exceptions.ConnectionError(f"the server has ended the connection: {error}") from error

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Logs in, then checks the role. A server that forbids ROLE passes.

        Raises:
            NotPrimary: the server is a replica or a sentinel.
        """
        await super().on_connect_check_health(check_health=check_health)
        await self.send_command("ROLE", check_health=False)
        try:
            reply = await super().read_response()
        except redis.exceptions.ResponseError:
            return
        refusal = refusal_of_role(reply)
        if refusal:
            raise NotPrimary(refusal)

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Reads a reply. If it shows another role, the connection closes once its other replies are read."""
        try:
            return await super().read_response(*arguments, **options)
        except redis.exceptions.RedisError as error:
            if isinstance(error, WRONG_ROLE) or str(error).startswith(WRONG_ROLE_WORDS):
                leave: Any = self.mark_for_reconnect  # redis-py does not type it
                leave()
            raise


class _AsksSentinels(_ChecksRole, Connection):
    """A connection to the primary that the sentinels name when it is opened."""

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        self._sentinels = sentinels
        super().__init__(**options)

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        """Opens the connection, unless it is open."""
        if not self.is_connected:
            self.host, self.port = await self._sentinels.primary()
        await super().connect_check_health(check_health, retry_socket_connect)


class _Direct(_ChecksRole, Connection):
    pass


class _DirectTls(_ChecksRole, SSLConnection):
    pass


class _DirectSocket(_ChecksRole, UnixDomainSocketConnection):
    pass


class _AsksSentinelsTls(_AsksSentinels, SSLConnection):
    pass


DIRECT: Mapping[type, type] = {
    Connection: _Direct,
    SSLConnection: _DirectTls,
    UnixDomainSocketConnection: _DirectSocket,
}
ASKING: Mapping[type, type] = {Connection: _AsksSentinels, SSLConnection: _AsksSentinelsTls}


def client(url: str, **options: Any) -> Redis:
    """A client of the primary of an address that `urls.check_redis` accepts.

    Raises:
        ValueError: an option of the address has a wrong value.
    """
    classes = DIRECT
    if urls.names_sentinels(url):
        address = urls.sentinel_address(url)
        url, classes, options = address.primary, ASKING, {**options, "sentinels": Sentinels(address)}
    parsed: dict[str, Any] = {**parse_url(url)}
    kind = parsed.pop("connection_class", Connection)
    pool = ConnectionPool(
        connection_class=classes[kind],
        socket_connect_timeout=CONNECT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        **parsed,
        **options,
    )
    return Redis.from_pool(pool)


def asks_sentinels(client: Redis) -> bool:
    """Whether sentinels name the server of this client."""
    kind: Any = client.connection_pool.connection_class  # redis-py does not type it
    return issubclass(kind, _AsksSentinels)


def is_electing(error: Exception) -> bool:
    """Whether a client that asks sentinels may find a primary soon, although this error was its answer.

    Sentinels name a killed primary until they agree that it is down.
    """
    if isinstance(error, NOT_ELECTING):
        return False
    if isinstance(error, NoPrimary):
        return isinstance(error, NoPrimaryYet)
    return isinstance(error, (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError))


def refusal_of_role(reply: Any) -> str:
    """The reason why a server with this reply to ROLE is no primary. Empty if it is one."""
    role, *rest = [item.decode() if isinstance(item, bytes) else item for item in reply]
    if role == "slave":
        return f"a replica of {rest[0]}:{rest[1]}"
    return "a Sentinel" if role == "sentinel" else ""


def _place(connection: Any) -> tuple[str, int] | None:
    """Host and port of a connection; None for a unix socket."""
    return (connection.host, connection.port) if hasattr(connection, "host") else None


def _shut_down(sock: Any) -> None:
    """Ends a connection below its transport, so that a task that reads or writes gets an error of the socket."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as own:
        own.shutdown(socket.SHUT_RDWR)


class PrimaryWatch:
    """Ends connections that do not lead to the primary any more.

    A server that was cut off or has paused closes no connection, and it takes writes that will be lost. Connections
    that wait for a reply end, too, since the reply may never come.
    """

    def __init__(self, url: str, clients: Sequence[Redis]) -> None:
        """`clients`: all clients of the address `url`."""
        self._sentinels = Sentinels(urls.sentinel_address(url)) if urls.names_sentinels(url) else None
        self._clients = clients
        # A connection of its own stays at its server, as those do that wait for a message.
        self._own: Any = client(url, socket_timeout=ROLE_SECONDS)

    async def run(self) -> None:
        """Looks every `WATCH_SECONDS`, until it is canceled."""
        async with self._own:
            while True:
                try:
                    await self.look()
                except (redis.exceptions.RedisError, OSError) as error:
                    log.debug("the primary could not be looked for", reason=reason(error))
                await asyncio.sleep(WATCH_SECONDS)

    async def look(self) -> None:
        """Looks for the primary once.

        Raises:
            redis.exceptions.RedisError, OSError: the servers do not answer.
        """
        if self._sentinels:
            host, port = await self._sentinels.primary()
            await self._end_connections(f"the sentinels name {host}:{port}", besides=(host, port))
        elif refusal := await self._refusal():
            await self._end_connections(f"it is {refusal}")

    async def _refusal(self) -> str:
        try:
            refusal = refusal_of_role(await self._own.execute_command("ROLE"))
        except NotPrimary as error:
            return str(error)
        except redis.exceptions.ResponseError:  # ROLE is forbidden
            return ""
        if refusal:
            await self._own.connection_pool.disconnect()
        return refusal

    async def _end_connections(self, why: str, *, besides: tuple[str, int] | None = None) -> None:
        ended = 0
        for each in self._clients:
            pool: Any = each.connection_pool
            for connection in _connections(each):
                if not connection.is_connected or (besides is not None and _place(connection) == besides):
                    continue
                ended += 1
                if connection in pool._in_use_connections:
                    connection.mark_for_reconnect()
                    _shut_down(connection._writer.get_extra_info("socket"))
                else:
                    await connection.disconnect(nowait=True)
        if ended:
            log.warning("connections to a server that is no primary any more are closed", connections=ended, reason=why)
