"""Readiness: a check of every part that orders need, made anew for each report."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence

import msgspec

from archiver import lag
from archiver.queries import Archive
from core.errors import TcgxError
from engine.book_reader import BookReader

PARTS = ("redis", "functions", "engine", "postgresql", "archiver", "history")
"""The parts that orders need, in the order of a report."""

LAG_SECONDS_MAX = 60
"""The lag of the archive from which the archiver counts as missing, even if some process holds its lock."""


class Report(msgspec.Struct, frozen=True):
    """The missing parts (of `PARTS`), and for the history a sentence to the operator for each fault."""

    missing: Sequence[str]
    reasons: Sequence[str]


class Readiness:
    """Checks Redis and PostgreSQL. `faults` are the faults of the history by card; the process keeps them current."""

    def __init__(self, cards: Sequence[str], books: BookReader, archive: Archive, faults: Mapping[str, str]) -> None:
        self._cards = cards
        self._books = books
        self._archive = archive
        self._faults = faults

    async def report(self) -> Report:
        """Checks every part now. A server that does not answer is a missing part, not an error."""
        checks: dict[str, Awaitable[bool]] = {
            "redis": self._books.answers(),
            "functions": self._has_functions(),
            "engine": self._books.has_engine(),
            "postgresql": self._archive.answers(),
            "archiver": self._archives(),
        }
        outcomes = await asyncio.gather(*checks.values(), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, TcgxError):
                raise outcome
        missing = [name for name, outcome in zip(checks, outcomes, strict=True) if outcome is not True]
        return Report([*missing, *(["history"] if self._faults else [])], list(self._faults.values()))

    async def _has_functions(self) -> bool:
        """Whether Redis has the Lua library. True if Redis does not answer: then `redis` is the missing part."""
        try:
            return await self._books.has_functions()
        except TcgxError:
            return True

    async def _archives(self) -> bool:
        """Whether an archiver holds the lock and the archive keeps up. A dead archiver may leave the lock behind."""
        if not await self._archive.has_archiver():
            return False
        cursors = await self._archive.cursors(self._cards)
        return all(card.seconds < LAG_SECONDS_MAX for card in await lag.lag(self._books.client, cursors))
