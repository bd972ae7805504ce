"""Connections after a change of the primary: by sentinels, and behind an address that moves."""

import asyncio
import gc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import redis.exceptions
from structlog.testing import capture_logs

from core import urls
from core.errors import StartError, Unavailable
from core.model import PlaceOrder, Side
from core.settings import Settings
from engine import connection, library, loading, nodes, primary
from engine.connection import PipelinedConnection, pack_command, redis_errors
from engine.order_log import OrderLog
from testing import certificates
from testing.processes import module
from testing.replication import (
    DOWN_AFTER_MS,
    NAME,
    PASSWORD,
    SENTINEL_PASSWORD,
    MovingAddress,
    RedisGroup,
    plain_url,
    redis_group,
)
from testing.servers import free_port
from testing.waiting import until_async

pytestmark = pytest.mark.server

DEBIANS_REDIS = "/usr/bin/redis-server"
SECONDS = 10.0
ASKED = 400
ORDER = PlaceOrder(trader_id=1, card="pikachu", side=Side.BUY, price_cents=500)


@pytest.fixture(scope="module")
def group() -> Iterator[RedisGroup]:
    """A primary, a replica and sentinels. Tests move the role and leave it where it is."""
    with redis_group() as running:
        yield running


@pytest.fixture(scope="module")
def servers() -> Iterator[RedisGroup]:
    """A primary and a replica without sentinels."""
    with redis_group(sentinels=False) as running:
        yield running


async def _entries(node: nodes.Node) -> Any:
    blocking: Any = node.blocking
    return await blocking.xread({"stream": "$"}, block=0)


async def _messages(channel: Any) -> None:
    while True:
        await channel.get_message(timeout=SECONDS)


async def swap(group: RedisGroup, address: MovingAddress) -> None:
    """The replica becomes the primary, the old one follows it, and the address moves. No connection is closed."""
    old, new = group.primary, group.replicas[0]
    with new.client() as client:
        client.replicaof("NO", "ONE")
    with old.client() as client:
        client.replicaof("127.0.0.1", str(new.port))
    address.target = new.port
    await asyncio.to_thread(group.in_step)


# -- an address that moves


def test_every_kind_of_connection_leaves_a_demoted_server(servers: RedisGroup) -> None:
    async def scenario() -> None:
        address = MovingAddress(servers.primary.port)
        async with address.url() as url, connection.connect(url) as plain, connection.connect(url) as other:
            await library.load(plain)
            pipelined = PipelinedConnection(other)
            log = OrderLog(plain, backlog_max=1_000, pending_max=1_000)
            await log.append(ORDER)
            await pipelined.call([pack_command("SET", "x", 1)])
            await swap(servers, address)

            with pytest.raises(Unavailable, match="it is a replica"):
                await log.append(ORDER)
            assert isinstance((await pipelined.call([pack_command("SET", "x", 2)]))[0], redis.exceptions.ReadOnlyError)

            assert (await pipelined.call([pack_command("SET", "x", 2)]))[0] == b"OK"
            assert (await log.append(ORDER)).sequence == 2
            await swap(servers, address)
            async with plain.pipeline() as watching:
                await watching.watch("x")
                begin: Any = watching.multi
                begin()
                watching.set("x", 3)
                with pytest.raises(redis.exceptions.RedisError, match="replica"):
                    await watching.execute()
            assert await plain.set("x", 4)

    asyncio.run(scenario())


