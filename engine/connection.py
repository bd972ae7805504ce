"""Connections to Redis, and what its errors mean to a caller."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hiredis
import redis.exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from engine.errors import LogGap, Overloaded, StartError, Unavailable

COMMAND_SECONDS = 5
BLOCK_MS = 5_000
VERSION_MIN = (7, 0)

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
def understood() -> Iterator[None]:
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
            raise Overloaded(text.partition("BACKLOG ")[2]) from error
        if text.startswith("GAP "):
            raise LogGap(text.removeprefix("GAP ")) from error
        if "OOM" in text:
            raise Overloaded(f"Redis is out of memory: {text}") from error
        raise Unavailable(f"Redis refused: {text}") from error
    except (redis.exceptions.RedisError, OSError) as error:
        raise Unavailable(f"Redis did not answer: {error or type(error).__name__}") from error


def packed(*command: str | int | bytes) -> bytes:
    """A command as it is sent."""
    pack: Any = hiredis.pack_command  # its type admits one argument alone
    return bytes(pack(command))


async def replies(client: Redis, commands: Sequence[bytes], more: Callable[[], Sequence[bytes]]) -> list[Any]:
    """The replies to commands that are sent together, and to those that `more` gives once they are sent: that is worked
    out while the server works. Errors of single commands are among the replies.

    A pipeline of redis-py takes several turns of the loop before it sends: work beside it would be done before.
    """
    pool: Any = client.connection_pool  # redis-py types it as untyped
    connection = await pool.get_connection()
    try:
        await connection.send_packed_command(commands)
        following = more()
        if following:
            await connection.send_packed_command(following, check_health=False)
        received = []
        for _ in range(len(commands) + len(following)):
            try:
                received.append(await connection.read_response())
            except redis.exceptions.ResponseError as error:
                received.append(error)
    except BaseException:
        await connection.disconnect(nowait=True)  # nobody will read the rest of the replies
        raise
    finally:
        await pool.release(connection)
    return received


async def check(client: Redis, *, durability: str) -> None:
    """That this server can be trusted with orders.

    Raises:
        StartError: it does not answer, refuses the password, is too old, or would lose or evict orders.
    """
    try:
        about: dict[str, Any] = await client.info("server")
        configured = await client.config_get("*append*")
        memory: dict[str, Any] = await client.info("memory")
    except (redis.exceptions.RedisError, OSError) as error:
        # redis-py wraps a refused password in a ConnectionError where the connection is a unix socket.
        if any(word in str(error) for word in ("WRONGPASS", "NOAUTH", "invalid username-password", "Authentication")):
            raise StartError(f"Redis refuses the password of TCGX_REDIS_URL: {error}") from error
        raise StartError(f"Redis does not answer at TCGX_REDIS_URL: {error}") from error
    version = str(about.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < VERSION_MIN:
        raise StartError(f"Redis {version} is too old: 7.0 is the oldest that has functions")
    settings = {_text(name): _text(value) for name, value in configured.items()}
    if settings.get("appendonly") == "no":
        raise StartError("Redis has no AOF: an order would be lost with the server; set `appendonly yes`")
    if durability == "always" and settings.get("appendfsync") not in (None, "always"):
        raise StartError(
            f"Redis has appendfsync {settings['appendfsync']}: set `appendfsync always`, or accept to lose up to a "
            "second of orders with TCGX_DURABILITY=everysec"
        )
    if durability == "always" and settings.get("no-appendfsync-on-rewrite") == "yes":
        raise StartError("Redis does not fsync while it rewrites its AOF: set `no-appendfsync-on-rewrite no`")
    policy = _text(memory.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise StartError(f"Redis evicts keys when memory is full ({policy}): set `maxmemory-policy noeviction`")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
