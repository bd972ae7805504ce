"""The state of a Redis server, read in one round trip: can it take orders, and which services does it know?"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import msgspec
import redis.exceptions
from redis.asyncio import Redis

from core.errors import StartError, Unavailable
from engine import heartbeat, keys, library
from engine.book_reader import LogPosition
from engine.cluster import ClusterClient, Place
from engine.connection import check_properties, is_forbidden, redis_errors
from engine.heartbeat import Heartbeat

SERVER_SECONDS = 0.5
"""How long a server of a cluster may take."""

AOF_ORDER = ("off", "no", "", "everysec", "always")
"""The fsync of a server, from the least safe one on."""

SECTIONS = ("server", "memory", "persistence", "replication")


class ServerState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a server.

    `fault`: why orders are not safe on this server, or cannot be written; empty if neither is so.
    `warning`: the same for some cards of a cluster, while others work.
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
    warning: str = ""


async def read_server_state(client: Redis, cards: Sequence[str], *, durability: str) -> ServerState:
    """Reads the state of a server, or of all servers of a cluster together.

    Raises:
        Unavailable: the server does not answer, or none of the cluster.
    """
    if isinstance(client, ClusterClient):
        return await _read_cluster_state(client, cards, durability=durability)
    return await _read(client, cards, durability=durability)


async def _read_cluster_state(client: ClusterClient, cards: Sequence[str], *, durability: str) -> ServerState:
    with redis_errors():
        servers, places = await client.servers(), await client.places(cards)
    read = {
        place: _read(server, [card for card in cards if places[card] == place], durability=durability, is_cluster=True)
        for place, server in servers.items()
    }
    answers = await asyncio.gather(*(_within(place, reading) for place, reading in read.items()))
    homeless = [card for card, place in places.items() if place is None]
    faults = [str(answer) for answer in answers if isinstance(answer, Unavailable)]
    faults += [f"no server of the cluster has {', '.join(homeless)}"] if homeless else []
    states = [answer for answer in answers if isinstance(answer, ServerState)]
    if not states:
        raise Unavailable("; ".join(faults))
    return _joined(states, faults, cards)


async def _within(place: Place, reading: Awaitable[ServerState]) -> ServerState | Unavailable:
    """A state, with the place in its fault; or the error in its place. A server that is mute must not hide others."""
    try:
        async with asyncio.timeout(SERVER_SECONDS):
            state = await reading
    except TimeoutError:
        return Unavailable(f"{place} does not answer in time")
    except Unavailable as error:
        return Unavailable(f"{place}: {error}")
    return msgspec.structs.replace(state, fault=f"{place}: {state.fault}" if state.fault else "")


def _joined(states: Sequence[ServerState], faults: Sequence[str], cards: Sequence[str]) -> ServerState:
    """The state of a cluster. Its fault is that of the cards, if none of them is at a server without a fault."""
    faults = [*faults, *(state.fault for state in states if state.fault)]
    positions = {card: place for state in states for card, place in state.positions.items()}
    works = any(state.positions and not state.fault for state in states)
    fullest = max(states, key=lambda state: state.memory_used_bytes / (state.memory_max_bytes or 2**60))
    beats: dict[tuple[str, str], Heartbeat] = {}
    for beat in (each for state in states for each in state.heartbeats or ()):
        known = beats.get((beat.service, beat.process))
        if known is None or beat.seconds < known.seconds:
            beats[beat.service, beat.process] = beat
    sentence = "; ".join(faults)
    return ServerState(
        fault="" if works else sentence,
        warning=sentence if works else "",
        role=states[0].role,
        aof=min((state.aof for state in states), key=AOF_ORDER.index),
        memory_used_bytes=fullest.memory_used_bytes,
        memory_max_bytes=fullest.memory_max_bytes,
        has_functions=all(state.has_functions for state in states),
        has_other_library=any(state.has_other_library for state in states),
        heartbeats=None if all(state.heartbeats is None for state in states) else list(beats.values()),
        positions={card: positions[card] for card in cards if card in positions},
    )


async def _read(client: Redis, cards: Sequence[str], *, durability: str, is_cluster: bool = False) -> ServerState:
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
        fault=_fault(info, properties, pong, durability=durability, is_cluster=is_cluster),
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


def _fault(info: dict[str, Any], configuration: dict[str, str], pong: Any, *, durability: str, is_cluster: bool) -> str:
    try:
        check_properties(info, configuration, durability=durability, is_cluster=is_cluster)
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
