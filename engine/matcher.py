"""The engine process: decides when the match function is called; everything else happens inside Redis.

Any number of engines may run: a call that finds nothing to do changes nothing, and one that is lost with its
connection is simply made again, because the cursor moves in the same step as the books (lua/match.lua).
"""

import asyncio

import structlog
from redis.asyncio import Redis

from engine import connection, keys, library
from engine.connection import BLOCK_MS, ENGINE_NAME, understood
from engine.errors import LogGap, TcgxError
from engine.life import Retry, unless_stopped
from engine.settings import Settings

log = structlog.get_logger()


class Matcher:
    """Keeps one card matched up to the end of its log."""

    def __init__(self, redis: Redis, blocking: Redis, card: str, *, batch: int, hold_ms: int | None = None) -> None:
        self._redis = redis
        self._blocking = blocking
        self._card = card
        self._limits = (batch,) if hold_ms is None else (batch, hold_ms)

    async def match(self) -> tuple[bool, str]:
        """One call. Whether more commands wait, and the log id reached.

        Raises:
            LogGap: acknowledged commands are missing from the log.
            Unavailable: no answer; calling again is safe.
        """
        with understood():
            reply = await self._redis.fcall("match", 1, keys.tag(self._card), *self._limits)
        _, _, log_id, _, rejected, more = reply
        if rejected:
            log.warning("rejected malformed log entries", card=self._card, count=rejected)
        return bool(more), log_id.decode()

    async def arrival(self, log_id: str) -> None:
        """Returns when the log has an entry after this one, or after `BLOCK_MS`."""
        with understood():
            await self._blocking.xread({keys.key(self._card, "orders"): log_id}, count=1, block=BLOCK_MS)

    async def run(self, stopping: asyncio.Event) -> None:
        """Matches until told to stop; a call that is under way is finished."""
        retry = Retry(stopping)
        while not stopping.is_set():
            try:
                more, log_id = await self.match()
                retry.succeeded()
                if not more:
                    await unless_stopped(self.arrival(log_id), stopping)
            except LogGap as error:
                log.error("matching stands still", card=self._card, reason=str(error))
                await retry.pause()
            except TcgxError as error:
                log.warning("matching will be tried again", card=self._card, reason=str(error))
                if "Function not found" in str(error):
                    await _reload(self._redis)
                await retry.pause()


async def _reload(redis: Redis) -> None:
    """Loads the library again, for the case that the server was replaced by an empty one."""
    try:
        with understood():
            await library.load(redis)
    except TcgxError as error:
        log.warning("the Lua library could not be loaded", reason=str(error))


async def work(settings: Settings, stopping: asyncio.Event) -> None:
    """The engine service: one matcher a card.

    Raises:
        StartError: Redis cannot be trusted with orders, or does not answer.
    """
    async with (
        connection.connect(settings.redis_url, ENGINE_NAME) as redis,
        connection.connect_blocking(settings.redis_url, ENGINE_NAME) as blocking,
    ):
        await connection.check(redis, durability=settings.durability)
        await library.load(redis)
        log.info("matching", cards=settings.cards, batch=settings.match_batch)
        async with asyncio.TaskGroup() as tasks:
            for card in settings.cards:
                matcher = Matcher(redis, blocking, card, batch=settings.match_batch, hold_ms=settings.match_hold_ms)
                tasks.create_task(matcher.run(stopping), name=f"match {card}")
        log.info("stopped")
