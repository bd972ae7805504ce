"""Readers of the past of a card who come at one moment: each gets what it asked for."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from engine.book_reader import BookReader
from engine.events import Event
from streams.feed import Feed

LAST = 1_000


class Past:
    """Has an event a command, and gives them newest first, with a turn for others between."""

    async def events(self, card: str, *, after: int) -> AsyncIterator[Event]:
        """The events after a command."""
        for sequence in range(LAST, after, -1):
            yield Event(card, f"{sequence}-0", sequence, f"1-{sequence}", b"", b"", b"")
            await asyncio.sleep(0)


@pytest.mark.parametrize("starts", [(450, 900), (900, 450), (900, 450, 700)])
def test_whoever_reads_further_back_loses_nothing_to_one_who_is_done_earlier(starts: tuple[int, ...]) -> None:
    async def scenario() -> None:
        feed = Feed(
            "pikachu", cast(Any, None), cast(BookReader, Past()), commands_max=10 * LAST, on_lost=lambda _: None
        )
        feed.ring.restart(LAST)
        await asyncio.gather(*map(feed.backfill, starts))

        assert feed.ring.floor == min(starts)
        calls = [(call.first, call.last) for call in feed.ring.after(feed.ring.floor)]
        assert calls == [(sequence, sequence) for sequence in range(min(starts) + 1, LAST + 1)]

    asyncio.run(scenario())
