"""The client of a cluster: which server gets a command, while slots are moved and servers come and go."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import redis.exceptions

from core.errors import StartError, Unavailable
from core.model import PlaceOrder, Side
from core.settings import Settings
from engine import cluster, connection, keys, library, nodes
from engine.book_reader import BookReader, LogPosition
from engine.cluster import ClusterClient
from engine.match_notifications import MatchNotifier
from engine.matcher import Matcher
from engine.nodes import Nodes
from engine.order_log import OrderLog
from engine.server_state import read_server_state
from testing import cluster_subscribers
from testing.cluster_servers import RedisCluster, redis_cluster, slot_of
from testing.flows import CARDS
from testing.replication import PASSWORD, plain_url
from testing.servers import loaded_redis
from testing.waiting import until_async

pytestmark = pytest.mark.server

CARD = CARDS[0]
ORDER = PlaceOrder(trader_id=1, card=CARD, side=Side.BUY, price_cents=500)
SOON = 5.0


@pytest.fixture(scope="module")
def servers() -> Iterator[RedisCluster]:
    """Three primaries."""
    with redis_cluster() as running:
        yield running


@pytest.fixture(autouse=True)
def _empty(servers: RedisCluster) -> None:
    for server in servers.servers:
        server.call("FLUSHALL")


@asynccontextmanager
async def connected(servers: RedisCluster) -> AsyncIterator[tuple[Nodes, ClusterClient]]:
    """The cards, and the client of all servers, with the library."""
    async with nodes.connect(Settings(redis_url=servers.url)) as found:
        await found.load_library()
        client = found.commands
        assert isinstance(client, ClusterClient)
        yield found, client


def log_of(found: Nodes, card: str = CARD) -> OrderLog:
    return OrderLog(found.of(card).commands, backlog_max=1_000, pending_max=1_000)


async def move(servers: RedisCluster, card: str = CARD) -> None:
    slot = slot_of(card)
    target = servers.other_than(servers.primary_of(slot))
    await asyncio.to_thread(servers.move_slot, slot, target)


async def matched(found: Nodes, card: str = CARD) -> None:
    matcher = Matcher(found.of(card), batch=100)
    assert await matcher.match([card]) == []
    for error in matcher.last_error_by_card.values():
        raise error


# -- where commands go


def test_each_command_goes_to_the_server_that_has_its_card(servers: RedisCluster) -> None:
    async def scenario() -> None:
        async with connected(servers) as (_, client):
            pipeline: Any = client.pipeline(transaction=False)
            for number, card in enumerate(CARDS):
                await client.set(keys.key(card, "sequence"), number)
                pipeline.get(keys.key(card, "sequence"))
            pipeline.get(keys.key(CARDS[0], "sequence"))
            assert await pipeline.execute() == [b"0", b"1", b"2", b"3", b"0"]
            async with client.pipeline(transaction=True) as transaction:
                transaction.get(keys.key(CARDS[3], "sequence"))
                transaction.time()
                assert (await transaction.execute())[0] == b"3"
            found = [name async for name in client.scan_iter(match=f"{keys.tag(CARDS[2])}:*")]
            assert found == [keys.key(CARDS[2], "sequence").encode()]

    asyncio.run(scenario())
    counts = [server.call("DBSIZE") for server in servers.servers]
    assert sum(counts) == len(CARDS)
    assert max(counts) < len(CARDS)


def test_a_command_without_a_key_is_no_command_for_a_whole_cluster(servers: RedisCluster) -> None:
    async def scenario() -> None:
        async with connected(servers) as (found, client):
            with pytest.raises(TypeError, match="INFO has no key"):
                await client.info()
            view: Any = found.of(CARD).commands
            assert (await view.info("server"))["tcp_port"] == servers.primary_of(slot_of(CARD)).port

    asyncio.run(scenario())


def test_a_server_without_the_library_gets_it_with_the_next_call(servers: RedisCluster) -> None:
    async def scenario() -> None:
        async with connected(servers) as (found, client):
            servers.primary_of(slot_of(CARD)).call("FUNCTION", "FLUSH")
            assert not await library.is_loaded(client)
            assert (await log_of(found).append(ORDER)).sequence == 1

    asyncio.run(scenario())


# -- slots that are moved


def test_a_moved_slot_is_followed(servers: RedisCluster) -> None:
    async def scenario() -> None:
        async with connected(servers) as (found, client):
            log, books = log_of(found), BookReader(client)
            for number in (1, 2):
                assert (await log.append(ORDER)).sequence == number
                await matched(found)
                before = await books.state_hash(CARD)
                await move(servers)
                assert await books.state_hash(CARD) == before
            assert (await log.append(ORDER)).sequence == 3

    asyncio.run(scenario())


def test_no_function_runs_on_a_part_of_the_keys_of_a_card(
    servers: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "MOVING_SECONDS", 0.1)
    slot = slot_of(CARD)
    source = servers.primary_of(slot)
    target = servers.other_than(source)

    async def scenario() -> None:
        async with connected(servers) as (found, client):
            log, books = log_of(found), BookReader(client)
            await log.append(ORDER)
            await matched(found)
            before = await books.state_hash(CARD)
            await log.append(ORDER)
            calls: list[Callable[[], Any]] = [
                lambda: log.append(ORDER),
                lambda: matched(found),
                lambda: books.state_hash(CARD),
            ]
            await asyncio.to_thread(servers.begin_move, slot, target)
            has_more = True
            while has_more:
                for call in calls:
                    with pytest.raises(Unavailable, match="moved to another server of the cluster"):
                        await call()
                has_more = await asyncio.to_thread(servers.move_some_keys, slot, source, target)
            await asyncio.to_thread(servers.end_move, slot, source, target)
            assert await books.state_hash(CARD) == before
            await matched(found)
            assert await books.position(CARD) == LogPosition(2, 2)
            assert (await log.append(ORDER)).sequence == 3

    asyncio.run(scenario())


def test_an_order_waits_for_a_short_move_and_is_then_accepted(servers: RedisCluster) -> None:
    slot = slot_of(CARD)
    source = servers.primary_of(slot)
    target = servers.other_than(source)

    async def scenario() -> None:
        async with connected(servers) as (found, _):
            log = log_of(found)
            await log.append(ORDER)
            await asyncio.to_thread(servers.begin_move, slot, target)
            appending = asyncio.create_task(log.append(ORDER))
            while await asyncio.to_thread(servers.move_some_keys, slot, source, target):
                assert not appending.done()
            await asyncio.to_thread(servers.end_move, slot, source, target)
            assert (await asyncio.wait_for(appending, SOON)).sequence == 2

    asyncio.run(scenario())


def test_of_a_pipeline_only_what_was_refused_is_sent_again(servers: RedisCluster) -> None:
    async def scenario() -> None:
        async with connected(servers) as (_, client):
            await client.get(keys.key(CARD, "sequence"))  # it knows the slots
            await move(servers)
            pipeline: Any = client.pipeline(transaction=False)
            for card in CARDS:
                pipeline.rpush(keys.key(card, "trades"), "one")
                pipeline.rpush(keys.key(card, "trades"), "two")
            assert await pipeline.execute() == [1, 2] * len(CARDS)

    asyncio.run(scenario())


def test_a_blocked_read_and_a_subscription_outlast_a_move(servers: RedisCluster) -> None:
    async def scenario() -> None:
        async with connected(servers) as (found, _):
            log, stopping = log_of(found), asyncio.Event()
            notifier = MatchNotifier(found)
            listening = asyncio.create_task(notifier.run(stopping))
            matching = asyncio.create_task(Matcher(found.of(CARD), batch=100).run(stopping))
            try:
                for number in (1, 2, 3):
                    await log.append(ORDER)
                    assert await notifier.wait(CARD, number, SOON)
                    await move(servers)
            finally:
                stopping.set()
                matching.cancel()
                listening.cancel()
                await asyncio.gather(listening, matching, return_exceptions=True)

    asyncio.run(scenario())


def test_a_server_that_is_added_takes_cards(servers: RedisCluster) -> None:
    async def scenario() -> None:
        async with connected(servers) as (found, client):
            log = log_of(found)
            await log.append(ORDER)
            added = await asyncio.to_thread(servers.add)
            await asyncio.to_thread(servers.move_slot, slot_of(CARD), added)
            assert (await log.append(ORDER)).sequence == 2
            await until_async(lambda: _has_functions(client), "the library is not loaded everywhere")
            assert added.port in {place.port for place in await client.servers()}

    asyncio.run(scenario())


async def _has_functions(client: ClusterClient) -> bool:
    return await library.is_loaded(client)


# -- notifications


def test_servers_outlast_subscribers_that_come_and_go_while_functions_publish(servers: RedisCluster) -> None:
    found = asyncio.run(cluster_subscribers.run(servers, orders=2_400, subscribers=6))

    assert found.calls >= 1_200
    assert found.subscriptions > 6
    assert found.messages


# -- checks


def test_a_server_that_may_lose_orders_is_named_at_the_start(servers: RedisCluster) -> None:
    wrong = servers.primaries()[1]

    async def scenario() -> None:
        async with connection.connect(servers.url) as client:
            await connection.check(client, durability="always")
            wrong.call("CONFIG", "SET", "appendfsync", "everysec")
            with pytest.raises(StartError, match=rf"appendfsync everysec.*:{wrong.port} of the cluster"):
                await connection.check(client, durability="always")
            assert "appendfsync everysec" in (await read_server_state(client, CARDS, durability="always")).warning

    try:
        asyncio.run(scenario())
    finally:
        wrong.call("CONFIG", "SET", "appendfsync", "always")


def test_an_address_of_another_kind_is_told_apart(servers: RedisCluster) -> None:
    async def refusal(url: str) -> str:
        async with connection.connect(url) as client:
            with pytest.raises(StartError) as refused:
                await connection.check(client, durability="always")
            return str(refused.value)

    assert "a cluster is named as redis+cluster://" in asyncio.run(refusal(plain_url(servers.servers[0])))
    closed = "redis+cluster://127.0.0.1:1,127.0.0.1:2"
    assert "Redis does not answer at TCGX_REDIS_URL: no server of the cluster answers" in asyncio.run(refusal(closed))
    assert "refuses the password" in asyncio.run(refusal(servers.url.replace(PASSWORD, "wrong")))
    with loaded_redis() as single:
        port = single.client().config_get("port")["port"]
        password = single.url.partition("://")[2].partition("@")[0]
        alone = f"redis+cluster://{password}@127.0.0.1:{port}"
        assert "its server stands alone" in asyncio.run(refusal(alone))


def test_the_state_of_a_cluster_has_all_cards_and_what_does_not_work(servers: RedisCluster) -> None:
    async def scenario() -> None:
        async with connected(servers) as (found, client):
            for card in CARDS:
                await log_of(found, card).append(msgspec.structs.replace(ORDER, card=card))
            state = await read_server_state(client, CARDS, durability="always")
            assert {card: place.appended for card, place in state.positions.items()} == dict.fromkeys(CARDS, 1)
            assert (state.fault, state.warning, state.role, state.aof) == ("", "", "primary", "always")
            assert state.has_functions

    asyncio.run(scenario())


def test_the_servers_of_a_cluster_that_is_gone_are_said() -> None:
    async def scenario() -> None:
        async with connection.connect("redis+cluster://127.0.0.1:1") as client:
            with pytest.raises(redis.exceptions.ConnectionError, match="no server of the cluster answers"):
                await client.get(keys.key(CARD, "sequence"))

    asyncio.run(scenario())