def test_a_service_leaves_a_demoted_server_though_it_only_reads_and_listens(servers: RedisGroup) -> None:
    async def scenario() -> None:
        address = MovingAddress(servers.primary.port)
        async with address.url() as url, nodes.connect(Settings(redis_url=url)) as found:
            (node,) = found
            async with node.commands.pubsub() as channel:
                await channel.subscribe("channel")
                await channel.get_message(timeout=SECONDS)
                reads = asyncio.create_task(_entries(node))
                await until_async(lambda: node.blocking.connection_pool._in_use_connections)
                with capture_logs() as lines:
                    await swap(servers, address)
                    with pytest.raises(redis.exceptions.RedisError):
                        await asyncio.wait_for(reads, SECONDS)
                    with pytest.raises(redis.exceptions.RedisError):
                        await asyncio.wait_for(_messages(channel), SECONDS)
            commands: Any = node.commands
            role = await commands.execute_command("ROLE")
            assert role[0] == b"master"
        assert any("no primary any more" in line["event"] for line in lines)

    asyncio.run(scenario())


def test_an_address_that_still_leads_to_a_replica_is_refused_at_once(servers: RedisGroup) -> None:
    async def scenario() -> None:
        replica = servers.replicas[0]
        async with connection.connect(plain_url(replica)) as client:
            with pytest.raises(Unavailable, match=r"it is a replica of 127\.0\.0\.1"), redis_errors():
                await client.get("x")

    asyncio.run(scenario())


# -- sentinels


def test_a_primary_that_stands_still_is_left_though_it_closes_no_connection(group: RedisGroup) -> None:
    async def scenario() -> None:
        async with nodes.connect(Settings(redis_url=group.url)) as found:
            (node,) = found
            reads = asyncio.create_task(_entries(node))
            await until_async(lambda: node.blocking.connection_pool._in_use_connections)
            old = group.primary
            began = asyncio.get_running_loop().time()
            old.pause()
            try:
                with pytest.raises(redis.exceptions.RedisError):
                    await asyncio.wait_for(reads, SECONDS)
                assert asyncio.get_running_loop().time() - began < connection.BLOCK_MS / 1_000 + 1
                assert await node.commands.set("x", 3)
            finally:
                old.go_on()

    asyncio.run(scenario())


@pytest.mark.parametrize("order", [1, -1])
def test_an_older_answer_of_a_sentinel_that_was_cut_off_does_not_count(order: int) -> None:
    up = {"is_odown": False, "is_sdown": False}
    answers = [{"ip": "old", "port": 1, "config-epoch": 3} | up, {"ip": "new", "port": 2, "config-epoch": 4} | up]
    sentinels = primary.Sentinels(urls.sentinel_address("redis+sentinel://a:1,b:1/cards"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentinels, "_ask", lambda: asyncio.sleep(0, (answers[::order], [])))
        assert asyncio.run(sentinels.primary()) == ("new", 2)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+sentinel://127.0.0.1:{closed},127.0.0.1:{closed}/cards", "no sentinel of TCGX_REDIS_URL answers"),
        ("{group}other/0?sentinel_password={password}", "do not know a primary named 'cardsother'"),
        ("{group}/0?sentinel_password=wrong", "no sentinel of TCGX_REDIS_URL answers.*(WRONGPASS|invalid)"),
        ("redis://:{password}@127.0.0.1:{sentinel}/0", r"names a Sentinel: sentinels are named as redis\+sentinel://"),
    ],
)
def test_what_is_wrong_with_the_sentinels_is_said(group: RedisGroup, url: str, said: str) -> None:
    places = {
        "closed": str(free_port()),
        "group": group.url.partition("/0?")[0],
        "password": SENTINEL_PASSWORD,
        "sentinel": str(group.sentinels[0].port),
    }

    async def scenario() -> None:
        async with connection.connect(url.format(**places)) as client:
            await loading.wait_until_loaded(client, asyncio.Event())  # nothing to wait for
            with pytest.raises(StartError, match=f"(?i){said}"):
                await connection.check(client, durability="always")

    asyncio.run(scenario())


def test_a_primary_that_is_down_is_said_at_once(group: RedisGroup) -> None:
    down: Any = {"ip": "10.0.0.1", "port": 7, "config-epoch": 1, "is_odown": True, "is_sdown": True}

    async def scenario() -> None:
        sentinels = primary.Sentinels(urls.sentinel_address(group.url))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sentinels, "_ask_one", lambda _: asyncio.sleep(0, down))
            with pytest.raises(primary.NoPrimary, match=r"no primary at present: 10\.0\.0\.1:7 is down"):
                await sentinels.primary()

    asyncio.run(scenario())


