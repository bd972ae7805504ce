"""How far the archive is behind the matcher: measured for whoever asks, and told in the archiver's log lines."""

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

LOOK_SECONDS = 1.0
REPEAT_SECONDS = 10.0


class Lag(msgspec.Struct, frozen=True):
    """How far a card's archive is behind. `commands` are matched and not archived. `seconds` is how much older the
    oldest of them is than the oldest command that is not matched (than now, where all are), by the times of their
    appends: what waits for the matcher is not the archive's lag."""

    card: str
    commands: int
    seconds: float


async def lag(redis: Redis, archived: Mapping[str, Cursor]) -> list[Lag]:
    """The lag of every card, given where its archive stands (`store.cursors`; `store.START` where it has none).

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
    """When the first log entry that is not wholly behind a position was appended; None if there is none."""
    entries = await redis.xrange(keys.key(card, "orders"), min=f"({log_id}", count=1)
    return int(entries[0][0].partition(b"-")[0]) if entries else None


class LagLines:
    """Decides what is said of the lag: a line when it passes its bound, one every `REPEAT_SECONDS` while it lasts, and
    one when the archive has caught up."""

    def __init__(self, *, bound_seconds: float) -> None:
        self._bound_seconds = bound_seconds
        self._since: float | None = None
        self._told = 0.0
        self._before: tuple[float, int, int] | None = None

    def look(self, lags: Sequence[Lag], *, archived: int, now: float) -> None:
        """Says what there is to say at a moment: `archived` commands in all, `now` in seconds of a steady clock."""
        worst = max(lags, key=lambda one: one.seconds)
        commands = sum(one.commands for one in lags)
        before, self._before = self._before, (now, archived, commands)
        if self._since is None:
            if worst.seconds < self._bound_seconds:
                return
            self._since = now
        elif commands == 0 or worst.seconds < self._bound_seconds / 2:
            log.info("the archive has caught up", lagged_seconds=round(now - self._since, 1), commands=commands)
            self._since = None
            return
        elif now - self._told < REPEAT_SECONDS:
            return
        self._told = now
        log.warning(
            "the archive lags",
            commands=commands,
            seconds=round(worst.seconds, 1),
            card=worst.card,
            **_pace(before, (now, archived, commands)),
        )


def _pace(before: tuple[float, int, int] | None, now: tuple[float, int, int]) -> dict[str, int | str]:
    """Commands archived a second since the look before, and in how many seconds the lag will be gone at this pace."""
    if before is None:
        return {}
    seconds, archived, less = now[0] - before[0], now[1] - before[1], before[2] - now[2]
    until = round(now[2] * seconds / less) if less > 0 else "never at this rate"
    return {"commands_per_second": round(archived / seconds), "caught_up_in_seconds": until}


async def tell(redis: Redis, archived: Mapping[str, Cursor], lines: LagLines) -> None:
    """Looks once, and says what there is to say.

    Raises:
        Unavailable: Redis does not answer.
    """
    lags = await lag(redis, archived)
    now = asyncio.get_running_loop().time()
    lines.look(lags, archived=sum(cursor.sequence for cursor in archived.values()), now=now)


async def watch(redis: Redis, archived: Mapping[str, Cursor], lines: LagLines) -> None:
    """Looks again and again until canceled; `archived` is what the archiver keeps up to date.

    Raises:
        Unavailable: Redis does not answer.
    """
    while True:
        await tell(redis, archived, lines)
        await asyncio.sleep(LOOK_SECONDS)
