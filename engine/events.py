"""The events of a card: the result of each match call, in order and without gaps. docs/data.md has the format."""

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
"""A batch of the archiver consists of about this many reads."""


class EventGap(TcgxError):
    """Events after the position of a reader have been trimmed. The reader of the card stops."""


class Event(msgspec.Struct, frozen=True):
    """The result of one match call over the commands `first` to `last`, up to the log entry `log_id`.

    Each line of trades, completed orders and rejected entries ends with a newline.
    """

    card: str
    id: str
    first: int
    log_id: str
    trade_lines: bytes
    order_lines: bytes
    rejected_lines: bytes
    level_text: bytes | None = None
    """The price levels that changed: price and new quantity in turn, of bids, then after a `;` of asks. None if nobody
    watched the card."""
    opened_lines: bytes | None = None
    """The orders that came to rest or were partly filled, and rest. None if nobody watched orders of the card."""

    @classmethod
    def of(cls, card: str, entry: tuple[bytes, Mapping[bytes, bytes]]) -> "Event":
        """Decodes a stream entry."""
        entry_id, fields = entry
        return cls(
            card,
            entry_id.decode(),
            int(fields[b"first"]),
            fields[b"log"].decode(),
            fields.get(b"trades", b""),
            fields.get(b"orders", b""),
            fields.get(b"rejected", b""),
            fields.get(b"levels"),
            fields.get(b"opened"),
        )

    @property
    def last(self) -> int:
        """The sequence of the last command."""
        return sequence_of(self.id)

    @property
    def bytes(self) -> int:
        """The size of the lines that the archive keeps."""
        return len(self.trade_lines) + len(self.order_lines)

    @property
    def trades(self) -> list[Trade]:
        """The trades, oldest first."""
        return codec.trades(self.card, self.trade_lines)

    @property
    def orders(self) -> list[Order]:
        """The completed orders, in order of completion."""
        return codec.orders(self.card, self.order_lines)


def sequence_of(event_id: str) -> int:
    """The last command of the event that has this id."""
    return int(event_id.partition("-")[0])


def check_contiguous(event: Event, reached: int) -> None:
    """Checks that an event begins directly after the last command of its reader.

    Raises:
        EventGap: commands in between are missing.
    """
    if event.first != reached + 1:
        raise EventGap(
            f"the archive of {event.card} stands at command {reached}, but the next event begins at {event.first}: "
            "what is between was trimmed, or the archive is an older one"
        )


class EventReader:
    """Reads the events of a card after a position. The number per read grows while events are small."""

    def __init__(self, blocking: Redis, card: str, *, after: str, batch_bytes: int) -> None:
        self.card = card
        self.event_id = after
        """The id of the last event that was read."""
        self.has_more = True
        """Whether Redis may have further events."""
        self._blocking: Any = blocking  # redis-py's types of stream replies admit shapes that its RESP2 never gives
        self._key = keys.key(card, "events")
        self._read_bytes = batch_bytes // READS_A_BATCH
        self._count = 1

    async def read(self, *, wait: bool) -> list[Event]:
        """The next events, possibly none. `wait`: blocks for up to `BLOCK_MS` until there is one.

        Raises:
            EventGap: events before the next one are missing.
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
