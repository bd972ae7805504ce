"""API keys that are revoked, as a process knows them: tokens that were issued for them are refused.

Every process asks PostgreSQL once a second for the keys that were revoked since. While PostgreSQL does not answer, the
process goes on with the keys that it knows: a revocation is written in PostgreSQL, so none is made meanwhile.
Tokens end by themselves after `TCGX_TOKEN_SECONDS`, and no new one is issued without PostgreSQL.
"""

import asyncio
import contextlib
from collections.abc import Container
from datetime import datetime
from typing import Any

import structlog

from archiver import api_keys
from core.errors import TcgxError, Unavailable, reason
from core.log_limit import RateLimitedLog

POLL_SECONDS = 1.0
FIRST_POLL_SECONDS = 0.1
"""Between questions until the first answer, before which no order can be taken."""

FIRST_SECONDS = 1.0
"""The longest time that a start waits for the first answer."""

rate_limited_log = RateLimitedLog(structlog.get_logger())


class _NotKnownYet(Container[str]):
    """Stands for the revoked keys until PostgreSQL has answered once: no token can be judged."""

    def __contains__(self, key_id: object) -> bool:
        raise Unavailable("PostgreSQL did not answer: it is not known which API keys are revoked")


class Revocations:
    """The ids of revoked keys. A test of membership is all that a request costs."""

    def __init__(self, *, known: bool = False) -> None:
        """`known`: nothing is revoked, and nothing is asked, as for tests without a database."""
        self.key_ids: Container[str] = frozenset() if known else _NotKnownYet()
        self._found: set[str] = set()
        self._since: datetime | None = None

    @property
    def obstacle(self) -> str:
        """Why no token can be judged; empty if tokens can."""
        unknown = isinstance(self.key_ids, _NotKnownYet)
        return "PostgreSQL has not yet told which API keys are revoked" if unknown else ""

    async def refresh(self, pool: Any) -> None:
        """Asks for the keys that were revoked since the last call.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        found, self._since = await api_keys.revoked(pool, self._since)
        self._found.update(found)
        self.key_ids = self._found

    async def refresh_within(self, pool: Any, seconds: float = FIRST_SECONDS) -> None:
        """Refreshes, and gives up after a time. The process then refuses tokens until `run` has an answer."""
        with contextlib.suppress(TcgxError, TimeoutError):
            async with asyncio.timeout(seconds):
                await self.refresh(pool)

    async def run(self, pool: Any, stopping: asyncio.Event) -> None:
        """Refreshes once a second until a stop, and more often before the first answer."""
        while not stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), FIRST_POLL_SECONDS if self.obstacle else POLL_SECONDS)
                return
            try:
                await self.refresh(pool)
            except Unavailable as error:
                rate_limited_log.warning("revoked API keys are not known anew", reason=reason(error))
