"""A watch over the memory of a Redis server.

Orders are refused before the memory is full, so that matching, cancels and trimming have the rest.
"""

import asyncio
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis

from core.errors import TcgxError
from core.log_limit import RateLimitedLog
from engine.connection import redis_errors

log = structlog.get_logger()
rate_limited_log = RateLimitedLog(log)

LOOK_SECONDS = 0.2
"""The interval of looks. Between two of them orders may take further memory."""

PERCENT_OFF = 100
"""With this share of the memory, orders are taken until Redis itself refuses them."""


class MemoryState(msgspec.Struct, frozen=True):
    """Memory in bytes. `maxmemory` is 0 if the server has no bound; `bound` is where orders end, 0 if they never do."""

    used: int = 0
    maxmemory: int = 0
    bound: int = 0

    @property
    def is_full(self) -> bool:
        """Whether orders are refused."""
        return 0 < self.bound <= self.used

    @property
    def sentence(self) -> str:
        """Used and bound, without a colon (`Overloaded.detail`)."""
        return (
            f"the memory of Redis is nearly full, {self.used:,} of {self.maxmemory:,} bytes are used "
            f"and orders are taken below {self.bound:,}"
        )


class MemoryWatch:
    """Looks at the memory of one server at an interval. All order logs of a server share a watch.

    `state` is the last look. It is empty, so orders are taken, before the first look and after one that failed: the
    server itself then refuses what it has no memory for.
    """

    def __init__(self, redis: Redis, *, percent: int) -> None:
        """`percent`: the share of `maxmemory` from which on orders are refused."""
        self._redis: Any = redis
        self._percent = percent
        self.state = MemoryState()

    async def run(self) -> None:
        """Looks until it is canceled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Reads the memory of the server once."""
        was_full = self.state.is_full
        try:
            with redis_errors():
                self.state = self._state(await self._redis.info("memory"))
        except TcgxError as error:
            self.state = MemoryState()
            rate_limited_log.warning("the memory of Redis is not known", reason=str(error))
        if self.state.is_full != was_full:
            text = "orders are refused: memory is nearly full" if self.state.is_full else "orders are taken again"
            rate_limited_log.warning(text, used=self.state.used, bound=self.state.bound)

    def _state(self, info: dict[str, Any]) -> MemoryState:
        # Buffers of replicas and of the AOF do not count towards maxmemory.
        used = int(info.get("used_memory", 0)) - int(info.get("mem_not_counted_for_evict", 0))
        maxmemory = int(info.get("maxmemory", 0))
        bound = max(1, maxmemory * self._percent // 100) if maxmemory and self._percent < PERCENT_OFF else 0
        return MemoryState(used=used, maxmemory=maxmemory, bound=bound)
