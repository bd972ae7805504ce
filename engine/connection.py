"""Connections to Redis, the checks of a server, and the mapping of its errors."""

import asyncio
import errno
import math
import os
import re
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import hiredis
import redis.exceptions
import structlog
from redis.asyncio import Redis

from core import urls
from core.errors import LogGap, Overloaded, StartError, Unavailable, reason
from engine import cluster, primary
from engine.cluster import ClusterClient

log = structlog.get_logger()

COMMAND_SECONDS = 5
BLOCK_MS = 5_000
BLOCKING_SECONDS = BLOCK_MS / 1000 + COMMAND_SECONDS
"""How long a read that blocks may take."""

VERSION_MIN = (7, 0)
CARD_TAG = re.compile(r"\{(\w+)\}")
NO_SPACE = os.strerror(errno.ENOSPC)

SENTINEL = "a Sentinel"

MANAGED = "managed"
"""The durability of a service that keeps each acknowledged write by itself."""

ENGINE_NAME = "tcgx-engine"
"""The client name of an engine's connections, by which other processes detect an engine."""


def connect(url: str, name: str | None = None) -> Redis:
    """A client for commands that are answered at once.

    The client never repeats a command, since an append whose reply was lost must not run twice. redis-py would repeat
    it up to ten times by default.
    """
    return _connect(url, COMMAND_SECONDS, name)


def connect_blocking(url: str, name: str | None = None) -> Redis:
    """A client for reads that block for up to `BLOCK_MS`."""
    return _connect(url, BLOCKING_SECONDS, name)


def _connect(url: str, seconds: float, name: str | None) -> Redis:
    urls.check_redis(url)
    try:
        if urls.names_cluster(url):
            return cluster.client(url, socket_timeout=seconds, client_name=name)
        return primary.client(url, socket_timeout=seconds, client_name=name)
    except ValueError as error:
        raise StartError(f"TCGX_REDIS_URL is no address of a Redis server: {error}") from error


@contextmanager
def redis_errors() -> Iterator[None]:
    """Maps errors of redis-py to errors of core/errors.py.

    Raises:
        Overloaded: nothing was written, because the backlog or the memory is full.
        LogGap: the log lacks acknowledged commands.
        Unavailable: any other error; the command may or may not have taken effect.
    """
    try:
        yield
    except redis.exceptions.OutOfMemoryError as error:
        raise Overloaded(f"Redis is out of memory: {error}") from error
    except redis.exceptions.ResponseError as error:
        text = str(error)
        if "BACKLOG " in text:
            raise Overloaded(CARD_TAG.sub(r"\1", text.partition("BACKLOG ")[2])) from error
        if text.startswith("GAP "):
            raise LogGap(text.removeprefix("GAP ")) from error
        if "OOM" in text:
            raise Overloaded(f"Redis is out of memory: {text}") from error
        if "MISCONF " in text or NO_SPACE in text:
            raise Unavailable(f"Redis cannot write to its disk: {text}") from error
        if isinstance(error, cluster.MOVING):
            raise Unavailable("the card is moved to another server of the cluster at present") from error
        if isinstance(error, redis.exceptions.ReadOnlyError) or "READONLY " in text:
            raise Unavailable(f"Redis can't be written to, it is a replica: {text}") from error
        if isinstance(error, redis.exceptions.ClusterDownError):
            raise Unavailable(f"the cluster has no server for the card at present: {text}") from error
        raise Unavailable(f"Redis refused: {text}") from error
    except primary.NotPrimary as error:
        raise Unavailable(f"Redis can't be written to: it is {error}") from error
    except (redis.exceptions.RedisError, OSError) as error:
        raise Unavailable(f"Redis did not answer: {reason(error)}") from error


def pack_command(*command: str | int | bytes) -> bytes:
    """A command as the bytes that are sent."""
    pack: Any = hiredis.pack_command  # its type admits one argument alone
    return bytes(pack(command))


