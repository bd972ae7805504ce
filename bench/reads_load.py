"""Orders into the log of a running exchange, as fast as it matches them, until standard input ends.

A process of its own, since the process that measures reads must not wait for it: `python -m bench.reads_load URL SEED`.
"""

import asyncio
import sys
from functools import partial
from itertools import islice

from redis.asyncio import Redis

from bench.matching import matched, order_log
from core.errors import Overloaded
from engine import connection
from testing.flows import CARDS, uniform
from testing.waiting import until_async

CHUNK = 2_000
WAITING_MAX = 20_000
"""Commands that wait to be matched, at most."""

ENDLESS = 10**9


async def main(url: str, seed: int) -> None:
    """Appends until standard input ends."""
    commands = uniform(seed, ENDLESS)
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    async with connection.connect(url) as client, order_log(client) as log:
        before, appended = await matched(client, CARDS), 0
        while not ended.done():
            outcomes = await log.append_all(list(islice(commands, CHUNK)))
            appended += sum(not isinstance(outcome, Overloaded) for outcome in outcomes)
            last = before + appended - WAITING_MAX
            await until_async(partial(_has_matched, client, last, ended), "orders are not matched", seconds=60)


async def _has_matched(client: Redis, last: int, ended: "asyncio.Task[str]") -> bool:
    return ended.done() or await matched(client, CARDS) >= last


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
