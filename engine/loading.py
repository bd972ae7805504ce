"""Waiting for a Redis that still loads its data."""

import asyncio

import redis.exceptions
from redis.asyncio import Redis

from core.loading import LoadProgress
from core.service import until_stopped
from engine.cluster import servers_of

CHECK_SECONDS = 0.2


async def wait_until_loaded(client: Redis, stopping: asyncio.Event) -> None:
    """Waits while the server says that it loads its data, or until the stop. Other errors are left to the next command.

    Raises:
        StartError: the load does not go on any more (`core.loading`).
    """
    clock = asyncio.get_running_loop().time
    progress = LoadProgress("Redis", clock())
    while not stopping.is_set() and (position := await loading_position(client)) is not None:
        progress.at_bytes(*position, clock())
        await until_stopped(asyncio.sleep(CHECK_SECONDS), stopping)


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