class PipelinedConnection:
    """Sends several commands in one write and reads their replies.

    It replaces the pipeline of redis-py on the hot path. That pipeline takes several turns of the event loop before it
    sends. It also sets a timeout for each reply, which costs more than the reply.
    """

    def __init__(self, client: Redis) -> None:
        self._pool: Any = client.connection_pool  # redis-py types it as untyped

    async def call(self, commands: Sequence[bytes], replies: list[Any] | None = None) -> list[Any]:
        """The replies to packed commands, in order. A refused command has its exception as reply.

        `replies`: an empty list for them, which has those that came if the connection then fails.

        Raises:
            redis.exceptions.RedisError, OSError: the connection failed, or the time is over.
        """
        replies = [] if replies is None else replies
        connection = await self._pool.get_connection()
        try:
            await connection.send_packed_command(commands, check_health=False)
            async with asyncio.timeout(
                COMMAND_SECONDS
            ):  # one timeout for all replies; one each takes five times as long
                for _ in commands:
                    try:
                        replies.append(await connection.read_response(timeout=math.inf))
                    except redis.exceptions.ResponseError as error:
                        replies.append(error)
        except TimeoutError as error:
            await connection.disconnect(nowait=True)
            raise redis.exceptions.TimeoutError(f"no answer within {COMMAND_SECONDS} s") from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            await self._pool.release(connection)
        return replies


class PipelinedCard(PipelinedConnection):
    """The same for the commands of one card of a cluster, at the server that has the card.

    The first command must belong to the card. If it is refused since the card is elsewhere, all are sent again, so the
    others may be commands alone that have the same effect twice.
    """

    def __init__(self, client: ClusterClient) -> None:
        """`client`: a view of a card."""
        self._client = client

    async def call(self, commands: Sequence[bytes], replies: list[Any] | None = None) -> list[Any]:
        """The replies to packed commands, as in `PipelinedConnection.call`."""
        received = [] if replies is None else replies

        async def send(server: Redis) -> None:
            received.clear()
            await PipelinedConnection(server).call(commands, received)
            if isinstance(received[0], cluster.REDIRECTED):
                raise received[0]

        with suppress(*cluster.REDIRECTED):  # it is the first reply then
            await self._client.run(send)
        return received


def pipelined(client: Redis) -> PipelinedConnection:
    """A `PipelinedConnection` of a client, which is the client of one server or a view of a card."""
    return PipelinedCard(client) if isinstance(client, ClusterClient) else PipelinedConnection(client)


async def check(client: Redis, *, durability: str) -> None:
    """Checks that a server, or each server of a cluster, keeps orders safe.

    Services rename CONFIG, and ACLs may forbid commands. A property that cannot be queried is logged and assumed to be
    right. With durability `managed`, neither the AOF nor fsync is asked for.

    Raises:
        StartError: the server does not answer, refuses the password, is too old, may lose or evict orders, or is a
            replica or a part of a cluster.
    """
    is_managed = durability == MANAGED
    if is_managed:
        log.info("the service behind TCGX_REDIS_URL promises durability (managed): its AOF and fsync are not checked")
    if not isinstance(client, ClusterClient):
        check_properties(*await _query(client, is_managed=is_managed), durability=durability)
        return
    with _start_errors():
        servers = await client.servers()
    for place, server in servers.items():
        properties = await _query(server, is_managed=is_managed)
        try:
            check_properties(*properties, durability=durability, is_cluster=True)
        except StartError as error:
            raise StartError(f"{error} (server {place} of the cluster)") from error


