"""A Redis Cluster of this machine: throw-away nodes that share the slots, without replicas."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.crc import key_slot

from bench.options import Options
from bench.servers import long_client
from engine import keys, library
from testing.servers import free_port, throwaway_redis
from testing.waiting import until_async

SLOTS = 16_384
READY_SECONDS = 30


@asynccontextmanager
async def cluster(options: Options, size: int) -> AsyncIterator[list[Redis]]:
    """A client of each node, with the library loaded; node n has the n-th part of the slots."""
    async with AsyncExitStack() as stack:
        nodes: list[tuple[str, int]] = []
        clients: list[Any] = []  # redis-py has no types for CLUSTER
        for _ in range(size):
            bus_port = free_port()  # the usual one, 10,000 above the other, may be no port
            local = msgspec.structs.replace(options.settings, redis_core="any")
            node = await stack.enter_async_context(
                throwaway_redis(local, "cluster-enabled yes", f"cluster-port {bus_port}")
            )
            nodes.append((node.url.rpartition(":")[2].partition("/")[0], bus_port))
            clients.append(await stack.enter_async_context(long_client(node.socket_url)))
        for place, client in enumerate(clients):
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", _first(place, size), _first(place + 1, size) - 1)
            if place:
                await client.execute_command("CLUSTER", "MEET", "127.0.0.1", *nodes[0])

        async def agreed() -> bool:
            states = [str(await client.execute_command("CLUSTER", "INFO")) for client in clients]
            return all("cluster_state:ok" in one and f"cluster_known_nodes:{size}" in one for one in states)

        await until_async(agreed, "the nodes of the cluster do not agree on its slots", seconds=READY_SECONDS)
        for client in clients:
            await library.load(client)
        yield clients


def _first(place: int, size: int) -> int:
    return place * SLOTS // size


def node_of(card: str, size: int) -> int:
    """Which node has a card's slot."""
    slot = key_slot(keys.tag(card).encode())
    return next(place for place in range(size) if slot < _first(place + 1, size))


def spread_cards(a_node: int, size: int) -> list[str]:
    """Names of cards of which every node of a cluster of this size has so many."""
    found: dict[int, list[str]] = {place: [] for place in range(size)}
    for number in count():
        card = f"card_{number}"
        of_node = found[node_of(card, size)]
        if len(of_node) < a_node:
            of_node.append(card)
        if all(len(names) == a_node for names in found.values()):
            return [card for names in found.values() for card in names]
    raise AssertionError("count() does not end")


def by_node(cards: Sequence[str], size: int) -> list[list[str]]:
    """The cards of each node."""
    return [[card for card in cards if node_of(card, size) == place] for place in range(size)]
