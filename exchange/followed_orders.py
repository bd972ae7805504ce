"""Sampled orders on their way: when each was appended, matched and archived.

The process that took an order follows it by its place in the log: a notification tells the match, the archive cursor
the rest. So neither log nor engine nor archiver know of it, and orders that are not sampled cost nothing.
"""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

import structlog

from archiver.queries import Archive
from core.errors import TcgxError
from core.service import cancel_and_wait
from exchange.service import Exchange
from observe.journal import Answered
from observe.tallies import Count, Distribution

log = structlog.get_logger()

FOLLOWED_MAX = 64
"""Orders that are followed at once; a further sampled one is passed over."""
MATCH_SECONDS = 30.0
ARCHIVE_SECONDS = 60.0
POLL_SECONDS = 0.1
"""The interval at which the archive cursors are read while an order is followed; the precision of `archive`."""

APPEND, MATCH, ARCHIVE = "append", "match", "archive"
OUTCOMES = ("archived", "not_matched", "not_archived", "passed_over")

stage_seconds = Distribution("tcgx_order_stage_seconds", "The time that a sampled order took for a stage", ("stage",))
followed = Count("tcgx_followed_orders", "Sampled orders, by what became of them", ("outcome",))
for _stage in (APPEND, MATCH, ARCHIVE):
    stage_seconds.row(_stage)
for _outcome in OUTCOMES:
    followed.add(0, _outcome)


class Stages(NamedTuple):
    """The times of an order, in seconds since 1970. A time is None if that moment was not seen."""

    order: str
    received_at: float
    answered_at: float
    matched_at: float | None
    archived_at: float | None


Emit = Callable[[Answered, Stages | None], None]
"""Gets each answer that was followed; None as its stages if it has accepted no order."""


class FollowedOrders:
    """Follows sampled orders in tasks of its own."""

    def __init__(self, exchange: Exchange, archive: Archive, *, emit: Emit | None = None) -> None:
        self._exchange, self._archive, self._emit = exchange, archive, emit
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, answered: Answered, order: str) -> None:
        """Begins to follow the order of an answer that was given just now. Without an order, the answer is emitted."""
        if not order:
            if self._emit is not None:
                self._emit(answered, None)
            return
        if len(self._tasks) >= FOLLOWED_MAX:
            followed.add(1, "passed_over")
            return
        task = asyncio.create_task(self._follow(answered, order), name=f"follow {order}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ends all tasks."""
        await cancel_and_wait(*self._tasks)

    async def _follow(self, answered: Answered, order: str) -> None:
        card, _, digits = order.rpartition("-")
        answered_at = time.time()
        outcome, matched_at, archived_at = "not_matched", None, None
        try:
            if await self._exchange.wait_matched(card, int(digits), MATCH_SECONDS):
                outcome, matched_at = "not_archived", time.time()
                archived_at = await self._archived_at(card, int(digits))
                outcome = "archived" if archived_at else outcome
        except TcgxError as error:
            log.debug("an order could not be followed", order=order, reason=str(error))
        stages = Stages(order, answered_at - answered.seconds, answered_at, matched_at, archived_at)
        followed.add(1, outcome)
        stage_seconds.add(answered.seconds, APPEND)
        if matched_at is not None:
            stage_seconds.add(matched_at - answered_at, MATCH)
        if matched_at is not None and archived_at is not None:
            stage_seconds.add(archived_at - matched_at, ARCHIVE)
        log.debug(
            "an order was followed",
            order=order,
            request_id=answered.request_id,
            trader=answered.trader_id,
            outcome=outcome,
            append_ms=round(answered.seconds * 1_000, 2),
            match_ms=_ms(answered_at, matched_at),
            archive_ms=_ms(matched_at, archived_at),
        )
        if self._emit is not None:
            self._emit(answered, stages)

    async def _archived_at(self, card: str, sequence: int) -> float | None:
        """Waits until the archive has a command; None if that takes too long."""
        deadline = time.monotonic() + ARCHIVE_SECONDS
        while time.monotonic() < deadline:
            if (await self._archive.cursors([card]))[card].sequence >= sequence:
                return time.time()
            await asyncio.sleep(POLL_SECONDS)
        return None


def _ms(began_at: float | None, ended_at: float | None) -> float | None:
    return None if began_at is None or ended_at is None else round((ended_at - began_at) * 1_000, 2)
