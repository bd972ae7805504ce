"""Leases of streams: while a stream lives, its process renews the deadline of its trader (`engine/deadlines.py`).

Once a stream is gone without a clean end, nobody renews the lease, and engines cancel the trader's orders. So a lease
also holds where this process is killed.
"""

import asyncio
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import structlog

from core.errors import TcgxError, Unauthenticated, reason
from core.log_limit import RateLimitedLog
from core.service import cancel_and_wait
from engine import deadlines
from engine.deadlines import DeadlineKeeper, Held, Lease
from exchange.auth import TOKEN_MISSING
from exchange.tokens import Caller
from streams import messages

if TYPE_CHECKING:
    from streams.session import Session

log = structlog.get_logger()
rate_limited_log = RateLimitedLog(log)

GRACE_SECONDS_MIN, GRACE_SECONDS_MAX = 2, 300

RENEW_SECONDS_MIN, RENEW_SECONDS_MAX = 1.0, 10.0
"""A lease is renewed after a fifth of its grace, within these bounds. Each renewal lasts for as much longer than the
grace, so that a client always has the whole grace to come back."""

AGAIN_SECONDS = 0.5
ANSWER_SECONDS = 3.0
LAST_ANSWER_SECONDS = 1.0
RESTART_SECONDS = 5.0
"""For so much longer than its client is told to wait does a lease last after an end that the server decided."""

HOLDER_BYTES = 8
AT_ONCE_MS = 1


class HeldLease:
    """A lease that a stream of this process holds."""

    def __init__(self, trader_id: int, holder: str, grace_seconds: int, *, cancel_on_close: bool) -> None:
        self.cancel_on_close = cancel_on_close
        self.grace_seconds = grace_seconds
        self.interval = min(max(grace_seconds / 5, RENEW_SECONDS_MIN), RENEW_SECONDS_MAX)
        self.renew_at = 0.0
        self.holder = holder
        self._trader_id = trader_id

    def for_ms(self, milliseconds: int) -> Lease:
        """The lease as it is set for so long from now on; 0 ends it."""
        return Lease(
            trader_id=self._trader_id,
            holder=self.holder,
            grace_seconds=self.grace_seconds,
            milliseconds=milliseconds,
        )

    @property
    def renewed(self) -> Lease:
        """The lease as it is renewed."""
        return self.for_ms(int((self.grace_seconds + self.interval) * 1_000))


class LeaseText(msgspec.Struct, frozen=True):
    """A lease as messages show it."""

    grace_seconds: int
    cancel_at: str


class Leases:
    """The leases of the streams of a process."""

    def __init__(self, keeper: DeadlineKeeper) -> None:
        self._keeper = keeper
        self._held: dict[Session, HeldLease] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def read(self, caller: Caller) -> LeaseText | None:
        """Reads the lease of a trader, of whichever stream.

        Raises:
            Unavailable: Redis does not answer.
        """
        found = await self._keeper.read(caller.trader_id)
        return LeaseText(found.grace_seconds, deadlines.time_text(found.lease_ms)) if found.lease_ms else None

    async def take(self, session: "Session", grace_seconds: int, *, cancel_on_close: bool) -> None:
        """Gives a stream the lease of its trader, which the stream that had it loses.

        Raises:
            Unauthenticated: the stream has no token.
            HistoryConflict, Overloaded, Unavailable: see `DeadlineKeeper.take`.
        """
        if session.caller is None:
            raise Unauthenticated("token_missing", TOKEN_MISSING)
        known = self._held.get(session)
        holder = known.holder if known else secrets.token_hex(HOLDER_BYTES)
        held = HeldLease(session.caller.trader_id, holder, grace_seconds, cancel_on_close=cancel_on_close)
        held.renew_at = asyncio.get_running_loop().time() + held.interval
        await self._keeper.take(held.renewed)
        self._held[session] = held
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew(), name="leases")

    async def give_up(self, session: "Session") -> None:
        """Ends the lease of a stream; its trader's orders stay.

        Raises:
            HistoryConflict, Overloaded, Unavailable: see `DeadlineKeeper.keep`.
        """
        held = self._held.get(session)
        if held is not None:
            await self._keeper.keep([held.for_ms(0)])
            self._held.pop(session, None)

    async def leave(self, session: "Session", *, is_clean: bool) -> None:
        """Lets a stream go. A clean end by its client ends the lease; others leave it to be taken over or to end."""
        held = self._held.pop(session, None)
        if held is None:
            return
        if session.bye is not None:
            if session.bye.code in (messages.RESTARTING, messages.UNAVAILABLE):
                await self._set([_extended(held, session.bye.reconnect_after_ms)])
        elif is_clean:
            await self._set([held.for_ms(AT_ONCE_MS if held.cancel_on_close else 0)])

    async def close(self, reconnect_after_ms: int) -> None:
        """Lets all streams go, since the process stops: clients have this time, and some more, to come back."""
        held, self._held = list(self._held.values()), {}
        if self._renewing is not None:
            await cancel_and_wait(self._renewing)
            self._renewing = None
        if held:
            await self._set([_extended(each, reconnect_after_ms) for each in held])

    async def _set(self, leases: Sequence[Lease]) -> None:
        """Sets leases of streams that are gone. Where Redis does not answer, they end by themselves."""
        try:
            async with asyncio.timeout(LAST_ANSWER_SECONDS):
                await self._keeper.keep(leases)
        except (TcgxError, TimeoutError) as error:
            rate_limited_log.warning("a lease is left to end by itself", reason=reason(error))

    async def _renew(self) -> None:
        """Renews leases while there are any."""
        now = asyncio.get_running_loop().time
        while self._held:
            due = [(session, held) for session, held in self._held.items() if held.renew_at <= now()]
            try:
                if due:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        found = await self._keeper.keep([held.renewed for _, held in due])
                    for (session, held), state in zip(due, found, strict=True):
                        held.renew_at = now() + held.interval
                        if state is not Held.DONE and self._held.get(session) is held:
                            await self._lose(session, held, state)
            except (TcgxError, TimeoutError) as error:
                rate_limited_log.warning("leases will be renewed again", count=len(due), reason=reason(error))
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                # A lease that is taken meanwhile need not be renewed sooner than that.
                next_at = min((held.renew_at for held in self._held.values()), default=0.0)
                await asyncio.sleep(min(max(next_at - now(), 0.0), RENEW_SECONDS_MIN))

    async def _lose(self, session: "Session", held: HeldLease, state: Held) -> None:
        """Tells a stream that its lease is not its own any more."""
        self._held.pop(session, None)
        if state is Held.GONE:
            await self._set([held.for_ms(AT_ONCE_MS)])  # a card may have been renewed just before its time
        session.tell(messages.lease(None, 0, ended="expired" if state is Held.GONE else "taken_over"))


def _extended(held: HeldLease, reconnect_after_ms: int) -> Lease:
    return held.for_ms(int((held.grace_seconds + RESTART_SECONDS) * 1_000) + reconnect_after_ms)
