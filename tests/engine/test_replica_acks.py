"""Acknowledgements of replicas: what is acknowledged is on a replica's disk, and what is not is refused."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import redis.exceptions
from redis.asyncio import Redis
from structlog.testing import capture_logs

from core.errors import ClientOrderIdConflict, Overloaded, Unavailable
from core.model import Accepted, PlaceOrder, Side
from engine import connection, library
from engine.order_log import OrderLog
from engine.replica_acks import ReplicaAcks
from testing.replication import RedisGroup, connect_again, cut_off, plain_url, redis_group
from testing.servers import redis_with

pytestmark = pytest.mark.server

ORDER = PlaceOrder(trader_id=1, card="pikachu", side=Side.BUY, price_cents=500, client_order_id="mine")
MS = 400


@pytest.fixture(scope="module")
def group() -> Iterator[RedisGroup]:
    """A primary and a replica."""
    with redis_group(sentinels=False) as running:
        yield running


@pytest.fixture(autouse=True)
def _empty(group: RedisGroup) -> None:
    with group.primary.client() as client:
        client.flushall()


@asynccontextmanager
async def log_of(group: RedisGroup, **changes: Any) -> AsyncIterator[OrderLog]:
    """An order log of another process, as it were: with connections of its own."""
    async with connection.connect(plain_url(group.primary)) as client:
        await library.load(client)
        options = {"replicas": 1, "milliseconds": MS, "is_always": True} | changes
        yield OrderLog(client, backlog_max=1_000, pending_max=1_000, acks=ReplicaAcks(client, **options))


def entries(group: RedisGroup) -> int:
    with group.primary.client() as client:
        return int(client.xlen("{pikachu}:orders"))


def test_an_order_is_acknowledged_once_the_replica_has_it(group: RedisGroup) -> None:
    async def scenario() -> float:
        async with log_of(group) as log:
            await log.append(ORDER)
            began = asyncio.get_running_loop().time()
            assert (await log.append(msgspec.structs.replace(ORDER, client_order_id="next"))).sequence == 2
            return asyncio.get_running_loop().time() - began

    assert asyncio.run(scenario()) < MS / 2_000, "the replica was asked before it had written"
    with group.replicas[0].client() as replica:
        assert replica.xlen("{pikachu}:orders") == 2


def test_without_the_replica_one_order_is_in_doubt_and_then_none_is_appended(group: RedisGroup) -> None:
    async def scenario() -> None:
        replica, primary = group.replicas[0], group.primary
        async with log_of(group) as log, log_of(group) as other:
            cut_off(primary, replica)
            try:
                with pytest.raises(Unavailable, match="0 of 1 replicas have confirmed"):
                    await log.append(ORDER)
                with pytest.raises(Overloaded, match="0 of 1 replicas"):
                    await log.append(msgspec.structs.replace(ORDER, client_order_id="next"))
                assert entries(group) == 1
                with pytest.raises(Unavailable):
                    await other.append(ORDER)  # a repeat, which another connection had appended
                assert entries(group) == 1
                with pytest.raises(Overloaded):
                    await log.cancel_all("pikachu", 1)
            finally:
                connect_again(replica)
                await asyncio.to_thread(group.in_step)
            with capture_logs() as lines:
                assert await log.append(ORDER) == Accepted(1, None)
            assert [line["event"] for line in lines] == ["replicas confirm again"]
            assert await other.append(ORDER) == Accepted(1, None)
            assert (await log.cancel_all("pikachu", 1)).orders == [1]

    asyncio.run(scenario())


def test_a_replica_that_stands_still_costs_no_more_than_the_time_for_replicas(group: RedisGroup) -> None:
    async def scenario() -> None:
        async with log_of(group) as log:
            await log.append(ORDER)
            replica = group.replicas[0]
            replica.pause()
            try:
                began = asyncio.get_running_loop().time()
                orders = [msgspec.structs.replace(ORDER, client_order_id=f"n{number}") for number in range(20)]
                first, *behind = [asyncio.create_task(log.append(order)) for order in orders]
                await asyncio.wait([first])
                outcomes = await asyncio.gather(*behind, return_exceptions=True)
                assert isinstance(first.exception(), Unavailable)
                assert {type(outcome) for outcome in outcomes} <= {Unavailable, Overloaded}
                assert asyncio.get_running_loop().time() - began < 2 * MS / 1_000 + 0.5
                async with log_of(group) as other:  # its connection has written nothing that the replica lacks
                    with pytest.raises(Unavailable):
                        await other.append(orders[0])
            finally:
                replica.go_on()

    asyncio.run(scenario())


def test_a_sequence_is_recorded_as_unconfirmed_if_the_connection_ends_while_replicas_are_waited_for(
    group: RedisGroup,
) -> None:
    async def scenario() -> None:
        async with log_of(group, milliseconds=4_000) as log:
            await log.append(ORDER)
            recorded: list[int] = []
            history: Any = log._history
            history.record_unconfirmed = lambda _, sequence: recorded.append(sequence)
            replica, primary = group.replicas[0], group.primary
            replica.pause()
            try:
                appended = asyncio.create_task(log.append(msgspec.structs.replace(ORDER, client_order_id="next")))
                await asyncio.to_thread(_blocked, group)
                with primary.client() as client:
                    client.execute_command("CLIENT", "KILL", "TYPE", "normal")
                with pytest.raises(Unavailable):
                    await appended
            finally:
                replica.go_on()
        assert recorded == [2]

    asyncio.run(scenario())


def _blocked(group: RedisGroup) -> None:
    with group.primary.client() as client:
        while client.info("clients")["blocked_clients"] == 0:
            pass


def test_a_conflict_of_client_order_ids_is_none_of_the_replicas(group: RedisGroup) -> None:
    async def scenario() -> None:
        async with log_of(group) as log:
            await log.append(ORDER)
            cut_off(group.primary, *group.replicas)
            try:
                with pytest.raises(ClientOrderIdConflict):
                    await log.append(msgspec.structs.replace(ORDER, price_cents=600))
            finally:
                connect_again(group.replicas[0])

    asyncio.run(scenario())


@pytest.mark.parametrize("lines", ['rename-command WAITAOF ""', "appendonly no"])
def test_a_server_without_waitaof_counts_what_replicas_have_in_memory_and_says_so(lines: str) -> None:
    async def scenario(url: str) -> Any:
        client: Redis
        async with connection.connect(url) as client:
            await library.load(client)
            acks = ReplicaAcks(client, replicas=1, milliseconds=100, is_always=True)
            log = OrderLog(client, backlog_max=1_000, pending_max=1_000, acks=acks)
            with capture_logs() as told:
                for _ in range(2):
                    with pytest.raises((Unavailable, Overloaded), match="0 of 1 replicas have confirmed"):
                        await log.append(ORDER)
            return [line["event"] for line in told if "in memory alone" in line["event"]]

    with redis_with(lines) as server:
        assert len(asyncio.run(scenario(server.socket_url))) == 1


def test_an_error_of_wait_is_no_acknowledgement(group: RedisGroup) -> None:
    async def scenario() -> None:
        async with connection.connect(plain_url(group.primary)) as client:
            acks = ReplicaAcks(client, replicas=1, milliseconds=100, is_always=True)
            with pytest.raises(Unavailable):
                acks._judge(0, redis.exceptions.ResponseError("WAIT cannot be used with replica instances"), [1, 1])
            with pytest.raises(Unavailable):
                acks._judge(0, 1, redis.exceptions.ResponseError("WAITAOF cannot be used with replica instances"))

    asyncio.run(scenario())
