"""The Redis servers of an exchange, and the cards of each server.

At present one server has all cards: the server of an address, or the primary that sentinels name. Operations on a
server (library, checks, blocking reads, subscriptions) are done for each node.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from redis.asyncio import Redis

from core.service import cancel_and_wait
from core.settings import Settings
from engine import connection, library
from engine.primary import PrimaryWatch


class Node(NamedTuple):
    """One server: a client for commands that are answered at once, a client for blocking reads, and its cards.

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


@asynccontextmanager
async def connect(settings: Settings, name: str | None = None) -> AsyncIterator[Nodes]:
    """Connects to the servers of `TCGX_REDIS_URL`. `name`: the client name of the connections."""
    url = settings.redis_url
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
