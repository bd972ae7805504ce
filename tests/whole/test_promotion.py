"""A replica that lacks the end of the log is promoted: no sequence is given out twice, by none of several processes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest

from archiver import history as archived_history
from archiver import postgres, recovery
from archiver.history import ArchivedHistory
from core.errors import HistoryConflict, Unavailable
from core.model import PlaceOrder, Side
from core.service import cancel_and_wait
from engine import connection, history, library
from engine.history import UNKNOWN_MAX
from engine.order_log import OrderLog
from engine.replica_acks import ReplicaAcks
from testing.replication import PASSWORD, MovingAddress, RedisGroup, cut_off, redis_group
from testing.servers import Servers

pytestmark = pytest.mark.server

CARDS = ("pikachu",)
ACK_MS = 400
ORDER = PlaceOrder(trader_id=1, card="pikachu", side=Side.BUY, price_cents=500)


@pytest.fixture
def group() -> Iterator[RedisGroup]:
    """A primary and a replica."""
    with redis_group(sentinels=False) as running:
        yield running


class Process:
    """The order log and the history of an API process."""

    def __init__(
        self, url: str, pool: asyncpg.Pool, *, may_be_promoted: bool = False, replicas_confirm: bool = False
    ) -> None:
        self.client = connection.connect(url)
        self.history = ArchivedHistory(self.client, pool, CARDS, may_be_promoted=may_be_promoted)
        acks = ReplicaAcks(self.client, replicas=1, milliseconds=ACK_MS, is_always=True) if replicas_confirm else None
        backlog_max = 10 * UNKNOWN_MAX  # nothing matches here
        self.log = OrderLog(self.client, backlog_max=backlog_max, pending_max=1_000, history=self.history, acks=acks)

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


@pytest.mark.parametrize("may_be_promoted", [False, True])
def test_an_order_waits_until_the_other_processes_have_registered_what_they_were_given(
    group: RedisGroup, pair: Servers, may_be_promoted: bool
) -> None:
    async def scenario() -> None:
        async with processes(group, pair, may_be_promoted=may_be_promoted) as (address, one, other):
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
                pool, other.history._pool = other.history._pool, away
                with pytest.raises(Unavailable, match="the primary of pikachu has changed"):
                    await other.place_after_failover()
                other.history._pool = pool
                await other.history._compare_with_archive(CARDS)  # the new run is met, and not adopted yet
                other.history._pool = away
                await asyncio.sleep(archived_history.SETTLE_SECONDS)
                with pytest.raises(Unavailable, match="the primary of pikachu has changed"):
                    await other.place()

    asyncio.run(scenario())


async def promote(group: RedisGroup, address: MovingAddress) -> None:
    """Kills the primary and promotes the replica. The killed one then follows it, so that it can confirm."""
    primary, replica = group.primary, group.replicas[0]
    primary.kill()
    with replica.client() as client:
        client.replicaof("NO", "ONE")
        client.config_set("masterauth", PASSWORD)
    await asyncio.to_thread(primary.start, f"replicaof 127.0.0.1 {replica.port}")
    await asyncio.to_thread(group.in_step)
    address.target = replica.port


def test_orders_go_on_above_an_unacknowledged_one_that_the_replica_lacks(group: RedisGroup, pair: Servers) -> None:
    async def scenario() -> None:
        async with processes(group, pair, may_be_promoted=True, replicas_confirm=True) as (address, one, other):
            assert [await one.place(), await other.place()] == [1, 2]
            await one.history.register()
            cut_off(group.primary, *group.replicas)
            with pytest.raises(Unavailable):
                await one.place()
            assert (await history.read_log_state(one.client, CARDS[0])).sequence == 3
            await one.history.register()
            await promote(group, address)

            following = 2 + UNKNOWN_MAX + 1
            assert [await other.place_after_failover(), await one.place_after_failover()] == [following, following + 1]
            for each in (one, other):
                await each.history._compare_with_archive(CARDS)
                assert each.history.faults == {}

    asyncio.run(scenario())


def test_a_process_that_knows_higher_ids_goes_on_above_them(group: RedisGroup, pair: Servers) -> None:
    async def scenario() -> None:
        async with processes(group, pair, may_be_promoted=True, replicas_confirm=True) as (address, one, _):
            assert await one.place() == 1
            one.history.record_unconfirmed(CARDS[0], 500)
            await promote(group, address)
            assert await one.place_after_failover() == 500 + UNKNOWN_MAX + 1

    asyncio.run(scenario())


def test_an_unconfirmed_order_counts_as_acknowledged_once_replicas_have_it(group: RedisGroup, pair: Servers) -> None:
    async def scenario() -> None:
        async with processes(group, pair, may_be_promoted=True, replicas_confirm=True) as (_, one, _):
            assert await one.place() == 1
            replica = group.replicas[0]
            replica.pause()
            with pytest.raises(Unavailable):
                await one.place()
            assert one.history._given == {CARDS[0]: 1}
            replica.go_on()
            await asyncio.to_thread(group.in_step)
            assert await one.place() == 3
            assert one.history._given == {CARDS[0]: 3}

    asyncio.run(scenario())


def test_what_a_process_was_given_is_a_conflict_though_it_says_so_late(group: RedisGroup, pair: Servers) -> None:
    async def scenario() -> None:
        async with processes(group, pair, may_be_promoted=True) as (address, one, other):
            assert [await one.place(), await other.place()] == [1, 2]
            await asyncio.to_thread(group.in_step)
            assert await promote_what_lacks_the_end(group, address, one) == [3, 4, 5]
            # The first process pauses for longer than the other one waits for it.
            assert await other.place_after_failover() == 2 + UNKNOWN_MAX + 1
            with pytest.raises(HistoryConflict, match="had commands up to 2, and 5 were given out"):
                await one.place_after_failover()
            await other.history._compare_with_archive(CARDS)
            with pytest.raises(HistoryConflict, match="had commands up to 2, and 5 were given out"):
                await other.place()

            await asyncio.to_thread(match_all, group)
            database = await asyncpg.connect(pair.settings.database_url)
            (plan,) = await recovery.plans(one.client, database, CARDS)
            await recovery.recover(one.client, database, plan)
            await database.close()
            for each in (one, other):
                await each.history._compare_with_archive(CARDS)
            assert await one.place() > plan.base
            assert await other.place() > plan.base

    asyncio.run(scenario())


def match_all(group: RedisGroup) -> None:
    """Matches everything, as an engine would."""
    with group.primary.client() as client:
        reply: Any = [1] * 6
        while reply[5]:
            reply = client.fcall("match", 1, f"{{{CARDS[0]}}}", "1000")


def test_an_answer_of_the_demoted_server_that_comes_late_is_a_conflict(group: RedisGroup, pair: Servers) -> None:
    async def scenario() -> None:
        async with processes(group, pair, may_be_promoted=True) as (address, one, _):
            assert await one.place() == 1
            mark_of_before = one.history._marks[CARDS[0]]
            await promote(group, address)
            assert await one.place_after_failover() == 1 + UNKNOWN_MAX + 1
            one.history.record_sequence(CARDS[0], 2, mark_of_before)
            await one.history._compare_with_archive(CARDS)
            assert "had commands up to 1, and 2 were given out" in one.history.faults[CARDS[0]]

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
