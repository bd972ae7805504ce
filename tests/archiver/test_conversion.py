"""Data of earlier versions: tests/archiver/format_1.json is what one of them had written, and what it listed.

Of trader 17, 5 orders rest that are older than 240 which are completed: they stood in a list of their own. What the
trader did then is partly in its list, in the bucket of its number, and in events that were not filed; an order of its
own and two of trader 3 are not matched.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from archiver import conversion
from core.model import COMMANDS_MAX
from engine import connection, history, keys
from testing.exchange import ExchangeServer, exchange_server
from testing.market import HISTORY_ID, Market, many
from testing.servers import LoadedRedis

pytestmark = pytest.mark.server

BEFORE: dict[str, Any] = json.loads((Path(__file__).parent / "format_1.json").read_text())
LISTED = {int(trader): (latest, still_open) for trader, (latest, still_open) in BEFORE["traders"].items()}
WAITING = {3: [257, 256], 17: [254]}
"""Orders that are not matched, newest first."""


def load(client: Any, *, history_format: int | None) -> Market:
    """Makes the keys."""
    for key, (kind, value) in BEFORE["keys"].items():
        if kind == "string":
            client.set(key, value)
        elif kind == "list":
            client.rpush(key, *value)
        elif kind == "hash":
            client.hset(key, mapping=value)
        elif kind == "zset":
            client.zadd(key, value)
        else:
            for entry_id, fields in value:
                client.xadd(key, fields, id=entry_id)
    if history_format is not None:
        named = {"id": HISTORY_ID, "format": history_format, "base": 0, "began_at": "2026-11-26T00:00:00.000Z"}
        client.hset(keys.key("pikachu", "history"), mapping=named)
    return Market(client)


def convert(server: LoadedRedis) -> None:
    async def run() -> None:
        async with connection.connect(server.url) as redis:
            await conversion.convert(redis, "pikachu")

    asyncio.run(run())


def check(market: Market) -> None:
    """That latest and open orders are those of before, and the unmatched ones are known, too."""
    for trader, (latest, still_open) in LISTED.items():
        reply = market.redis.fcall_ro("trader_orders", 1, market.tag, trader, 50, "all")
        sequences = [int(line.partition(b",")[0]) for line in reply]
        assert sequences == [*WAITING.get(trader, []), *latest][:50]
        assert [order.sequence for order in market.orders_of(trader, only="open")] == still_open
        assert market.listed(trader) == sorted({*sequences, *still_open})
    assert {key.decode() for key in market.redis.keys(market.key("older:*")) + market.redis.keys("*recent")} == set()


@pytest.mark.parametrize("history_format", [None, 1])
def test_lists_of_before_become_lists_of_sequences(
    redis_server: LoadedRedis, redis_client: Redis, history_format: int | None
) -> None:
    market = load(redis_client, history_format=history_format)

    convert(redis_server)

    check(market)
    assert market.redis.hget(market.key("history"), "format") == (
        None if history_format is None else b"%d" % history.FORMAT
    )
    assert market.cancel_all(trader=17) == [1, 2, 3, 4, 5, 247, 254]
    market.match()
    assert market.orders_of(17, only="open") == []


def test_long_runs_of_format_2_become_items_of_bounded_length(redis_server: LoadedRedis, redis_client: Redis) -> None:
    market = Market(redis_client)
    for _ in range(3):
        market.append(many(5, count=COMMANDS_MAX, trader=5))
    market.match()
    name, last = market.key("trader:5"), 3 * COMMANDS_MAX
    redis_client.delete(name)
    redis_client.rpush(name, f"1-{last}")
    redis_client.hset(market.key("compacted"), "5", f"1 {last}")
    redis_client.hset(market.key("history"), "format", 2)

    convert(redis_server)

    assert market.items(5) == [f"{first + 1}-{first + COMMANDS_MAX}" for first in range(0, last, COMMANDS_MAX)]
    assert not redis_client.exists(market.key("compacted"))
    assert redis_client.hget(market.key("history"), "format") == b"%d" % history.FORMAT
    assert market.cancel_all(trader=5) == list(range(1, last + 1))


@pytest.mark.parametrize("lists", [0, 1, 2, 3])
def test_a_conversion_that_was_killed_is_begun_again(
    redis_server: LoadedRedis, redis_client: Redis, monkeypatch: pytest.MonkeyPatch, lists: int
) -> None:
    market = load(redis_client, history_format=1)
    write = conversion._write

    async def dies(client: Any, card: str, found: Any) -> None:
        await write(client, card, dict(list(found.items())[:lists]))
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        convert(redis_server)
    monkeypatch.undo()

    for _ in range(2):
        convert(redis_server)
        check(market)


def test_data_of_before_is_refused_until_it_is_converted(redis_server: LoadedRedis, redis_client: Redis) -> None:
    load(redis_client, history_format=1)

    async def fault() -> str | None:
        async with connection.connect(redis_server.url) as redis:
            found = await history.read_log_state(redis, "pikachu")
            return history.fault_of_format("pikachu", found)

    assert "`tcgx migrate` converts it" in str(asyncio.run(fault()))
    convert(redis_server)
    assert asyncio.run(fault()) is None


@pytest.mark.parametrize("history_format", [None, 1])
def test_tcgx_migrate_converts_what_traders_then_read_and_cancel(history_format: int | None) -> None:
    with exchange_server() as server:
        server.stop_service("api", "archiver", "engine")
        server.redis.flushall()
        server.execute("TRUNCATE histories, archive_cursor")
        load(server.redis, history_format=history_format)

        migrated = server.tcgx("migrate")

        assert migrated.returncode == 0, migrated.stderr
        server.start_service("engine", "archiver", "api")
        server.archived()
        read_and_canceled(server)


def read_and_canceled(server: ExchangeServer) -> None:
    with server.client(17) as client:
        listed = client.get("/orders").json()["orders"]
        still_open = client.get("/orders?status=open").json()["orders"]
        canceled = client.delete("/orders", headers={"prefer": "wait=5"})

        sequences = [254, *LISTED[17][0]][:50]
        assert [order["order_id"] for order in listed] == [f"pikachu-{sequence}" for sequence in sequences]
        assert {order["status"] for order in listed} == {"open", "filled", "expired"}
        assert [order["order_id"] for order in still_open] == [f"pikachu-{one}" for one in (254, *LISTED[17][1])]
        assert canceled.status_code == 200
        assert [order["order_id"] for order in canceled.json()["orders"]] == [one["order_id"] for one in still_open]
