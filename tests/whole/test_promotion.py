"""A replica that lacks the end of the log is promoted: no sequence is given out twice, by none of several processes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from archiver import history as archived_history
from archiver import postgres
from archiver.history import ArchivedHistory
from core.errors import HistoryConflict, Unavailable
from core.model import PlaceOrder, Side
from core.service import cancel_and_wait
from engine import connection, library
from engine.order_log import OrderLog
from testing.replication import MovingAddress, RedisGroup, cut_off, redis_group
from testing.servers import Servers

pytestmark = pytest.mark.server

CARDS = ("pikachu",)
ORDER = PlaceOrder(trader_id=1, card="pikachu", side=Side.BUY, price_cents=500)


@pytest.fixture
def group() -> Iterator[RedisGroup]:
    """A primary and a replica."""
    with redis_group(sentinels=False) as running:
        yield running


class Process:
    """The order log and the history of an API process."""

    def __init__(self, url: str, pool: asyncpg.Pool, *, may_be_promoted: bool = False) -> None:
        self.client = connection.connect(url)
        self.history = ArchivedHistory(self.client, pool, CARDS, may_be_promoted=may_be_promoted)
        self.log = OrderLog(self.client, backlog_max=1_000, pending_max=1_000, history=self.history)

    async def place(self) -> int:
        """Places an order. Its sequence."""
        return (await self.log.append(ORDER)).sequence

    async def place_after_failover(self) -> int:
        """The same; the first attempt may meet the connection to the old primary."""
        with suppress(Unavailable):
            return await self.place()
        return await self.place()


@asynccontextmanager
async def processes(
    group: RedisGroup, pair: Servers, **options: bool
) -> AsyncIterator[tuple[MovingAddress, Process, Process]]:
    """Two API processes, at an address that moves. Neither compares or registers by itself."""
    address = MovingAddress(group.primary.port)
    async with address.url() as url, postgres.pool(pair.settings.database_url) as pool:
        one, other = Process(url, pool, **options), Process(url, pool, **options)
        try:
            await library.load(one.client)
            yield address, one, other
        finally:
            for each in (one, other):
                await each.client.aclose()


async def promote_what_lacks_the_end(group: RedisGroup, address: MovingAddress, last: Process) -> list[int]:
    """Cuts the replica off, lets a process place three orders, kills the primary and promotes the replica."""
    primary, replica = group.primary, group.replicas[0]
    cut_off(primary, replica)
    given = [await last.place() for _ in range(3)]
    primary.kill()
    with replica.client() as client:
        client.replicaof("NO", "ONE")
    address.target = replica.port
    return given


def test_an_order_waits_until_the_other_processes_have_registered_what_they_were_given(
    group: RedisGroup, pair: Servers
) -> None:
    async def scenario() -> None:
        async with processes(group, pair) as (address, one, other):
            assert await one.place() == 1
            assert await other.place() == 2
            await asyncio.to_thread(group.in_step)
            assert await promote_what_lacks_the_end(group, address, one) == [3, 4, 5]
            stopping = asyncio.Event()
            registering = asyncio.create_task(one.history._register_always(stopping))
            try:
                with pytest.raises(HistoryConflict, match="2, and 5 were given out"):
                    await other.place_after_failover()
            finally:
                await cancel_and_wait(registering)
            with pytest.raises(HistoryConflict):
                await one.place_after_failover()

    asyncio.run(scenario())


def test_the_comparison_in_the_background_lets_no_order_in_before_that(group: RedisGroup, pair: Servers) -> None:
    async def scenario() -> None:
        async with processes(group, pair) as (address, one, other):
            await one.place()
            await other.place()
            await asyncio.to_thread(group.in_step)
            await promote_what_lacks_the_end(group, address, one)
            with suppress(Unavailable):  # the connection to the old primary
                await other.history._compare_with_archive(CARDS)
            await other.history._compare_with_archive(CARDS)  # as every two seconds
            assert CARDS[0] not in other.history._marks
            await asyncio.sleep(archived_history.SETTLE_SECONDS)
            await one.history.register()
            await other.history._compare_with_archive(CARDS)
            assert other.history.faults

    asyncio.run(scenario())


def test_a_promoted_replica_takes_no_order_while_postgresql_is_away(group: RedisGroup, pair: Servers) -> None:
    async def scenario() -> None:
        async with processes(group, pair, may_be_promoted=True) as (address, one, other):
            await one.place()
            await other.place()
            await asyncio.to_thread(group.in_step)
            await promote_what_lacks_the_end(group, address, one)
            async with postgres.pool("postgresql://tcgx@127.0.0.1:1/tcgx") as away:
                other.history._pool = away
                with pytest.raises(Unavailable, match="the primary of pikachu has changed"):
                    await other.place_after_failover()

    asyncio.run(scenario())


def test_a_process_that_starts_beside_a_server_that_runs_waits_for_nothing(group: RedisGroup, pair: Servers) -> None:
    async def scenario() -> float:
        async with processes(group, pair) as (_, one, other):
            await one.place()
            await asyncio.sleep(archived_history.SETTLE_SECONDS)
            began = asyncio.get_running_loop().time()
            await other.place()
            return asyncio.get_running_loop().time() - began

    assert asyncio.run(scenario()) < archived_history.SETTLE_SECONDS
