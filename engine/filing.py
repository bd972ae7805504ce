"""What lately happened to traders' orders, from the events that match writes to {card}:recent (lua/parts/trader.lua).

The engine reads the events behind its match calls and puts their lines in a hundred buckets, one for all traders whose
id ends with the same digits; lua/file.lua enters these portions, unless somebody has done that by then, so that several
engines, or one that was killed, do nothing twice. Later they are sorted into the traders' lists (sorting.py). Whoever
reads a trader's orders looks at the events that are not filed yet, too: nobody waits for any of this.
"""

from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import structlog

from engine import keys, library
from engine.connection import Command, packed, together
from engine.sorting import Sorting

log = structlog.get_logger()

COMMANDS_MIN = 512
"""As many commands of a card are filed together: they make a hundred portions, however few they are."""

ENTRIES_MIN, ENTRIES_MAX = 4, 128
READ_BYTES = 786_432
"""Of a card's events, about so much is read and filed at once; but not fewer than come meanwhile."""

COMMANDS_A_CARD = 16_000
"""For as many commands that wait in all cards, one more of them has its turn at once."""

LINES_OF = (b"rested", b"orders")


class Position(NamedTuple):
    """How far a card is filed: the last event that is, and in how many portions."""

    event_id: bytes = b"0-0"
    portions: int = 0

    @classmethod
    def of(cls, stored: bytes | None) -> "Position":
        """From the field `filed`."""
        event_id, portions = (stored or b"0-0 0").split()
        return cls(event_id, int(portions))

    def __bytes__(self) -> bytes:
        return b"%b %d" % (self.event_id, self.portions)


def by_bucket(texts: Iterable[bytes]) -> dict[bytes, bytes]:
    """The lines of each bucket as one text. `texts`: lines that begin with `<sequence>,<trader>,`."""
    buckets: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for text in texts:
        for line in text.splitlines(keepends=True):
            buckets[line.split(b",", 2)[1][-2:]].append(line)
    return {bucket: b"".join(lines) for bucket, lines in buckets.items()}


def arguments(before: Position, reached: Position, buckets: dict[bytes, bytes]) -> list[bytes]:
    """The arguments of the call that files these lines, from one position to the next."""
    portions = [part for bucket, lines in buckets.items() for part in (b"%b:%d" % (bucket, reached.portions), lines)]
    return [bytes(before), b"filed", bytes(reached), *portions]


