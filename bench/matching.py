"""Commands into the log, and from the log into the books, the way the services do it."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice

from redis.asyncio import Redis

from bench.options import Options
from bench.progress import Task
from bench.servers import empty_redis, long_client
from core.errors import TcgxError
from core.model import Command
from core.service import cancel_and_wait
from core.settings import Settings
from engine import library
from engine.book_reader import BookReader
from engine.matcher import Matcher
from engine.nodes import Node
from engine.order_log import OrderLog
from testing.flows import CARDS

APPENDED_AT_ONCE = 20_000
BACKLOG_MAX = 1_000_000_000
SHOWN_SECONDS = 0.5
HOLD_MS = Settings().match_hold_ms


@asynccontextmanager
async def empty_exchange(options: Options, cards: Sequence[str] = CARDS) -> AsyncIterator[tuple[Settings, Redis]]:
    """An empty Redis with the library loaded: its settings, and a client for calls that may take long."""
    async with empty_redis(options, cards) as local, long_client(local.redis_url) as client:
        await library.load(client)
        yield local, client


@asynccontextmanager
async def order_log(client: Redis) -> AsyncIterator[OrderLog]:
    """The log, without a bound on what waits to be matched; what was handed over is appended at the end."""
    log = OrderLog(client, backlog_max=BACKLOG_MAX, pending_max=2 * APPENDED_AT_ONCE)
    try:
        yield log
    finally:
        await log.close()


async def append(client: Redis, commands: Sequence[Command], task: Task) -> None:
    """Appends them all, in order.

    Raises:
        TcgxError: one was refused.
    """
    rest = iter(commands)
    async with order_log(client) as log:
        while chunk := list(islice(rest, APPENDED_AT_ONCE)):
            for outcome in await log.append_all(chunk):
                if isinstance(outcome, TcgxError):
                    raise outcome
            task.advance(len(chunk))


async def match_all(client: Redis, cards: Sequence[str], *, batch: int, task: Task | None = None) -> None:
    """Matches until nothing waits: one call of each card under way at a time, as the engine makes them.
    `task`: shows how many are matched.

    Raises:
        TcgxError: a card cannot be matched.
    """
    showing = asyncio.create_task(_show(client, cards, task)) if task else None
    try:
        await Matching(client, cards, batch=batch).advance()
    finally:
        if showing:
            await cancel_and_wait(showing)
    if task:
        task.reach(await matched(client, cards))


async def _show(client: Redis, cards: Sequence[str], task: Task) -> None:
    while True:
        task.reach(await matched(client, cards))
        await asyncio.sleep(SHOWN_SECONDS)


class Matching:
    """The same, for a while at a time."""

    def __init__(self, client: Redis, cards: Sequence[str], *, batch: int) -> None:
        self._matcher = Matcher(Node(client, client, cards), batch=batch, hold_ms=HOLD_MS)
        self._due = list(cards)

    async def advance(self, seconds: float = math.inf) -> bool:
        """Begins no call after so many seconds; whether more may wait.

        Raises:
            TcgxError: a card cannot be matched.
        """
        ends = time.perf_counter() + seconds
        while self._due and time.perf_counter() < ends:
            self._due = await self._matcher.match(self._due)
            for error in self._matcher.last_error_by_card.values():
                raise error
        return bool(self._due)


async def matched(client: Redis, cards: Sequence[str]) -> int:
    """How many commands are matched, over all cards."""
    books = BookReader(client)
    return sum([(await books.position(card)).matched for card in cards])
