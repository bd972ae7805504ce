"""The events of a card: the result of each match call, in order and without gaps. docs/data.md has the format."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis

from core.errors import TcgxError
from core.model import Order, Reason, Trade
from engine import codec, keys
from engine.connection import BLOCK_MS, redis_errors

ENTRIES_MAX = 64
LOG_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}", re.ASCII)
READS_A_BATCH = 4
"""A batch of the archiver consists of about this many reads."""


class EventGap(TcgxError):
    """Events after the position of a reader have been trimmed. The reader of the card stops."""


class EventDamaged(EventGap):
    """An event has not the form that a match call writes. The reader of the card stops in front of it."""


_TIME = rb"\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d\.\d{3}Z"
_NUMBER, _SEQUENCE, _SIDE = rb"[1-9]\d{0,9}", rb"\d{12}", rb"(?:buy|sell)"
_TIME_IN_FORCE = rb"(?:gtc(?:/p?/\d{0,12}/\d{0,10})?|ioc|fok)"
_CLIENT = rb"[A-Za-z0-9._:-]{0,64}+"
TRADE_LINES = re.compile(
    rb"(?:" + b",".join([*[_SEQUENCE] * 3, *[_NUMBER] * 4, _SIDE, _TIME]) + rb"\n)*+",
)
ORDER_LINES = re.compile(
    rb"(?:"
    + b",".join([_SEQUENCE, _NUMBER, _SIDE, _NUMBER, _NUMBER, _TIME_IN_FORCE, _CLIENT, _TIME, rb"\d{1,10}"])
    + rb",(?:filled|canceled|expired)(?:/(?:"
    + "|".join(Reason).encode()
    + rb")/\d{0,12})?,"
    + _TIME
    + rb"\n)*+",
)
"""The form of the lines of an event. The archiver copies lines as they are, so each must be a row."""


class Amendment(NamedTuple):
    """A replace whose order kept its place: the sequences of both, and the quantity of the order before and after."""

    sequence: int
    target: int
    before: int
    after: int


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
    """The orders that came to rest, were partly filled or were reduced, and rest. None if nobody watched orders of the
    card."""
    amended_lines: bytes = b""
    """The replaces whose orders kept their place; empty if there is none, or nobody watched orders of the card."""

    @classmethod
    def of(cls, card: str, entry: tuple[bytes, Mapping[bytes, bytes]]) -> "Event":
        """Decodes a stream entry.

        Raises:
            EventDamaged: no match call has written the entry.
        """
        entry_id, fields = entry
        try:
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
                fields.get(b"amended", b""),
            )
        except (KeyError, ValueError) as error:
            raise EventDamaged(
                f"event {entry_id.decode()} of {card} is damaged: {type(error).__name__} {error}"
            ) from None

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
    def amendments(self) -> list[Amendment]:
        """The replaces whose orders kept their place, in the order of the log."""
        return [Amendment(*map(int, line.split(b","))) for line in self.amended_lines.splitlines()]

    @property
    def orders(self) -> list[Order]:
        """The completed orders, in order of completion."""
        return codec.orders(self.card, self.order_lines)


def check_form(event: Event) -> None:
    """Checks that every line of an event is a row of the archive.

    Raises:
        EventDamaged: a line has another form, or the event ends before it begins.
    """
    if event.last < event.first - 1:
        raise EventDamaged(f"event {event.id} of {event.card} is damaged: it begins at command {event.first}")
    if not LOG_ID.fullmatch(event.log_id):
        raise EventDamaged(f"event {event.id} of {event.card} is damaged: its log id is no id")
    for name, lines, form in (("trade", event.trade_lines, TRADE_LINES), ("order", event.order_lines, ORDER_LINES)):
        if not form.fullmatch(lines):
            good = form.match(lines)
            number = lines.count(b"\n", 0, good.end() if good else 0) + 1
            raise EventDamaged(f"event {event.id} of {event.card} is damaged: {name} line {number} is no row")


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
            EventGap: events before the next one are missing, or it is damaged.
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
            check_form(event)
            self.event_id = event.id
        self.has_more = len(events) == self._count
        largest = max(event.bytes for event in events)
        self._count = max(1, min(2 * self._count, ENTRIES_MAX, self._read_bytes // max(largest, 1)))
        return events
