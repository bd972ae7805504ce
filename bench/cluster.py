"""A Redis Cluster of this machine: throw-away nodes that share the slots, without replicas."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.crc import key_slot

from bench.options import Options
from bench.servers import free_port, long_client, until
from cli import datadir
from cli.embedded_redis import RedisServer
from engine import keys, library

SLOTS = 16_384
READY_SECONDS = 30


class Node(RedisServer):
    """An embedded server that is a node of a cluster. The bus has a port of its own choice: the usual one, 10,000
    above, may be no port."""

    def _configuration(self) -> str:
        self.bus_port = free_port()
        return super()._configuration() + f"cluster-enabled yes\ncluster-port {self.bus_port}\n"


@asynccontextmanager
async def cluster(options: Options, size: int) -> AsyncIterator[list[Redis]]:
    """A client of each node, with the library loaded; node n has the n-th part of the slots."""
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        clients: list[Any] = []  # redis-py has no types for CLUSTER
        for _ in range(size):
            data_dir = stack.enter_context(datadir.ephemeral())
            local = msgspec.structs.replace(options.settings, data_dir=str(data_dir), redis_core="any")
            node = Node(local, datadir.load_secrets(data_dir))
            stack.push_async_callback(node.stop)
            await node.start()
            nodes.append(node)
            clients.append(await stack.enter_async_context(long_client(node.socket_url)))
        for place, client in enumerate(clients):
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", _first(place, size), _first(place + 1, size) - 1)
            other = nodes[0]
            if place:
                port = int(other.url.rpartition(":")[2].partition("/")[0])
                await client.execute_command("CLUSTER", "MEET", "127.0.0.1", port, other.bus_port)

        async def agreed() -> bool:
            states = [str(await client.execute_command("CLUSTER", "INFO")) for client in clients]
            return all("cluster_state:ok" in one and f"cluster_known_nodes:{size}" in one for one in states)

        await until(agreed, READY_SECONDS, "the nodes of the cluster do not agree on its slots")
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
