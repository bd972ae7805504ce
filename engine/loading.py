"""Waiting for a Redis that does not answer yet or still loads its data, and for sentinels that elect a primary."""

import asyncio

import redis.exceptions
import structlog
from redis.asyncio import Redis

from core.errors import StartError, reason
from core.loading import REPORT_SECONDS, LoadProgress
from core.service import until_stopped, wait_at_start
from engine import primary
from engine.cluster import ClusterClient, servers_of
from engine.connection import names_password

log = structlog.get_logger()

CHECK_SECONDS = 0.2

ELECTION_SECONDS = 60.0
"""The longest time that a start waits until the sentinels name a primary that answers."""


HEARD = (
    primary.NotPrimary,
    redis.exceptions.AuthenticationError,
    redis.exceptions.AuthorizationError,
    redis.exceptions.BusyLoadingError,
)
"""Errors of a connection that are answers of a server."""


async def wait_until_loaded(client: Redis, stopping: asyncio.Event, *, seconds: float = 0.0) -> None:
    """Waits while the server says that it loads its data, or until the stop. Other errors are left to the next command.

    A server that does not answer is waited for for `seconds` before that, and sentinels that elect a primary.

    Raises:
        StartError: the load does not go on any more (`core.loading`), or there is no primary within `ELECTION_SECONDS`.
    """
    if primary.asks_sentinels(client):
        await _wait_until_elected(client, stopping)
    else:
        await wait_at_start("Redis does not answer yet", lambda: _why_no_answer(client), seconds, stopping)
    clock = asyncio.get_running_loop().time
    progress = LoadProgress("Redis", clock())
    while not stopping.is_set() and (position := await loading_position(client)) is not None:
        progress.at_bytes(*position, clock())
        await until_stopped(asyncio.sleep(CHECK_SECONDS), stopping)


async def _wait_until_elected(client: Redis, stopping: asyncio.Event) -> None:
    """Waits until the sentinels name a primary that answers, or until the stop."""
    now = asyncio.get_running_loop().time
    began, reported_at = now(), -REPORT_SECONDS
    while not stopping.is_set() and (obstacle := await _obstacle(client)):
        seconds = now() - began
        if seconds >= ELECTION_SECONDS:
            raise StartError(f"Redis has had no primary for {ELECTION_SECONDS:.0f} s: {obstacle}")
        if seconds - reported_at >= REPORT_SECONDS:
            reported_at = seconds
            log.info("Redis has no primary yet", seconds=round(seconds), reason=obstacle)
        await until_stopped(asyncio.sleep(CHECK_SECONDS), stopping)


async def _obstacle(client: Redis) -> str:
    """Why there is no primary yet. Empty if there is one, or if waiting does not help."""
    try:
        await client.ping()
    except (redis.exceptions.RedisError, OSError) as error:
        return reason(error) if primary.is_electing(error) else ""
    return ""


async def _why_no_answer(client: Redis) -> str:
    """Why nothing is heard of the server. Empty if it answers, whatever that is. A cluster has all its slots then."""
    try:
        if isinstance(client, ClusterClient) and client.slot is None and not await client.is_covered():
            return "slots of the cluster have no server"
        for server in await servers_of(client):
            await server.ping()
    except HEARD:
        return ""
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError) as error:
        return "" if names_password(error) else reason(error)
    except redis.exceptions.RedisError:
        return ""
    return ""


async def loading_position(client: Redis) -> tuple[int, int] | None:
    """How many bytes the server has loaded, and of how many; None if it does not say that it loads."""
    try:
        for server in await servers_of(client):
            await server.ping()
    except redis.exceptions.BusyLoadingError:
        return await read_position(client)
    except (redis.exceptions.RedisError, OSError):
        return None
    return None


async def read_position(client: Redis) -> tuple[int, int]:
    """The position of a load. Of 0 bytes if the server forbids INFO, or is busy for a moment."""
    try:
        infos = [await server.info("persistence") for server in await servers_of(client)]
    except (redis.exceptions.RedisError, OSError):
        return 0, 0
    loaded, total = [sum(int(info.get(f"loading_{what}_bytes", 0)) for info in infos) for what in ("loaded", "total")]
    return loaded, total
