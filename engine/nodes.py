"""The Redis servers of an exchange, and the cards of each server.

One server has all cards: the server of an address, or the primary that sentinels name. In a cluster each card has a
node of its own, whose clients follow the card. So cards of different servers do not wait for each other, and no node
changes when a card is moved. Blocking reads and subscriptions are done for each node.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple

from redis.asyncio import Redis

from core import urls
from core.service import cancel_and_wait
from core.settings import Settings
from engine import cluster, connection, library
from engine.cluster import ClusterClient, Topology
from engine.primary import PrimaryWatch


class Node(NamedTuple):
    """One server, or in a cluster the server that has a card.

    It has a client for commands that are answered at once, a client for blocking reads, and the cards.
    `appends`: a client for appends alone, which must not wait behind reads.
    """

    commands: Redis
    blocking: Redis
    cards: Sequence[str]
    appends: Redis | None = None


class Nodes:
    """All servers of an exchange."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._of_card = {card: node for node in nodes for card in node.cards}

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes)

    def of(self, card: str) -> Node:
        """The server of a card."""
        return self._of_card[card]

    @property
    def commands(self) -> Redis:
        """A client for the keys of any card. Each command uses the keys of one card only."""
        return self._nodes[0].commands

    @property
    def appends(self) -> Redis:
        """A client for appends to any card."""
        return self._nodes[0].appends or self.commands

    async def check(self, *, durability: str) -> None:
        """Checks that every server keeps orders safe.

        Raises:
            StartError: a server fails the check (`connection.check`).
        """
        for node in self:
            await connection.check(node.commands, durability=durability)

    async def load_library(self) -> None:
        """Loads the library of this version on every server.

        Raises:
            Unavailable: a server does not answer.
        """
        for node in self:
            await library.load(node.commands)

    async def refuse_replicas(self) -> None:
        """Checks that no server is a replica.

        Raises:
            Unavailable: a server is a replica, or does not answer.
        """
        for node in self:
            await connection.refuse_replica(node.commands)


class ClusterNodes(Nodes):
    """The cards of a cluster. `client`: leads to all of its servers."""

    def __init__(self, nodes: Sequence[Node], client: ClusterClient) -> None:
        super().__init__(nodes)
        self._client = client

    @property
    def commands(self) -> ClusterClient:
        """A client for the keys of any card. Each command uses the keys of one card only."""
        return self._client

    @property
    def appends(self) -> ClusterClient:
        """A client for appends to any card. An `OrderLog` of a card uses that of its node."""
        return self._client

    async def check(self, *, durability: str) -> None:
        """Checks that every server keeps orders safe (`connection.check`)."""
        await connection.check(self._client, durability=durability)

    async def load_library(self) -> None:
        """Loads the library of this version on every server.

        Raises:
            Unavailable: a server does not answer.
        """
        await library.load(self._client)


@asynccontextmanager
async def connect(settings: Settings, name: str | None = None) -> AsyncIterator[Nodes]:
    """Connects to the servers of `TCGX_REDIS_URL`. `name`: the client name of the connections."""
    url = settings.redis_url
    if urls.names_cluster(url):
        async with _connect_cluster(settings, name) as found:
            yield found
        return
    async with (
        connection.connect(url, name) as commands,
        connection.connect_blocking(url, name) as blocking,
        connection.connect(url, name) as appends,
    ):
        watching = asyncio.create_task(PrimaryWatch(url, [commands, blocking, appends]).run(), name="primary")
        try:
            yield Nodes([Node(commands, blocking, settings.cards, appends)])
        finally:
            await cancel_and_wait(watching)


@asynccontextmanager
async def _connect_cluster(settings: Settings, name: str | None) -> AsyncIterator[ClusterNodes]:
    url = settings.redis_url
    topology = Topology(url)
    seconds = connection.COMMAND_SECONDS
    async with (
        aclosing(topology),
        cluster.client(url, topology, socket_timeout=seconds, client_name=name) as commands,
        cluster.client(url, topology, socket_timeout=connection.BLOCKING_SECONDS, client_name=name) as blocking,
        cluster.client(url, topology, socket_timeout=seconds, client_name=name) as appends,
    ):
        nodes = [
            Node(commands.of_card(card), blocking.of_card(card), [card], appends.of_card(card))
            for card in settings.cards
        ]
        watching = asyncio.create_task(topology.watch(), name="cluster")
        try:
            yield ClusterNodes(nodes, commands)
        finally:
            await cancel_and_wait(watching)