def check_properties(
    info: Mapping[str, Any], configuration: Mapping[str, str], *, durability: str, is_cluster: bool = False
) -> None:
    """Checks the reply to INFO, and the configuration of the append-only file. A property that is missing is right.

    Raises:
        StartError: the server is too old, may lose or evict orders, or is a replica or a part of a cluster.
    """
    _check_role(info, is_cluster=is_cluster)
    version = str(info.get("redis_version", ".".join(map(str, VERSION_MIN))))
    if tuple(int(part) for part in version.split(".")[:2]) < VERSION_MIN:
        raise StartError(f"Redis {version} is too old: 7.0 is the oldest that has functions")
    if durability != MANAGED:
        _check_persistence(info, configuration, durability)
    policy = _text(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise StartError(f"Redis evicts keys when memory is full ({policy}): set `maxmemory-policy noeviction`")


async def _query(client: Redis, *, is_managed: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """The reply to INFO, and the configuration of the append-only file, which a managed service may not show."""
    with _start_errors():
        info = await _reply_if_allowed("INFO", client.info(), "its version, its role and its memory policy")
        configuration: dict[Any, Any] = {}
        if not is_managed:
            configuration = await _reply_if_allowed(
                "CONFIG GET", client.config_get("*append*"), "whether it writes each order to disk"
            )
        await _reply_if_allowed("CLIENT LIST", client.client_list("replica"), "whether an engine is connected")
    return info, {_text(name): _text(value) for name, value in configuration.items()}


@contextmanager
def _start_errors() -> Iterator[None]:
    """Maps errors of redis-py to sentences on the start."""
    try:
        yield
    except cluster.NotACluster as error:
        raise StartError(
            "TCGX_REDIS_URL names a cluster, but its server stands alone: one server is named as redis://host:port"
        ) from error
    except primary.NotPrimary as error:
        raise StartError(_wrong_server(str(error))) from error
    except primary.NoPrimary as error:
        raise StartError(str(error)[0].upper() + str(error)[1:]) from error
    except (redis.exceptions.RedisError, OSError) as error:
        if names_password(error):
            raise StartError(f"Redis refuses the password of TCGX_REDIS_URL: {reason(error)}") from error
        raise StartError(f"Redis does not answer at TCGX_REDIS_URL: {reason(error)}") from error


def names_password(error: Exception) -> bool:
    """Whether an error is about the password. redis-py wraps it in a ConnectionError at a unix socket."""
    return any(word in str(error) for word in ("WRONGPASS", "NOAUTH", "invalid username-password", "Authentication"))


def _check_persistence(info: Mapping[str, Any], configuration: Mapping[str, str], durability: str) -> None:
    if configuration.get("appendonly") == "no" or info.get("aof_enabled") == 0:
        raise StartError("Redis has no AOF: an order would be lost with the server; set `appendonly yes`")
    if durability != "always":
        return
    appendfsync = configuration.get("appendfsync", "always")
    if appendfsync != "always":
        raise StartError(
            f"Redis has appendfsync {appendfsync}: set `appendfsync always`, or accept to lose up to a "
            "second of orders with TCGX_DURABILITY=everysec"
        )
    if configuration.get("no-appendfsync-on-rewrite") == "yes":
        raise StartError("Redis does not fsync while it rewrites its AOF: set `no-appendfsync-on-rewrite no`")


async def _reply_if_allowed(command: str, reply: Awaitable[Any], what: str) -> Any:
    """The reply to a command. If the server refuses the command, a warning is logged and the reply is empty."""
    try:
        return await reply
    except redis.exceptions.ResponseError as error:
        log.warning(f"Redis does not allow {command}: it can't be checked", what=what, reason=str(error))
        return {}


def _check_role(info: Mapping[str, Any], *, is_cluster: bool) -> None:
    mode = info.get("redis_mode") or info.get("server_mode", "standalone")  # Valkey has the second
    if mode != "standalone" and not (is_cluster and mode == "cluster"):
        raise StartError(_wrong_server(SENTINEL if mode == "sentinel" else "a part of a cluster"))
    if info.get("role") == "slave":
        raise StartError(_wrong_server(_replica(info)))


def _wrong_server(kind: str) -> str:
    """The sentence on an address of a server that is no primary."""
    if kind == SENTINEL:
        remedy = "sentinels are named as redis+sentinel://host:port,host:port/NAME"
    elif kind.startswith("a replica"):
        remedy = "it must name the primary"
    else:
        remedy = "a cluster is named as redis+cluster://host:port,host:port"
    return f"TCGX_REDIS_URL names {kind}: {remedy}"


def _replica(info: Mapping[str, Any]) -> str:
    return f"a replica of {info.get('master_host')}:{info.get('master_port')}"


async def refuse_replica(client: Redis) -> None:
    """Checks that a server is no replica. A server that forbids INFO passes the check. So does a cluster that answers:
    its connections lead to primaries.

    Raises:
        Unavailable: the server is a replica, for example since a failover, or does not answer.
    """
    with redis_errors():
        if isinstance(client, ClusterClient):
            await client.ping()
            return
        try:
            info: dict[str, Any] = await client.info("replication")
        except redis.exceptions.ResponseError as error:
            if not is_forbidden(error):
                raise
            return
    if info.get("role") == "slave":
        raise Unavailable(f"Redis can't be written to: it is {_replica(info)}")


def is_forbidden(error: Exception) -> bool:
    """Whether a server refused a command because it lacks the command or forbids it to this user."""
    return isinstance(error, redis.exceptions.NoPermissionError) or "unknown command" in str(error)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
