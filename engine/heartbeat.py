"""Heartbeats of engine and archiver in Redis: the name of a connection, set anew every second.

`CLIENT LIST` gives each connection with its name and the seconds since its last command. So a heartbeat is no write:
it costs no fsync, is not refused when memory is full, and ends with the connection. All ages are of the clock of Redis.
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import msgspec
import structlog

from core.errors import TcgxError
from core.heartbeat import Progress
from core.service import cancel_and_wait
from core.settings import Settings
from engine import connection
from engine.cluster import servers_of
from engine.connection import redis_errors

log = structlog.get_logger()

BEAT_SECONDS = 1.0
PREFIX = "tcgx-heartbeat"
FIELDS = 6
NOT_IN_NAMES = re.compile(r"[^!-+\--~]")
"""Characters that the name of a connection, or a value within it, may not have."""


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """The last heartbeat of a process. `process`: its host and process id.

    `seconds`: the age of the heartbeat. `activity_seconds`: the age of the activity that the process has begun.
    """

    service: str
    process: str
    activity: str
    seconds: float
    activity_seconds: float


def name_of(service: str, progress: Progress) -> str:
    """The name of a connection: service, host, process id, activity, and the age of the activity in seconds."""
    values = (service, socket.gethostname(), os.getpid(), progress.activity, f"{progress.seconds:.1f}")
    return ",".join([PREFIX, *(NOT_IN_NAMES.sub("-", str(value)) for value in values)])


def heartbeats(clients: Iterable[Mapping[str, Any]]) -> list[Heartbeat]:
    """The heartbeats in a reply to `CLIENT LIST`."""
    found = []
    for client in clients:
        values = str(client.get("name", "")).split(",")
        if len(values) != FIELDS or values[0] != PREFIX:
            continue
        _, service, host, pid, activity, age = values
        seconds = float(client.get("idle", 0))
        found.append(
            Heartbeat(
                service=service,
                process=f"{host}:{pid}",
                activity=activity,
                seconds=seconds,
                activity_seconds=float(age) + seconds,
            )
        )
    return found


@contextlib.asynccontextmanager
async def sent_to_redis(settings: Settings, service: str, progress: Progress) -> AsyncIterator[None]:
    """Sends a heartbeat every second during the context, on a connection of its own."""
    async with connection.connect(settings.redis_url) as redis:
        beating = asyncio.create_task(_beat(redis, service, progress), name="heartbeats")
        try:
            yield
        finally:
            await cancel_and_wait(beating)


async def _beat(redis: Any, service: str, progress: Progress) -> None:
    while True:
        try:
            with redis_errors():
                servers = await servers_of(redis)
                named = [server.client_setname(name_of(service, progress)) for server in servers]
                for result in await asyncio.gather(*named, return_exceptions=True):
                    if isinstance(result, Exception):
                        raise result
        except TcgxError as error:
            log.debug("a heartbeat failed", reason=str(error))  # the service itself reports what is wrong
        await asyncio.sleep(BEAT_SECONDS)
