"""Whether every part that orders need is there, asked now."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence

import msgspec

from archiver import lag
from archiver.queries import Archive
from core.errors import TcgxError
from engine.book_reader import BookReader

PARTS = ("redis", "functions", "engine", "postgresql", "archiver", "history")
"""What orders need, in the order of asking."""

LAG_SECONDS_MAX = 60
"""An archive that is further behind is not archived, whoever has the archiver's lock."""


class Report(msgspec.Struct, frozen=True):
    """The parts that are missing (`PARTS`), and what an operator has to do."""

    missing: Sequence[str]
    reasons: Sequence[str]


class Readiness:
    """Asks Redis and PostgreSQL. `faults` are those of the history, by card, as the process knows them."""

    def __init__(self, cards: Sequence[str], books: BookReader, archive: Archive, faults: Mapping[str, str]) -> None:
        self._cards = cards
        self._books = books
        self._archive = archive
        self._faults = faults

    async def report(self) -> Report:
        """What is missing now."""
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
        """Whether Redis has our library, as far as Redis answers: where it does not, that is what is missing."""
        try:
            return await self._books.has_functions()
        except TcgxError:
            return True

    async def _archives(self) -> bool:
        """Whether an archiver has its lock, and the archive follows: the lock may be left over from one that is
        gone."""
        if not await self._archive.has_archiver():
            return False
        cursors = await self._archive.cursors(self._cards)
        return all(card.seconds < LAG_SECONDS_MAX for card in await lag.lag(self._books.client, cursors))
