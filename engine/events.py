"""The events of a card: what each match call did, in order and without a gap. Fields and lines: docs/data.md."""

from collections.abc import Mapping
from typing import Any

import msgspec
from redis.asyncio import Redis

from core.errors import TcgxError
from core.model import Order, Trade
from engine import codec, keys
from engine.connection import BLOCK_MS, redis_errors

ENTRIES_MAX = 64
READS_A_BATCH = 4
"""A read takes about this part of `batch_bytes` at most."""


class EventGap(TcgxError):
    """Events between a reader and what Redis still holds are missing; the reader of the card stands still."""


class Event(msgspec.Struct, frozen=True):
    """What one match call did: commands `first` to `last`, up to the log entry `log_id`. The lines of trades, of orders
    that were completed, and of entries that were rejected end with a newline each."""

    card: str
    id: str
    first: int
    log_id: str
    trade_lines: bytes
    order_lines: bytes
    rejected_lines: bytes

    @classmethod
    def of(cls, card: str, entry: tuple[bytes, Mapping[bytes, bytes]]) -> "Event":
        """An event from its stream entry."""
        entry_id, fields = entry
        return cls(
            card,
            entry_id.decode(),
            int(fields[b"first"]),
            fields[b"log"].decode(),
            fields.get(b"trades", b""),
            fields.get(b"orders", b""),
            fields.get(b"rejected", b""),
        )

    @property
    def last(self) -> int:
        """The last command of the call."""
        return sequence_of(self.id)

    @property
    def bytes(self) -> int:
        """The size of what an archive keeps of it."""
        return len(self.trade_lines) + len(self.order_lines)

    @property
    def trades(self) -> list[Trade]:
        """The trades, oldest first."""
        return codec.trades(self.card, self.trade_lines)

    @property
    def orders(self) -> list[Order]:
        """The orders that were completed, in order of their completion."""
        return codec.orders(self.card, self.order_lines)


def sequence_of(event_id: str) -> int:
    """The last command of the event with this id."""
    return int(event_id.partition("-")[0])


def check_contiguous(event: Event, reached: int) -> None:
    """That an event follows the command which its reader has reached.

    Raises:
        EventGap: it does not.
    """
    if event.first != reached + 1:
        raise EventGap(
            f"the archive of {event.card} stands at command {reached}, but the next event begins at {event.first}: "
            "what is between was trimmed, or the archive is an older one"
        )


class EventReader:
    """Reads one card's events after a position, more at a time while they are small."""

    def __init__(self, blocking: Redis, card: str, *, after: str, batch_bytes: int) -> None:
        self.card = card
        self.event_id = after
        """The last event that was read."""
        self.has_more = True
        """Whether the last read may have left something."""
        self._blocking: Any = blocking  # redis-py's types of stream replies admit shapes that its RESP2 never gives
        self._key = keys.key(card, "events")
        self._read_bytes = batch_bytes // READS_A_BATCH
        self._count = 1

    async def read(self, *, wait: bool) -> list[Event]:
        """The next events; none where there is none, if wanted after waiting for one.

        Raises:
            EventGap: the next event does not follow the last one.
            Unavailable: Redis does not answer.
        """
        with redis_errors():
            reply = await self._blocking.xread(
                {self._key: self.event_id}, count=self._count, block=BLOCK_MS if wait else None
            )
        if not reply:
            self.has_more = False
            return []
        ((_, entries),) = reply
        events = [Event.of(self.card, entry) for entry in entries]
        for event in events:
            check_contiguous(event, sequence_of(self.event_id))
            self.event_id = event.id
        self.has_more = len(events) == self._count
        largest = max(event.bytes for event in events)
        self._count = max(1, min(2 * self._count, ENTRIES_MAX, self._read_bytes // max(largest, 1)))
        return events
