"""The watch of an engine over the deadlines of traders. Any number of engines may watch (lua/cancel_due.lua)."""

import asyncio
from typing import Any

import structlog

from core.errors import TcgxError
from core.log_limit import RateLimitedLog
from core.service import Backoff, until_stopped
from engine import keys, library
from engine.connection import redis_errors
from engine.fair_queue import with_reserve
from engine.nodes import Node

log = structlog.get_logger()
rate_limited_log = RateLimitedLog(log)

LOOK_SECONDS = 0.5
"""The time between two looks. An order may rest for so much longer than its trader's deadline."""


class DeadlineWatch:
    """Cancels the orders of traders whose deadline is over, on the cards of one server."""

    def __init__(self, node: Node, *, backlog_max: int) -> None:
        self._redis = node.commands
        self._cards = node.cards
        self._waiting_max = with_reserve(backlog_max)

    async def run(self, stopping: asyncio.Event) -> None:
        """Looks twice a second until the stop."""
        backoff = Backoff(stopping)
        while not stopping.is_set():
            try:
                await self.look()
                backoff.succeeded()
            except TcgxError as error:
                rate_limited_log.warning("deadlines of traders will be looked at again", reason=str(error))
                await backoff.wait()
            await until_stopped(asyncio.sleep(LOOK_SECONDS), stopping)

    async def look(self) -> None:
        """Cancels what is due now.

        Raises:
            Overloaded, Unavailable: Redis does not answer, or refuses; the call can be repeated.
        """
        due = list(self._cards)
        while due:
            pipeline = self._redis.pipeline(transaction=False)
            for card in due:
                pipeline.fcall("cancel_due", 1, keys.tag(card), str(self._waiting_max))
            with redis_errors():
                replies = await pipeline.execute(raise_on_error=False)
                if any(library.is_missing(reply) for reply in replies):
                    await library.load_again(self._redis)
                    return
                for reply in replies:
                    if isinstance(reply, Exception):
                        raise reply
            due = [card for card, reply in zip(due, replies, strict=True) if self._handle(card, reply)]

    def _handle(self, card: str, reply: Any) -> bool:
        """Logs what a call did. Whether the next call may have something to do at once."""
        cancels, traders, more, waits, fault = reply
        if traders or cancels:
            log.info("deadlines of traders were over", card=card, traders=traders, cancels=cancels)
        if waits:
            rate_limited_log.warning(
                "deadlines wait until an API process has compared Redis with the archive", card=card
            )
        if fault:
            rate_limited_log.error("orders of a trader cannot be canceled", card=card, reason=fault.decode())
        return bool(more and (cancels or traders))