class Filing:
    """Of one card. What it reads is filed and sorted by the next `writes`."""

    def __init__(self, card: str) -> None:
        self._card = card
        self._sorting = Sorting(card)
        self._position: Position | None = None  # as far as known; asked for where it is not
        self._is_sure = False  # it was asked for, and nothing has been filed since
        self._portions = 0  # how many there were at the last position
        self._count = ENTRIES_MIN
        self._reading = False
        self._read: list[tuple[bytes, list[bytes]]] = []
        self.waiting = COMMANDS_MIN
        """How many matched commands are not read, as far as known; at first enough to look."""

    @property
    def is_due(self) -> bool:
        """Whether there is something to read now."""
        return self._is_waiting() or self._sorting.is_due

    def _is_waiting(self) -> bool:
        return self.waiting >= COMMANDS_MIN and not self._reading

    @property
    def has_read(self) -> bool:
        """Whether there is something to write."""
        return bool(self._read) or self._sorting.has_read

    def flush(self) -> None:
        """Files everything that waits, however little: nothing else is to be done."""
        if self.waiting:
            self.waiting = max(self.waiting, COMMANDS_MIN)

    def reads(self) -> list[Command]:
        """What reads events and buckets that are due; each command with what takes its reply."""
        if not self._is_waiting():
            return self._sorting.reads()
        self._reading = True
        return [self._events(self._position) if self._position else self._ask(), *self._sorting.reads()]

    def writes(self) -> list[Command]:
        """What files and sorts what was read."""
        return ([self._file()] if self._read else []) + self._sorting.writes()

    def _ask(self) -> Command:
        """How far the card is filed."""

        def take(reply: Any) -> None:
            self._reading = False
            if isinstance(reply, Exception):
                self._begin_anew(reply)
            else:
                self._is_at(Position.of(reply))
                self._is_sure = True

        return packed("HGET", keys.key(self._card, "recent"), "filed"), take

    def _events(self, position: Position) -> Command:
        """Those after a position, about `READ_BYTES` of them."""
        count, waiting = self._count, self.waiting

        def take(reply: Any) -> None:
            self._reading = False
            if isinstance(reply, Exception):
                self._begin_anew(reply)
            if isinstance(reply, Exception) or position != self._position:
                return
            if not reply and not self._is_sure:  # the position may be one of before the server was emptied
                self._position = None
                return
            self._read = [
                (event_id, [fields[at + 1] for at in range(0, len(fields), 2) if fields[at] in LINES_OF])
                for event_id, fields in reply
            ]
            if len(reply) < count:
                self.waiting = max(0, self.waiting - waiting)
            else:
                covered = _sequence(reply[-1][0]) - _sequence(position.event_id)
                self.waiting = max(COMMANDS_MIN, self.waiting - covered)
            largest = max((sum(map(len, fields)) for _, fields in reply), default=0)
            self._count = max(ENTRIES_MIN, min(2 * count, ENTRIES_MAX, READ_BYTES // max(largest, 1)))

        events = keys.key(self._card, "events")
        return packed("XRANGE", events, b"(" + position.event_id, "+", "COUNT", count), take

    def _file(self) -> Command:
        entries, self._read = self._read, []
        before = self._position or Position()
        reached = Position(entries[-1][0], before.portions + 1)
        buckets = by_bucket(text for _, texts in entries for text in texts)
        self._is_at(reached)  # it is read from there on; if the call is refused, the next one will be as well

        def take(reply: Any) -> None:
            if isinstance(reply, Exception):
                self._begin_anew(reply)
            elif reply == bytes(reached):
                sizes = {bucket: len(lines) for bucket, lines in buckets.items()}
                self._sorting.grown(_sequence(reached.event_id), reached.portions, sizes)
            else:  # somebody else has filed these events
                self._is_at(Position.of(reply))
                self._read = []
                self.waiting = max(COMMANDS_MIN, self.waiting)

        return packed("FCALL", "file", 1, keys.tag(self._card), *arguments(before, reached, buckets)), take

    def _is_at(self, position: Position) -> None:
        if position.portions < self._portions:  # the server was emptied
            self._sorting = Sorting(self._card)
        self._position, self._portions, self._is_sure = position, position.portions, False

    def _begin_anew(self, error: Exception) -> None:
        """When more has come together, or nothing else is to be done."""
        if not library.is_missing(error):  # an empty server has nothing to file
            log.warning("what happened to traders' orders is filed later", card=self._card, reason=str(error))
        self._position, self._read, self.waiting = None, [], 1


def _sequence(event_id: bytes) -> int:
    return int(event_id.partition(b"-")[0])


class Filings:
    """Of all cards of a server, in turn. They go along with match calls: behind each round of these, what one card has
    to write, and what the next one has to read, and so on around. What a card writes is one transaction, so that it
    takes one fsync, or none of its own."""

    def __init__(self, cards: Iterable[str]) -> None:
        self._filings = {card: Filing(card) for card in cards}
        self._turns = deque(self._filings.values())

    def __bool__(self) -> bool:
        """Whether there is something to do now."""
        return any(filing.is_due or filing.has_read for filing in self._turns)

    @property
    def wait(self) -> bool:
        """Whether something is not filed, if only a little."""
        return any(filing.waiting for filing in self._turns)

    def matched(self, card: str, commands: int) -> None:
        """A match call has taken so many commands."""
        self._filings[card].waiting += commands

    def flush(self, *, all_cards: bool) -> None:
        """Files everything that waits, however little: nothing else is to be done. Of all cards: what other engines
        may have left, too."""
        for filing in self._turns:
            if all_cards:
                filing.waiting = max(filing.waiting, 1)
            filing.flush()

    def commands(self) -> list[Command]:
        """What is to be sent behind match calls, each with what takes its reply: first what reads."""
        writes = [command for filing in self._turns if filing.has_read for command in together(filing.writes())]
        reads: list[Command] = []
        cards = 1 + sum(filing.waiting for filing in self._turns) // COMMANDS_A_CARD
        for _ in self._filings:
            if cards and self._turns[0].is_due:
                reads += self._turns[0].reads()
                cards -= 1
            self._turns.rotate(-1)
            if not cards:
                break
        return reads + writes
