"""Wiring: the parts of an exchange in the process of a door, connected to Redis and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import msgspec

from archiver import postgres, schema
from archiver.archive_pages import ArchivePages
from archiver.exports import EXPORTS_MAX, Exports
from archiver.history import ArchivedHistory
from archiver.queries import Archive
from core import urls
from core.errors import StartError, Unavailable
from core.service import cancel_and_wait, wait_at_start
from core.settings import Settings
from engine import loading, nodes, replica_acks
from engine.book_reader import BookReader
from engine.card_order_logs import CardOrderLogs, ClusterMemory
from engine.deadlines import DeadlineKeeper
from engine.match_notifications import MatchNotifier
from engine.memory import MemoryWatch
from engine.nodes import ClusterNodes, Nodes
from engine.order_log import OrderLog
from engine.trader_limits import TraderLimits
from exchange import readiness
from exchange.administration import Administration
from exchange.archive_reader import ArchiveReader
from exchange.auth import Authenticator
from exchange.market import Market
from exchange.readiness import Readiness
from exchange.revocations import Revocations
from exchange.service import Exchange


class Watch(Protocol):
    """A watch over servers."""

    async def run(self) -> None:
        """Looks until it is canceled."""


class Services(msgspec.Struct, frozen=True):
    """The services of a door. If a task of `background` ends with an error, the process of the door must end too:
    its other parts would work with stale state."""

    exchange: Exchange
    market: Market
    archive_reader: ArchiveReader
    authenticator: Authenticator
    readiness: Readiness
    administration: Administration
    nodes: Nodes
    books: BookReader
    archive: Archive
    deadlines: DeadlineKeeper
    background: "Sequence[asyncio.Task[None]]"


def _order_log(settings: Settings, servers: Nodes, history: ArchivedHistory) -> tuple[OrderLog, Watch]:
    """The order log, and the watch over the memory of the servers."""
    make = partial(
        OrderLog,
        backlog_max=settings.backlog_max,
        pending_max=settings.append_pending_max,
        self_trade=settings.self_trade,
        limits=TraderLimits.of(settings),
        history=history,
    )
    percent = settings.redis_memory_percent
    if not isinstance(servers, ClusterNodes):
        memory = MemoryWatch(servers.commands, percent=percent)
        return make(servers.appends, memory=memory, acks=replica_acks.of(settings, servers.appends)), memory
    memories = ClusterMemory(servers.commands, settings.cards, percent=percent)
    logs = {
        card: make(
            servers.appends.of_card(card),
            memory=memories.watches[card],
            acks=replica_acks.of_card(settings, servers, card),
        )
        for card in settings.cards
    }
    return CardOrderLogs(servers.appends, logs), memories


async def wait_for_servers(settings: Settings, stopping: asyncio.Event) -> None:
    """Waits for Redis, and for PostgreSQL and its migrations, each for `start_seconds` at most or until the stop.

    A door that has never met PostgreSQL can't give ids to orders, so the one before it should not leave earlier. It
    starts without PostgreSQL after that time.

    Raises:
        StartError: Redis does not answer, or is not configured to keep orders.
    """
    async with nodes.connect(settings) as servers:
        await loading.wait_until_loaded(servers.commands, stopping, seconds=settings.start_seconds)
        if stopping.is_set():
            return
        await servers.check(durability=settings.durability)
    await wait_at_start("waiting for PostgreSQL", partial(_why_no_archive, settings), settings.start_seconds, stopping)


async def _why_no_archive(settings: Settings) -> str:
    try:
        connection = await postgres.connect(settings.database_url)
        try:
            return await schema.why_not(connection, settings.cards)
        finally:
            connection.terminate()
    except (StartError, Unavailable) as error:
        return str(error)


@asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[Services]:
    """Connects an exchange for the duration of the context. The exit waits until every placed order is appended.

    Raises:
        Unavailable: Redis or PostgreSQL does not answer.
    """
    async with (
        nodes.connect(settings) as servers,
        postgres.pool(settings.database_url) as pool,
        postgres.pool(settings.database_url, size=EXPORTS_MAX) as export_pool,
    ):
        await servers.load_library()
        may_be_promoted = urls.may_be_promoted(settings.redis_url) or settings.replica_acks > 0
        history = ArchivedHistory(servers.commands, pool, settings.cards, may_be_promoted=may_be_promoted)
        order_log, memory = _order_log(settings, servers, history)
        acks = replica_acks.AcksOfNodes(settings, servers)
        deadlines = DeadlineKeeper(servers.commands, settings.cards, history, acks)
        notifier = MatchNotifier(servers)
        archive, books = Archive(pool), BookReader(servers.commands)
        stopping = asyncio.Event()
        notifications = asyncio.create_task(notifier.run(stopping), name="match notifications")
        comparison = asyncio.create_task(history.run(stopping), name="history")
        memory_looks = asyncio.create_task(memory.run(), name="memory")
        revocations = Revocations()
        await revocations.refresh_within(pool)
        polling = asyncio.create_task(revocations.run(pool, stopping), name="revocations")
        telling = asyncio.create_task(deadlines.run(stopping), name="deadlines")
        try:
            async with readiness.connect(settings, history, revocations) as health:
                yield Services(
                    exchange=Exchange(settings, order_log, books, notifier, archive, deadlines=deadlines),
                    market=Market(settings.cards, books, archive),
                    archive_reader=ArchiveReader(settings.cards, ArchivePages(pool), Exports(export_pool)),
                    authenticator=Authenticator(settings, archive, revocations, servers.commands),
                    administration=Administration(settings, servers.commands, pool),
                    readiness=health,
                    nodes=servers,
                    books=books,
                    archive=archive,
                    deadlines=deadlines,
                    background=(notifications, comparison, memory_looks, polling, telling),
                )
        finally:
            try:
                await order_log.close()
                stopping.set()
                await asyncio.wait({comparison})  # its last step registers the sequences in the archive
            finally:  # even if the wait is canceled: no task may outlive its connections
                await cancel_and_wait(notifications, comparison, memory_looks, polling, telling)
