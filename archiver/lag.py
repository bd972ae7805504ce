"""The lag of the archive behind the matcher: its measurement, and log lines about it."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis

from archiver.queries import Cursor
from engine import keys
from engine.connection import redis_errors

log = structlog.get_logger()

MEASURE_SECONDS = 1.0
REPEAT_SECONDS = 10.0


class Lag(msgspec.Struct, frozen=True):
    """The lag of the archive of a card.

    `commands`: the number of matched commands that are not archived.
    `seconds`: from the append of the oldest of them to the append of the oldest unmatched command. If all commands are
    matched, the interval ends now. So the delay of the matcher does not count.
    """

    card: str
    commands: int
    seconds: float


async def lag(redis: Redis, archived: Mapping[str, Cursor]) -> list[Lag]:
    """The lag of every card. `archived`: the archive cursor of each card (`queries.cursors`, or `queries.START`).

    Raises:
        Unavailable: Redis does not answer.
    """
    with redis_errors():
        return list(await asyncio.gather(*(_lag(redis, card, cursor) for card, cursor in archived.items())))


async def _lag(redis: Any, card: str, archived: Cursor) -> Lag:
    sequence, log_id = await redis.hmget(keys.key(card, "cursor"), "sequence", "log_id")
    commands = int(sequence or 0) - archived.sequence
    if commands <= 0:
        return Lag(card, 0, 0.0)
    oldest_ms = await _appended_ms(redis, card, archived.log_id)
    unmatched_ms = await _appended_ms(redis, card, log_id.decode())
    if oldest_ms is None:
        return Lag(card, commands, 0.0)
    if unmatched_ms is None:
        seconds, microseconds = await redis.time()
        unmatched_ms = seconds * 1_000 + microseconds // 1_000
    return Lag(card, commands, max(0, unmatched_ms - oldest_ms) / 1_000)


async def _appended_ms(redis: Any, card: str, log_id: str) -> int | None:
    """The time of the first log entry after a position, in milliseconds since 1970. None if there is none."""
    entries = await redis.xrange(keys.key(card, "orders"), min=f"({log_id}", count=1)
    return int(entries[0][0].partition(b"-")[0]) if entries else None


class LagReporter:
    """Logs the lag of the archive.

    A line is written if the lag exceeds its bound, every `REPEAT_SECONDS` while this lasts, and once it is over.
    """

    def __init__(self, *, bound_seconds: float) -> None:
        self._bound_seconds = bound_seconds
        self._exceeded_at: float | None = None
        self._reported_at = 0.0
        self._before: tuple[float, int, int] | None = None

    def report(self, lags: Sequence[Lag], *, archived: int, now: float) -> None:
        """Logs a line if one is due. `archived`: all archived commands; `now`: seconds of a monotonic clock."""
        worst = max(lags, key=lambda one: one.seconds)
        commands = sum(one.commands for one in lags)
        before, self._before = self._before, (now, archived, commands)
        if self._exceeded_at is None:
            if worst.seconds < self._bound_seconds:
                return
            self._exceeded_at = now
        elif commands == 0 or worst.seconds < self._bound_seconds / 2:
            log.info("the archive has caught up", lagged_seconds=round(now - self._exceeded_at, 1), commands=commands)
            self._exceeded_at = None
            return
        elif now - self._reported_at < REPEAT_SECONDS:
            return
        self._reported_at = now
        log.warning(
            "the archive lags",
            commands=commands,
            seconds=round(worst.seconds, 1),
            card=worst.card,
            **_pace(before, (now, archived, commands)),
        )


def _pace(before: tuple[float, int, int] | None, now: tuple[float, int, int]) -> dict[str, int | str]:
    """The archived commands per second since the last report, and the seconds until the lag is gone at this rate."""
    if before is None:
        return {}
    seconds, archived, less = now[0] - before[0], now[1] - before[1], before[2] - now[2]
    until = round(now[2] * seconds / less) if less > 0 else "never at this rate"
    return {"commands_per_second": round(archived / seconds), "caught_up_in_seconds": until}


async def report_once(redis: Redis, archived: Mapping[str, Cursor], reporter: LagReporter) -> None:
    """Measures the lag once, and logs a line if one is due.

    Raises:
        Unavailable: Redis does not answer.
    """
    lags = await lag(redis, archived)
    now = asyncio.get_running_loop().time()
    reporter.report(lags, archived=sum(cursor.sequence for cursor in archived.values()), now=now)


async def report_continuously(redis: Redis, archived: Mapping[str, Cursor], reporter: LagReporter) -> None:
    """Measures and reports the lag until canceled. The archiver updates the cursors in `archived`.

    Raises:
        Unavailable: Redis does not answer.
    """
    while True:
        await report_once(redis, archived, reporter)
        await asyncio.sleep(MEASURE_SECONDS)