def test_a_command_follows_the_sentinels(group: RedisGroup) -> None:
    local = Settings(redis_url=group.url, jwt_secret=32 * "x")

    result = module("tcgx", "book", "pikachu", local=local)

    assert result.returncode == 0, result.stderr
    assert "pikachu" in result.stdout


def test_a_start_waits_while_sentinels_elect(group: RedisGroup) -> None:
    async def scenario() -> list[str]:
        async with connection.connect(group.url) as client:
            with capture_logs() as told:
                await loading.wait_until_loaded(client, asyncio.Event())
                await connection.check(client, durability="always")
        return [line["reason"] for line in told if line["event"] == "Redis has no primary yet"]

    killed = group.primary
    killed.kill()
    reasons = asyncio.run(scenario())
    group.rejoin(killed)

    assert reasons
    assert all(reasons)


def test_asking_sentinels_leaves_no_connection_open(group: RedisGroup) -> None:
    """Those that answer after the majority are canceled, at any moment of their work."""

    async def ask() -> None:
        sentinels = primary.Sentinels(urls.sentinel_address(group.url))
        for turns in range(ASKED):
            asking = asyncio.ensure_future(sentinels.primary())
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        asyncio.run(ask())
        gc.collect()

    assert [str(one.message) for one in told] == []


def test_a_start_does_not_wait_for_ever_for_a_primary(group: RedisGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with connection.connect(group.url) as client:
            await loading.wait_until_loaded(client, asyncio.Event())

    monkeypatch.setattr(loading, "ELECTION_SECONDS", 0.3)
    for sentinel in group.sentinels:  # so that nobody elects
        with sentinel.client() as admin:
            admin.execute_command("SENTINEL", "SET", NAME, "down-after-milliseconds", "60000")
    killed = group.primary
    killed.kill()
    try:
        with pytest.raises(StartError, match="Redis has had no primary for 0 s: "):
            asyncio.run(scenario())
    finally:
        killed.start()
        for sentinel in group.sentinels:
            with sentinel.client() as admin:
                admin.execute_command("SENTINEL", "SET", NAME, "down-after-milliseconds", str(DOWN_AFTER_MS))


@pytest.mark.skipif(not Path(DEBIANS_REDIS).exists(), reason="the packaged server has no TLS")
def test_sentinels_with_tls_and_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCGX_REDIS_BIN", DEBIANS_REDIS)
    own = certificates.make(tmp_path, "own")

    async def answer(url: str) -> str:
        client: Any
        async with connection.connect(url) as client:
            with redis_errors():
                return str(await client.set("x", 1))

    with redis_group(tls=own) as group:
        assert asyncio.run(answer(group.url)) == "True"


def test_no_output_has_a_password_of_servers_or_sentinels(group: RedisGroup) -> None:
    unknown, misspelt = group.url.replace(f"/{NAME}/", "/other/"), f"{group.url}&nope=1"
    shown = {}
    for url, command in (
        *((group.url, command) for command in ("settings", "doctor")),
        *((unknown, command) for command in ("engine", "doctor")),
        (misspelt, "engine"),
    ):
        local = Settings(
            redis_url=url, jwt_secret=32 * "x", log_level="debug", database_url="postgresql://127.0.0.1:1/x"
        )
        ended = module("tcgx", command, local=local)
        shown[url, command] = unquote(ended.stdout + ended.stderr)

    assert "sentinel_password=***" in shown[group.url, "settings"]
    assert "do not know a primary named 'other'" in shown[unknown, "engine"]
    for (_, command), text in shown.items():
        assert PASSWORD not in text, command
        assert SENTINEL_PASSWORD not in text, command
