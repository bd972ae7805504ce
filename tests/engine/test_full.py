"""Full memory and full backlogs: orders are refused, cancels are taken, and what was acknowledged is matched."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from core.errors import Overloaded
from core.model import COMMANDS_MAX, Accepted, CancelOrder, Command, PlaceOrder, Side
from engine import connection
from engine.fair_queue import FairQueue, with_reserve
from engine.memory import MemoryState, MemoryWatch
from engine.order_log import OrderLog
from testing.market import Market, many
from testing.servers import LoadedRedis

pytestmark = pytest.mark.server

ROOM = 500_000
SECONDS = 20.0
BATCH = many(1, count=1_000)
Logs = list[OrderLog]


def order(trader: int = 1, client_order_id: str | None = None) -> PlaceOrder:
    return PlaceOrder(trader_id=trader, card="pikachu", side=Side.BUY, price_cents=500, client_order_id=client_order_id)


def cancel(sequence: int, trader: int = 1) -> CancelOrder:
    return CancelOrder(trader_id=trader, card="pikachu", sequence=sequence)


def limit_memory(client: Redis, room: int) -> None:
    """Leaves the server some room above what it uses."""
    client.config_set("maxmemory", client.info("memory")["used_memory"] + room)


@contextlib.contextmanager
def some_memory(server: LoadedRedis) -> Iterator[Market]:
    """A card of a server with little room."""
    market = Market(server.client())
    market.mark()
    limit_memory(market.redis, ROOM)
    try:
        yield market
    finally:
        market.redis.config_set("maxmemory", 0)


def run(server: LoadedRedis, work: Callable[[Logs], Awaitable[None]], *, percent: int = 100, **options: Any) -> None:
    """Works with two logs, as two API processes have them, each with a watch of its own."""

    async def main() -> None:
        async with connection.connect(server.url) as one, connection.connect(server.url) as other:
            watches = [MemoryWatch(client, percent=percent) for client in (one, other)]
            bounds = {"backlog_max": 1_000_000, "pending_max": 1_000_000, **options}
            logs = [
                OrderLog(client, memory=watch, **bounds) for client, watch in zip((one, other), watches, strict=True)
            ]
            tasks = [asyncio.create_task(watch.run()) for watch in watches]
            await asyncio.wait_for(work(logs), SECONDS)
            for log in logs:
                await log.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


async def fill(log: OrderLog, trader: int) -> int:
    """Appends orders until one is refused. Returns how many were acknowledged."""
    acknowledged = 0
    while True:
        outcomes = await log.append_all([order(trader)] * 1_000)
        acknowledged += sum(isinstance(outcome, Accepted) for outcome in outcomes)
        if any(isinstance(outcome, Overloaded) for outcome in outcomes):
            return acknowledged


# Memory.


def append_all_that_fits(market: Market) -> int:
    """Appends orders until the server refuses one. Returns how many it took."""
    acknowledged = 0
    with contextlib.suppress(OutOfMemoryError):
        while True:
            market.append(BATCH)
            acknowledged += len(BATCH)
    return acknowledged


def test_with_full_memory_all_that_was_acknowledged_is_matched_and_canceled(own_server: LoadedRedis) -> None:
    with some_memory(own_server) as market:
        acknowledged = append_all_that_fits(market)
        market.match()
        assert len(market.bids()) == acknowledged > 0
        limit_memory(market.redis, -1)  # it is full however much was freed meanwhile

        sequence, _, _ = market.redis.fcall("append_cancels", 1, market.tag, 1, market.mark(), 1, 0, '["1"]', "[1]")
        canceled = market.cancel_all()
        market.match()
        market.redis.fcall("trim", 1, market.tag, sequence, 10, 10)

        assert (sequence, canceled) == (acknowledged + 1, list(range(1, acknowledged + 1)))
        assert market.bids() == []
        assert len(market.completed()) > 0
        limit_memory(market.redis, -1)
        assert append_all_that_fits(market) == 0


def test_orders_are_refused_before_memory_is_full_and_taken_again_by_themselves(own_server: LoadedRedis) -> None:
    async def work(logs: Logs) -> None:
        acknowledged = sum(await asyncio.gather(fill(logs[0], 1), fill(logs[1], 2)))
        async with asyncio.timeout(SECONDS):
            while not all(log.memory.state.is_full for log in logs):  # noqa: ASYNC110 - a watch tells nobody
                await asyncio.sleep(0.01)
        state = logs[0].memory.state
        with pytest.raises(Overloaded, match="memory of Redis is nearly full") as refused:
            await logs[0].append(order())
        assert f"{state.used:,} of {state.maxmemory:,} bytes" in refused.value.detail
        assert f"{state.bound:,}" in refused.value.detail

        accepted = await logs[1].append(cancel(1))
        canceled = await logs[0].cancel_all("pikachu", 2)
        await asyncio.to_thread(market.match)

        assert accepted.sequence == acknowledged + 1
        assert canceled.last > canceled.first > acknowledged
        assert market.redis.hget(market.key("cursor"), "sequence") == market.redis.get(market.key("sequence"))
        assert {listed.trader_id for listed in market.bids()} == {1}
        await asyncio.to_thread(limit_memory, market.redis, 100 * ROOM)
        freed_at = time.monotonic()
        for log in logs:
            await accepted_in_time(log)
        assert time.monotonic() - freed_at < 1

    with some_memory(own_server) as market:
        used = market.redis.info("memory")["used_memory"]
        market.redis.config_set("maxmemory", (used + ROOM) * 100 // 90)
        run(own_server, work, percent=90)


async def accepted_in_time(log: OrderLog) -> None:
    while True:
        with contextlib.suppress(Overloaded):
            await log.append(order())
            return
        await asyncio.sleep(0.01)


def test_what_is_known_of_memory(own_server: LoadedRedis) -> None:
    async def states() -> list[MemoryState]:
        found = []
        async with connection.connect(own_server.url) as client:
            for maxmemory, percent in ((0, 1), (2_000_000_000, 90), (1_000_000, 90), (1_000_000, 100)):
                await client.config_set("maxmemory", maxmemory)
                watch = MemoryWatch(client, percent=percent)
                await watch.look()
                found.append(watch.state)
            await client.config_set("maxmemory", 0)
            await asyncio.to_thread(own_server.stop)
            await watch.look()
            found.append(watch.state)
        return found

    unbounded, roomy, full, off, unknown = asyncio.run(states())

    assert [state.is_full for state in (unbounded, roomy, full, off, unknown)] == [False, False, True, False, False]
    assert (roomy.bound, full.bound, off.bound) == (1_800_000_000, 900_000, 0)
    assert unbounded.used > 0
    assert unknown == MemoryState()
    own_server.start()


def test_a_cancel_in_a_batch_of_orders_is_taken_where_the_orders_are_refused(own_server: LoadedRedis) -> None:
    async def work(logs: Logs) -> None:
        log = logs[0]
        commands: list[Command] = [order(), cancel(7), order(), cancel(8)]

        outcomes = await log.append_all(commands)

        assert [type(outcome) for outcome in outcomes] == [Overloaded, Accepted, Overloaded, Accepted]
        assert "out of memory" in str(outcomes[0])

    with some_memory(own_server) as market:
        limit_memory(market.redis, -1)
        run(own_server, work)
        assert [len(fields[b"kinds"]) for _, fields in market.log_entries()] == [2]


# The backlog.


def test_at_a_full_backlog_cancels_have_a_reserve_and_repeats_an_answer(
    redis_server: LoadedRedis, redis_client: Redis
) -> None:
    async def work(logs: Logs) -> None:
        log = logs[0]
        first = await log.append(order(client_order_id="known"))
        await log.append_all([order()] * 999)
        with pytest.raises(Overloaded, match="1000 commands of pikachu wait to be matched"):
            await log.append(order())

        assert (await log.append(order(client_order_id="known"))).sequence == first.sequence
        assert (await log.append(cancel(first.sequence))).sequence == 1_001
        mixed = await log.append_all([order(), cancel(2)])
        assert [type(outcome) for outcome in mixed] == [Overloaded, Accepted]
        outcomes = await log.append_all([cancel(3)] * 98)
        assert {type(outcome) for outcome in outcomes} == {Accepted}
        with pytest.raises(Overloaded):
            await log.append(cancel(4))
        with pytest.raises(Overloaded):
            await log.cancel_all("pikachu", 1)

        await asyncio.to_thread(market.match)
        canceled = await log.cancel_all("pikachu", 1)
        assert len(canceled.orders) == 1_000 - 3
        assert isinstance(await log.append(order()), Accepted)

    market = Market(redis_client)
    run(redis_server, work, backlog_max=1_000)


def test_cancel_all_behind_completed_orders_does_not_pass_a_full_backlog(redis_client: Redis) -> None:
    market = Market(redis_client)
    for _ in range(2):
        market.append([order()] * COMMANDS_MAX)
    market.match()
    assert len(market.cancel_all(calls_max=1)) == COMMANDS_MAX
    market.match()

    with pytest.raises(ResponseError, match="BACKLOG"):
        market.redis.fcall("cancel_all", 1, market.tag, 1, market.mark(), 0, 0, 0, 0)


def test_cancel_all_is_taken_where_orders_are_refused(redis_server: LoadedRedis, redis_client: Redis) -> None:
    async def work(logs: Logs) -> None:
        await logs[0].append_all([order()] * 1_000)
        with pytest.raises(Overloaded):
            await logs[0].append(order())

        canceled = await logs[1].cancel_all("pikachu", 1)

        assert canceled.orders == list(range(1, 1_001))

    run(redis_server, work, backlog_max=1_000)
    market = Market(redis_client)
    market.match()
    assert market.bids() == []


# The queue of an API process.


def test_a_full_queue_has_a_reserve_that_cancels_share() -> None:
    loop = asyncio.new_event_loop()
    queue = FairQueue(900)
    try:
        for trader in range(1, 40):
            while queue.put((trader, [order(trader)], loop.create_future())):
                pass
        pending = queue.pending
        taken = dict.fromkeys((1, 2, 3), 0)
        for trader in taken:
            while queue.put((trader, [cancel(1, trader)], loop.create_future())):
                taken[trader] += 1
        is_order_taken = queue.put((50, [order(50)], loop.create_future()))

        assert pending >= 890
        assert not is_order_taken
        assert all(count > 0 for count in taken.values())
        assert queue.pending <= with_reserve(900)
        assert len(queue.take_all()) == pending + sum(taken.values())
        assert queue.put((1, [cancel(1)], loop.create_future()))
    finally:
        loop.close()


def test_cancels_in_the_reserve_take_no_room_from_orders_of_others() -> None:
    loop = asyncio.new_event_loop()
    queue = FairQueue(20_000)
    flood = [cancel(1)] * COMMANDS_MAX
    try:
        for _ in range(100):
            while queue.put((1, flood, loop.create_future())):
                pass
            assert queue.put((2, [order(2)], loop.create_future()))
            assert queue.take()
        assert queue.pending > 18_000, "there was no flood"
    finally:
        loop.close()
