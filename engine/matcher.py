"""The engine process: decides when the match function is called; everything else happens inside Redis.

Any number of engines may run: a call that finds nothing to do changes nothing, and one that is lost with its
connection is simply made again, because the cursor moves in the same step as the books (lua/match.lua).
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
from redis.asyncio import Redis

from core.errors import LogGap, TcgxError
from core.log_limit import LimitedLog
from core.service import Backoff, until_stopped
from core.settings import Settings
from engine import connection, cpu_affinity, history, keys, library
from engine.connection import BLOCK_MS, ENGINE_NAME, packed, redis_errors

log = structlog.get_logger()
limited = LimitedLog(log)

RETRY_CARD_SECONDS = 2.0
"""For how long a card is left alone whose call was refused; the others go on."""

COALESCE_MIN = 16
COALESCE_SECONDS = 0.003
"""Where so many commands come at once, those of the next moment are taken together. Who places an order is answered
before it is matched; a lone order is never held back."""

MANY = 400
"""Commands of a round after which the next one makes only so many calls at once as in `AT_ONCE`."""
AT_ONCE = 4


class Matcher:
    """Keeps cards matched up to the end of their logs: those of one server (of a cluster: of one node).

    One loop for all of them: orders arrive for many cards at once, and a round trip with a call for each costs
    little more than one with a call for one.
    """

    def __init__(
        self, redis: Redis, blocking: Redis, cards: Sequence[str], *, batch: int, hold_ms: int | None = None
    ) -> None:
        self._redis = redis
        self._blocking: Any = blocking  # redis-py's types of stream replies admit shapes that its RESP2 never gives
        self._limits = (batch,) if hold_ms is None else (batch, hold_ms)
        self._log_ids = dict.fromkeys(cards, "0-0")
        self._busy: set[str] = set()
        self._link = connection.PipelinedConnection(redis)
        self._done = 0
        self._again_at: dict[str, float] = {}
        self.refused: dict[str, TcgxError] = {}
        """Why the last call of a card was refused, of those where it was."""

    async def match(self, cards: Sequence[str]) -> list[str]:
        """One call for each of these cards. Those that have more commands waiting.

        A card whose call is refused is told in the log, and left alone for `RETRY_CARD_SECONDS`.

        Raises:
            Unavailable: no answer; calling again is safe.
        """
        # Calls of one pipeline are done without a pause, and share an fsync: with many commands a few go together, so
        # that appends and reads of others come in between.
        at_once = len(cards) if self._done < MANY else AT_ONCE
        matched: list[Any] = []
        for start in range(0, len(cards), at_once):
            matched += await self._call(cards[start : start + at_once])
        if any(library.is_missing(reply) for reply in matched):
            # The server was replaced by an empty one.
            await library.load_again(self._redis)
            return list(cards)
        self._busy.clear()
        self._done = 0
        return [card for card, reply in zip(cards, matched, strict=True) if self._take(card, reply)]

    async def _call(self, cards: Sequence[str]) -> list[Any]:
        """The replies to a match call for each of these cards."""
        with redis_errors():
            return await self._link.call([packed("FCALL", "match", 1, keys.tag(card), *self._limits) for card in cards])

    def _take(self, card: str, reply: Any) -> bool:
        try:
            with redis_errors():
                if isinstance(reply, Exception):
                    raise reply
        except TcgxError as error:
            if isinstance(error, LogGap):
                log.error("matching stands still", card=card, reason=str(error))
            else:
                limited.warning("matching will be tried again", card=card, reason=str(error))
            self.refused[card] = error
            self._again_at[card] = asyncio.get_running_loop().time() + RETRY_CARD_SECONDS
            return False
        self.refused.pop(card, None)
        commands, _, log_id, _, rejected, more = reply
        if commands:
            self._busy.add(card)
            self._done += commands
        if rejected:
            log.warning("rejected malformed log entries", card=card, count=rejected)
        self._log_ids[card] = log_id.decode()
        return bool(more)

    async def arrivals(self, seconds: float) -> list[str]:
        """The cards to match next, once a log has entries that are not matched; none after so many seconds.

        Those of the call before are among them: of orders that come for many cards, only the first wakes the reader.
        """
        now = asyncio.get_running_loop().time()
        self._again_at = {card: again_at for card, again_at in self._again_at.items() if again_at > now}
        seconds = min([seconds, *(again_at - now for again_at in self._again_at.values())])
        names = {keys.key(card, "orders").encode(): card for card in self._log_ids if card not in self._again_at}
        if not names:
            await asyncio.sleep(seconds)
            return []
        with redis_errors():
            reply = await self._blocking.xread(
                {name: self._log_ids[card] for name, card in names.items()}, count=1, block=max(1, int(seconds * 1000))
            )
        return list({names[name] for name, _ in reply} | (self._busy - self._again_at.keys())) if reply else []

    async def run(self, stopping: asyncio.Event) -> None:
        """Matches until told to stop; calls that are under way are finished."""
        backoff = Backoff(stopping)
        every = list(self._log_ids)
        due = every
        while not stopping.is_set():
            try:
                if due:
                    due = await self.match(due)
                    if len(self.refused) < len(every):
                        backoff.succeeded()
                    if not due and self._done >= COALESCE_MIN:
                        await asyncio.sleep(COALESCE_SECONDS)
                else:
                    due = await until_stopped(self.arrivals(BLOCK_MS / 1000), stopping) or []
            except TcgxError as error:
                limited.warning("matching will be tried again", reason=str(error))
                await backoff.wait()
                due = [card for card in every if card not in self._again_at]


async def work(settings: Settings, stopping: asyncio.Event) -> None:
    """The engine service: one matcher for all cards.

    Raises:
        StartError: Redis cannot be trusted with orders, or does not answer.
    """
    async with (
        connection.connect(settings.redis_url, ENGINE_NAME) as redis,
        connection.connect_blocking(settings.redis_url, ENGINE_NAME) as blocking,
    ):
        await connection.check(redis, durability=settings.durability)
        await library.load(redis)
        await history.check_matchable(redis, settings.cards)
        matcher = Matcher(redis, blocking, settings.cards, batch=settings.match_batch, hold_ms=settings.match_hold_ms)
        with cpu_affinity.left_to_server(redis):
            log.info("matching", cards=settings.cards, batch=settings.match_batch)
            await matcher.run(stopping)
        log.info("stopped")
