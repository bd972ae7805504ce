"""The Redis servers of an exchange, and which cards each of them has. Today one server has all of them; whoever speaks
to a server as such (its library, its checks, blocking reads, subscriptions) does so for each node."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from redis.asyncio import Redis

from core.settings import Settings
from engine import connection, library


class Node(NamedTuple):
    """One server: connections for commands that are answered at once, connections for reads that wait, its cards."""

    commands: Redis
    blocking: Redis
    cards: Sequence[str]


class Nodes:
    """All servers of an exchange."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._of_card = {card: node for node in nodes for card in node.cards}

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes)

    def of(self, card: str) -> Node:
        """The server that has a card."""
        return self._of_card[card]

    @property
    def commands(self) -> Redis:
        """A client for the keys of any card, one card a command."""
        return self._nodes[0].commands

    async def check(self, *, durability: str) -> None:
        """That every server can be trusted with orders.

        Raises:
            StartError: one cannot (`connection.check`).
        """
        for node in self:
            await connection.check(node.commands, durability=durability)

    async def load_library(self) -> None:
        """Makes the library of every server this version's.

        Raises:
            Unavailable: one does not answer.
        """
        for node in self:
            await library.load(node.commands)

    async def refuse_replicas(self) -> None:
        """That every server can be written to.

        Raises:
            Unavailable: one is a replica, or does not answer.
        """
        for node in self:
            await connection.refuse_replica(node.commands)


@asynccontextmanager
async def connect(settings: Settings, name: str | None = None) -> AsyncIterator[Nodes]:
    """The servers that `TCGX_REDIS_URL` names. `name`: what the connections are called at the server."""
    async with (
        connection.connect(settings.redis_url, name) as commands,
        connection.connect_blocking(settings.redis_url, name) as blocking,
    ):
        yield Nodes([Node(commands, blocking, settings.cards)])
