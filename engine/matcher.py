"""The engine process: it decides when the match function is called. The matching itself runs inside Redis.

Any number of engines may run, since a match call without new commands changes nothing. A call whose reply is lost can
be repeated, because cursor and books change in one atomic step (lua/match.lua).
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import structlog

from core.errors import LogGap, TcgxError
from core.heartbeat import Progress
from core.log_limit import RateLimitedLog
from core.service import Backoff, tell_ready, until_stopped
from core.settings import Settings
from engine import connection, cpu_affinity, heartbeat, history, keys, library, loading, metrics, nodes
from engine.connection import BLOCK_MS, ENGINE_NAME, pack_command, redis_errors
from engine.deadline_watch import DeadlineWatch
from engine.nodes import Node
from observe import exposition
from observe.tallies import SIZES, Count, Distribution, Longest

log = structlog.get_logger()
rate_limited_log = RateLimitedLog(log)

RETRY_CARD_SECONDS = 2.0
"""The pause of a card after its match call was refused. Other cards are not affected."""

COALESCE_MIN = 16
COALESCE_SECONDS = 0.003
"""After a round with at least `COALESCE_MIN` commands the matcher pauses, so that one call matches more commands. The
pause does not delay the acknowledgement of orders, and a single order is never held back."""

BULK_MIN = 400
CALLS_PER_PIPELINE = 4
"""After a round with at least `BULK_MIN` commands a pipeline has at most `CALLS_PER_PIPELINE` match calls."""

matched_commands = Count("tcgx_matched_commands", "Commands that match calls of this engine have done", ("card",))
match_failures = Count("tcgx_match_failures", "Match calls that Redis has refused", ("card",))
rejected_entries = Count("tcgx_rejected_entries", "Malformed log entries that were passed over", ("card",))
match_seconds = Distribution("tcgx_match_seconds", "The time of a pipeline of match calls")
match_seconds_longest = Longest("tcgx_match_longest_seconds", "The longest pipeline of match calls of a minute or two")
match_commands = Distribution("tcgx_match_commands", "Commands of a match call that found some", bounds=SIZES)
match_delay = Distribution("tcgx_match_delay_seconds", "From the append of the newest entry that a call did to its end")


class Matcher:
    """Matches the cards of one server up to the end of their logs.

    One loop serves all cards: a round trip with a match call per card costs little more than one with a single call.
    """

    def __init__(self, node: Node, *, batch: int, hold_ms: int | None = None) -> None:
        self._redis = node.commands
        # The types of redis-py for stream replies admit shapes that RESP2 never has.
        self._blocking: Any = node.blocking
        self._limits = (batch,) if hold_ms is None else (batch, hold_ms)
        self._log_ids = dict.fromkeys(node.cards, "0-0")
        self._recently_active: set[str] = set()
        self._connection = connection.pipelined(node.commands)
        self._commands_in_round = 0
        self._retry_at: dict[str, float] = {}
        for card in node.cards:
            for count in (matched_commands, match_failures, rejected_entries):
                count.add(0, card)
        self.last_error_by_card: dict[str, TcgxError] = {}
        """The error of each card whose last match call was refused."""

    async def match(self, cards: Sequence[str]) -> list[str]:
        """Makes a match call for each card. Returns the cards that have further unmatched commands.

        A refused call is logged, and its card pauses for `RETRY_CARD_SECONDS`.

        Raises:
            Unavailable: Redis does not answer; the call can be repeated.
        """
        # Redis runs the calls of a pipeline without a pause and with one fsync. Bulk load uses small pipelines, so that
        # appends and reads run in between.
        calls = len(cards) if self._commands_in_round < BULK_MIN else CALLS_PER_PIPELINE
        replies: list[Any] = []
        for start in range(0, len(cards), calls):
            replies += await self._call(cards[start : start + calls])
        if any(library.is_missing(reply) for reply in replies):
            await library.load_again(self._redis)
            return list(cards)
        self._recently_active.clear()
        self._commands_in_round = 0
        return [card for card, reply in zip(cards, replies, strict=True) if self._handle(card, reply)]

    async def _call(self, cards: Sequence[str]) -> list[Any]:
        """The replies to a match call for each of these cards."""
        began_at = time.perf_counter()
        with redis_errors():
            replies = await self._connection.call(
                [pack_command("FCALL", "match", 1, keys.tag(card), *self._limits) for card in cards]
            )
        seconds = time.perf_counter() - began_at
        match_seconds.add(seconds)
        match_seconds_longest.add(seconds)
        return replies

    def _handle(self, card: str, reply: Any) -> bool:
        """Records the reply to a match call. Whether the card has further unmatched commands."""
        try:
            with redis_errors():
                if isinstance(reply, Exception):
                    raise reply
        except TcgxError as error:
            if isinstance(error, LogGap):
                rate_limited_log.error("matching stands still", card=card, reason=str(error))
            else:
                rate_limited_log.warning("matching will be tried again", card=card, reason=str(error))
            match_failures.add(1, card)
            self.last_error_by_card[card] = error
            self._retry_at[card] = asyncio.get_running_loop().time() + RETRY_CARD_SECONDS
            return False
        self.last_error_by_card.pop(card, None)
        commands, _, log_id, _, rejected, more = reply
        if commands:
            self._recently_active.add(card)
            self._commands_in_round += commands
            matched_commands.add(commands, card)
            match_commands.add(commands)
            match_delay.add(max(0.0, time.time() - int(log_id.partition(b"-")[0]) / 1_000))
        if rejected:
            rejected_entries.add(rejected, card)
            rate_limited_log.warning("rejected malformed log entries", card=card, count=rejected)
        self._log_ids[card] = log_id.decode()
        return bool(more)

    async def cards_with_new_entries(self, seconds: float) -> list[str]:
        """Waits for unmatched log entries and returns the cards to match. Empty after `seconds` without entries.

        The result includes the recently active cards, since the read returns with the first new entry of any card.
        """
        now = asyncio.get_running_loop().time()
        self._retry_at = {card: retry_at for card, retry_at in self._retry_at.items() if retry_at > now}
        seconds = min([seconds, *(retry_at - now for retry_at in self._retry_at.values())])
        names = {keys.key(card, "orders").encode(): card for card in self._log_ids if card not in self._retry_at}
        if not names:
            await asyncio.sleep(seconds)
            return []
        with redis_errors():
            reply = await self._blocking.xread(
                {name: self._log_ids[card] for name, card in names.items()}, count=1, block=max(1, int(seconds * 1000))
            )
        return (
            list({names[name] for name, _ in reply} | (self._recently_active - self._retry_at.keys())) if reply else []
        )

    async def run(self, stopping: asyncio.Event, progress: Progress | None = None) -> None:
        """Matches until the stop. A call in progress is completed. `progress` gets each round."""
        backoff = Backoff(stopping)
        progress = progress or Progress()
        all_cards = list(self._log_ids)
        due = all_cards
        while not stopping.is_set():
            progress.begin("matching" if due else "waiting")
            try:
                if due:
                    due = await self.match(due)
                    if len(self.last_error_by_card) < len(all_cards):
                        backoff.succeeded()
                    if not due and self._commands_in_round >= COALESCE_MIN:
                        await asyncio.sleep(COALESCE_SECONDS)
                else:
                    due = await until_stopped(self.cards_with_new_entries(BLOCK_MS / 1000), stopping) or []
            except TcgxError as error:
                rate_limited_log.warning("matching will be tried again", reason=str(error))
                await backoff.wait()
                due = [card for card in all_cards if card not in self._retry_at]


async def work(settings: Settings, stopping: asyncio.Event, progress: Progress) -> None:
    """The engine service: for the cards of each server one matcher, and one watch over the deadlines of traders.

    Raises:
        StartError: Redis fails a check (`connection.check`), or does not answer.
    """
    async with nodes.connect(settings, ENGINE_NAME) as servers:
        await loading.wait_until_loaded(servers.commands, stopping, seconds=settings.start_seconds)
        if stopping.is_set():
            return
        await servers.check(durability=settings.durability)
        await servers.load_library()
        await history.check_matchable(servers.commands, settings.cards)
        watches = [DeadlineWatch(node, backlog_max=settings.backlog_max) for node in servers]
        matchers = [Matcher(node, batch=settings.match_batch, hold_ms=settings.match_hold_ms) for node in servers]
        with cpu_affinity.avoid_server_cores(servers.commands):
            log.info("matching", cards=settings.cards, batch=settings.match_batch)
            async with (
                heartbeat.sent_to_redis(settings, "engine", progress),
                exposition.serving(settings, "engine", [metrics.redis_state(servers, settings.cards)], progress),
            ):
                tell_ready(settings, progress)
                await asyncio.gather(
                    *(matcher.run(stopping, progress) for matcher in matchers),
                    *(watch.run(stopping) for watch in watches),
                )
        log.info("stopped")
