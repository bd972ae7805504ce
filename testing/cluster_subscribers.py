"""Match calls that publish, in a cluster, while subscribers come and go at every server. No server may end.

`python -m testing.cluster_subscribers --orders 1000000` is the long form of a test. Functions that publish while
clients subscribe and leave have ended servers of a cluster before.
"""

import argparse
import asyncio
import random
from collections.abc import Sequence
from itertools import islice
from typing import Any

import msgspec
import redis.exceptions
from redis.asyncio import Redis

from core.service import cancel_and_wait
from engine import connection, keys, library
from engine.connection import PipelinedConnection, pack_command
from engine.order_log import OrderLog
from testing.cluster_servers import RedisCluster, redis_cluster, slot_of
from testing.flows import uniform
from testing.replication import plain_url

CARDS = [f"card_{number}" for number in range(6)]
BATCH = 200
COMMANDS_A_CALL = 2
WANTED_MAX = 3
STAY_SECONDS = 0.5
"""A subscriber leaves after some messages, at most `WANTED_MAX`, or after this time."""
NODE_TIMEOUT_MS = 30_000
"""Long, so that a busy machine leads to no failover."""


class Found(msgspec.Struct):
    """How many subscriptions there were, messages that they got, and calls that published."""

    subscriptions: int = 0
    messages: int = 0
    calls: int = 0


async def _trade(client: Redis, card: str, orders: int, found: Found) -> None:
    """Appends orders to a card, and matches few in each call, so that there are many messages."""
    log = OrderLog(client, backlog_max=1_000_000, pending_max=1_000_000)
    matching = PipelinedConnection(client)
    call = pack_command("FCALL", "match", 1, keys.tag(card), COMMANDS_A_CALL)
    flow = uniform(slot_of(card), orders, [card])
    while batch := list(islice(flow, BATCH)):
        await log.append_all(batch)
        replies = await matching.call([call] * (len(batch) // COMMANDS_A_CALL + 1))
        failed = [reply for reply in replies if isinstance(reply, Exception)]
        assert not failed, failed[0]
        assert not replies[-1][5], "commands wait"
        found.calls += len(replies) - 1


async def _come_and_go(urls: Sequence[str], channels: Sequence[str], number: int, found: Found) -> None:
    """Subscribes at one server after the other, and leaves with or without a word."""
    choose = random.Random(number)
    clock = asyncio.get_running_loop().time
    while True:
        client: Any = connection.connect(choose.choice(urls))
        try:
            subscription = client.pubsub()
            await subscription.subscribe(*choose.sample(channels, choose.randint(1, len(channels))))
            found.subscriptions += 1
            wanted, ends_at = choose.randint(0, WANTED_MAX), clock() + STAY_SECONDS
            while wanted and clock() < ends_at:
                if await subscription.get_message(ignore_subscribe_messages=True, timeout=STAY_SECONDS):
                    wanted -= 1
                    found.messages += 1
            if choose.random() < 1 / 2:
                await subscription.unsubscribe()
            await subscription.aclose()
        except (redis.exceptions.RedisError, OSError):
            await asyncio.sleep(0)  # a busy server; one that has ended is noticed at the end
        finally:
            await client.aclose(close_connection_pool=True)


async def run(cluster: RedisCluster, *, orders: int, subscribers: int) -> Found:
    """Places and matches this many orders, with so many subscribers at any time."""
    found, urls = Found(), {card: plain_url(cluster.primary_of(slot_of(card))) for card in CARDS}
    clients: dict[str, Any] = {url: connection.connect(url) for url in set(urls.values())}
    for client in clients.values():
        await library.load(client)
    channels = [keys.matched_channel(card) for card in urls]
    coming = [asyncio.create_task(_come_and_go(list(clients), channels, n, found)) for n in range(subscribers)]
    try:
        await asyncio.gather(*(_trade(clients[urls[card]], card, orders // len(urls), found) for card in urls))
    finally:
        await cancel_and_wait(*coming)
        for client in clients.values():
            await client.aclose(close_connection_pool=True)
    assert all(server.answers() for server in cluster.servers)
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=1_000_000, help="how many orders are placed and matched")
    parser.add_argument("--subscribers", type=int, default=20, help="how many there are at any time")
    arguments = parser.parse_args()
    with redis_cluster(lines=["appendfsync everysec", f"cluster-node-timeout {NODE_TIMEOUT_MS}"]) as cluster:
        print(asyncio.run(run(cluster, orders=arguments.orders, subscribers=arguments.subscribers)))


if __name__ == "__main__":
    main()
