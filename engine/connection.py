"""Connections to Redis, and what its errors mean to a caller."""

import asyncio
import errno
import math
import os
import re
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import hiredis
import redis.exceptions
import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from core import urls
from core.errors import LogGap, Overloaded, StartError, Unavailable, reason

log = structlog.get_logger()

COMMAND_SECONDS = 5
BLOCK_MS = 5_000
VERSION_MIN = (7, 0)
CARD_TAG = re.compile(r"\{(\w+)\}")
NO_SPACE = os.strerror(errno.ENOSPC)

ENGINE_NAME = "tcgx-engine"
"""What engines call their connections, so that others can see that one is there."""


def connect(url: str, name: str | None = None) -> Redis:
    """For commands that are answered at once. Nothing is sent twice: a lost reply of an append must not append
    again (redis-py repeats ten times unless told not to)."""
    return _connect(url, COMMAND_SECONDS, name)


def connect_blocking(url: str, name: str | None = None) -> Redis:
    """For reads that wait up to `BLOCK_MS` for something to arrive."""
    return _connect(url, BLOCK_MS / 1000 + COMMAND_SECONDS, name)


def _connect(url: str, seconds: float, name: str | None) -> Redis:
    urls.check_redis(url)
    try:
        return Redis.from_url(
            url,
            socket_timeout=seconds,
            socket_connect_timeout=COMMAND_SECONDS,
            retry=Retry(NoBackoff(), 0),
            client_name=name,
        )
    except ValueError as error:
        raise StartError(f"TCGX_REDIS_URL is no address of a Redis server: {error}") from error


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turns errors of redis-py into ours.

    Raises:
        Overloaded: nothing was written, because too much waits or memory is full.
        LogGap: the log lacks acknowledged commands.
        Unavailable: anything else; what was asked may or may not have happened.
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
        if isinstance(error, redis.exceptions.ReadOnlyError) or "READONLY " in text:
            raise Unavailable(f"Redis can't be written to, it is a replica: {text}") from error
        raise Unavailable(f"Redis refused: {text}") from error
    except (redis.exceptions.RedisError, OSError) as error:
        raise Unavailable(f"Redis did not answer: {reason(error)}") from error


def packed(*command: str | int | bytes) -> bytes:
    """A command as it is sent."""
    pack: Any = hiredis.pack_command  # its type admits one argument alone
    return bytes(pack(command))


class PipelinedConnection:
    """One connection that sends commands at once and reads their replies: a pipeline of redis-py takes several turns of
    the loop before it sends, and a timeout around each reply, which costs more than the reply."""

    def __init__(self, client: Redis) -> None:
        self._pool: Any = client.connection_pool  # redis-py types it as untyped

    async def call(self, commands: Sequence[bytes]) -> list[Any]:
        """The replies to these commands (`packed`), in order; an exception where the server refused one."""
        replies: list[Any] = []
        connection = await self._pool.get_connection()
        try:
            await connection.send_packed_command(commands, check_health=False)
            async with asyncio.timeout(COMMAND_SECONDS):  # for all of them: one each takes five times as long
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


async def check(client: Redis, *, durability: str) -> None:
    """That this server can be trusted with orders. What it does not allow to ask (managed services rename CONFIG, ACLs
    forbid it) is told in the log and taken for right.

    Raises:
        StartError: it does not answer, refuses the password, is too old, a replica or a part of a cluster, or would
            lose or evict orders.
    """
    try:
        about: dict[str, Any] = await _allowed("INFO", client.info(), "its version, its role and its memory policy")
        configured = await _allowed("CONFIG GET", client.config_get("*append*"), "whether it writes each order to disk")
        await _allowed("CLIENT LIST", client.client_list("replica"), "whether an engine is connected")
    except (redis.exceptions.RedisError, OSError) as error:
        # redis-py wraps a refused password in a ConnectionError where the connection is a unix socket.
        if any(word in str(error) for word in ("WRONGPASS", "NOAUTH", "invalid username-password", "Authentication")):
            raise StartError(f"Redis refuses the password of TCGX_REDIS_URL: {reason(error)}") from error
        raise StartError(f"Redis does not answer at TCGX_REDIS_URL: {reason(error)}") from error
    _check_role(about)
    version = str(about.get("redis_version", ".".join(map(str, VERSION_MIN))))
    if tuple(int(part) for part in version.split(".")[:2]) < VERSION_MIN:
        raise StartError(f"Redis {version} is too old: 7.0 is the oldest that has functions")
    settings = {_text(name): _text(value) for name, value in configured.items()}
    if settings.get("appendonly") == "no" or about.get("aof_enabled") == 0:
        raise StartError("Redis has no AOF: an order would be lost with the server; set `appendonly yes`")
    if durability == "always" and settings.get("appendfsync") not in (None, "always"):
        raise StartError(
            f"Redis has appendfsync {settings['appendfsync']}: set `appendfsync always`, or accept to lose up to a "
            "second of orders with TCGX_DURABILITY=everysec"
        )
    if durability == "always" and settings.get("no-appendfsync-on-rewrite") == "yes":
        raise StartError("Redis does not fsync while it rewrites its AOF: set `no-appendfsync-on-rewrite no`")
    policy = _text(about.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise StartError(f"Redis evicts keys when memory is full ({policy}): set `maxmemory-policy noeviction`")


async def _allowed(command: str, reply: Awaitable[Any], what: str) -> Any:
    """The reply, or nothing where the server refuses the command; then the log says what is not known."""
    try:
        return await reply
    except redis.exceptions.ResponseError as error:
        log.warning(f"Redis does not allow {command}: it can't be checked", what=what, reason=str(error))
        return {}


def _check_role(about: Mapping[str, Any]) -> None:
    mode = about.get("redis_mode") or about.get("server_mode", "standalone")  # Valkey has the second
    if mode != "standalone":
        kind = "a Sentinel" if mode == "sentinel" else "a part of a cluster"
        raise StartError(f"TCGX_REDIS_URL names {kind}: it must name one Redis server that stands alone")
    if about.get("role") == "slave":
        raise StartError(f"TCGX_REDIS_URL names {_replica(about)}: it must name the primary")


def _replica(about: Mapping[str, Any]) -> str:
    return f"a replica of {about.get('master_host')}:{about.get('master_port')}"


async def refuse_replica(client: Redis) -> None:
    """That this server can be written to, as far as it allows to ask.

    Raises:
        Unavailable: it is a replica, since a failover perhaps, or does not answer.
    """
    with redis_errors():
        try:
            about: dict[str, Any] = await client.info("replication")
        except redis.exceptions.ResponseError as error:
            if not is_forbidden(error):
                raise
            return
    if about.get("role") == "slave":
        raise Unavailable(f"Redis can't be written to: it is {_replica(about)}")


def is_forbidden(error: Exception) -> bool:
    """Whether a server refused a command because it has none of this name, or none for this user."""
    return isinstance(error, redis.exceptions.NoPermissionError) or "unknown command" in str(error)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
