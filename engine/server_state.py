"""The state of a Redis server, read in one round trip: can it take orders, and which services does it know?"""

from collections.abc import Sequence
from typing import Any

import msgspec
import redis.exceptions
from redis.asyncio import Redis

from core.errors import StartError, Unavailable
from engine import heartbeat, keys, library
from engine.book_reader import LogPosition
from engine.connection import check_properties, is_forbidden, redis_errors
from engine.heartbeat import Heartbeat

SECTIONS = ("server", "memory", "persistence", "replication")


class ServerState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a server.

    `fault`: why orders are not safe on this server, or cannot be written; empty if neither is so.
    `role`: primary or replica. `aof`: `always`, `everysec` or `no` (the fsync), or `off`. Both are empty if unknown.
    `memory_max_bytes`: 0 if there is no limit. `heartbeats`: None if the server forbids `CLIENT LIST`.
    """

    fault: str
    role: str
    aof: str
    memory_used_bytes: int
    memory_max_bytes: int
    has_functions: bool
    has_other_library: bool
    heartbeats: Sequence[Heartbeat] | None
    positions: dict[str, LogPosition]


async def read_server_state(client: Redis, cards: Sequence[str], *, durability: str) -> ServerState:
    """Reads the state of a server.

    Raises:
        Unavailable: the server does not answer.
    """
    pipeline: Any = client.pipeline(transaction=False)
    pipeline.info(*SECTIONS)
    pipeline.config_get("*append*")
    pipeline.ping()
    pipeline.function_list(library=library.NAME, withcode=True)
    pipeline.client_list()
    for card in cards:
        pipeline.get(keys.key(card, "sequence"))
        pipeline.hget(keys.key(card, "cursor"), "sequence")
    with redis_errors():
        info, configuration, pong, functions, clients, *numbers = await pipeline.execute(raise_on_error=False)
        info, configuration = _allowed(info, {}), _allowed(configuration, {})
        clients = _allowed(clients, None)
        places = [int(_allowed(number, 0) or 0) for number in numbers]
        loaded = _allowed(functions, None)
    used = int(info.get("used_memory", 0)) - int(info.get("mem_not_counted_for_evict", 0))
    properties = {_text(name): _text(value) for name, value in configuration.items()}
    return ServerState(
        fault=_fault(info, properties, pong, durability),
        role={"master": "primary", "slave": "replica"}.get(str(info.get("role")), ""),
        aof=_aof(info, properties),
        memory_used_bytes=used,
        memory_max_bytes=int(info.get("maxmemory", 0)),
        has_functions=loaded is None or library.is_listed(loaded),
        has_other_library=bool(loaded) and not library.is_listed(loaded),
        heartbeats=None if clients is None else heartbeat.heartbeats(clients),
        positions={
            card: LogPosition(appended, matched)
            for card, appended, matched in zip(cards, places[::2], places[1::2], strict=True)
        },
    )


def _allowed(reply: Any, default: Any) -> Any:
    """A reply. `default` if the server forbids the command; any other error is raised."""
    if not isinstance(reply, Exception):
        return reply
    if isinstance(reply, redis.exceptions.ResponseError) and is_forbidden(reply):
        return default
    raise reply


def _fault(info: dict[str, Any], configuration: dict[str, str], pong: Any, durability: str) -> str:
    try:
        check_properties(info, configuration, durability=durability)
        with redis_errors():
            if isinstance(pong, Exception):  # the disk is full
                raise pong
    except (StartError, Unavailable) as error:
        return str(error)
    if info.get("aof_last_write_status", "ok") != "ok":
        return "Redis cannot write to its disk: its last write to the AOF failed"
    return ""


def _aof(info: dict[str, Any], configuration: dict[str, str]) -> str:
    if not info or info.get("aof_enabled") == 0:
        return "off" if info else ""
    return configuration.get("appendfsync", "")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
