"""What lately happened to traders' orders, from the events that match writes to {card}:recent (lua/parts/trader.lua).

The engine reads the events behind its match calls and enters their lines in a hundred buckets, one for all traders
whose id ends with the same digits. Later they are sorted into the traders' lists (sorting.py). Whoever reads a trader's
orders looks at the events that are not filed yet, too: nobody waits for any of this.
"""

import time
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import structlog
from redis.exceptions import ResponseError, WatchError

from engine import keys
from engine.connection import Command, Part, Take, packed, transaction
from engine.errors import reason
from engine.log_limit import LimitedLog
from engine.sorting import Sorting

log = structlog.get_logger()
limited = LimitedLog(log)

COMMANDS_MIN = 512
"""As many commands of a card are filed together: they make a hundred portions, however few they are."""

ENTRIES_MIN, ENTRIES_MAX = 4, 128
READ_BYTES = 2_097_152
"""Of a card's events, about so much is read and filed at once; but not fewer than come meanwhile."""

FAILED_SECONDS = 1.0
"""For how long a card is not filed after it could not be: memory may be full, or the server a replica."""

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


def entry(card: str, reached: Position, buckets: dict[bytes, bytes]) -> bytes:
    """The command that files these lines, the next portion of each bucket, up to a position."""
    portions = [part for bucket, lines in buckets.items() for part in (b"%b:%d" % (bucket, reached.portions), lines)]
    return packed("HSET", keys.key(card, "recent"), "filed", bytes(reached), *portions)


class Filing:
    """Of one card. It is done in visits of two parts, with the replies to the first in between: `reads` begins with a
    `WATCH` of {card}:recent, `writes` is a transaction, which Redis refuses where somebody else has written to that
    since. So several engines, or one that was killed, do nothing twice. `EXEC` ends all that a connection watches: one
    visit at a time."""

    def __init__(self, card: str) -> None:
        self._card = card
        self._sorting = Sorting(card)
        self._position: Position | None = None  # as far as known
        self._portions = 0  # how many there were at the last position
        self._count = ENTRIES_MIN
        self._watches = False
        self._read: list[tuple[bytes, list[bytes]]] = []
        self._unanswered = 0
        self._again_at = 0.0
        self.is_visited = False
        """Whether `writes` is to come."""
        self.waiting = COMMANDS_MIN
        """How many matched commands are not read, as far as known; at first enough to look."""

    @property
    def is_due(self) -> bool:
        """Whether there is something to read now; for a while after a failure there is nothing."""
        if self._again_at and time.monotonic() < self._again_at:
            return False
        return self.waiting >= COMMANDS_MIN or self._sorting.is_due or bool(self._position and self._sorting.refused)

    @property
    def is_read(self) -> bool:
        """Whether all replies to `reads` are here."""
        return not self._unanswered

    def matched(self, commands: int) -> None:
        """So many commands more are matched."""
        self.waiting += commands

    def flush(self) -> None:
        """Files everything that waits, however little: nothing else is to be done."""
        if self.waiting:
            self.waiting = max(self.waiting, COMMANDS_MIN)

    def reads(self) -> list[Command]:
        """What begins a visit, and reads events, buckets and lists that are due; each command with what takes its
        reply."""
        self.is_visited = True
        recent = keys.key(self._card, "recent")
        commands: list[Command] = [
            (packed("WATCH", recent), self._take_watch),
            (packed("HGET", recent, "filed"), self._take_position),
        ]
        if self._position and self.waiting >= COMMANDS_MIN:
            commands.append(self._events(self._position))
        commands += self._sorting.reads()
        self._unanswered = len(commands)
        return [(command, self._answered(take)) for command, take in commands]

    def _answered(self, take: Take) -> Take:
        def take_and_count(reply: Any) -> None:
            self._unanswered -= 1
            take(reply)

        return take_and_count

    def writes(self) -> list[Command]:
        """What files and sorts what was read, and ends the visit."""
        self.is_visited = False
        parts = self._sorting.writes()
        if self._position and (self._read or self._sorting.refused):
            parts.insert(0, self._file(self._position))
        if self._watches:
            return transaction(parts)
        for _, take in parts:  # nothing is sure without it
            take(ResponseError("it cannot be watched"))
        return []

    def _take_watch(self, reply: Any) -> None:
        self._watches = reply == b"OK"

    def _take_position(self, reply: Any) -> None:
        """How far the card is filed; mostly what is known already."""
        if isinstance(reply, Exception):
            self._begin_anew(reply)
        elif Position.of(reply) != self._position:
            self._is_at(Position.of(reply))

    def _events(self, position: Position) -> Command:
        """Those after a position, about `READ_BYTES` of them."""
        count, waiting = self._count, self.waiting

        def take(reply: Any) -> None:
            if isinstance(reply, Exception):
                self._begin_anew(reply)
            if isinstance(reply, Exception) or position != self._position:
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

    def _file(self, before: Position) -> Part:
        texts, refused = [text for _, of_event in self._read for text in of_event], self._sorting.refused
        buckets = by_bucket([*texts, *refused])
        sizes = dict.fromkeys(buckets, 0)  # what was refused makes none due: it would be refused again, and at once
        sizes |= {bucket: len(lines) for bucket, lines in (by_bucket(texts) if refused else buckets).items()}
        reached = Position(self._read[-1][0] if self._read else before.event_id, before.portions + 1)
        self._read, self._sorting.refused = [], []
        self._is_at(reached)  # it is read from there on; if the transaction fails, the next one begins there again

        def take(replies: list[Any] | Exception) -> None:
            error = replies if isinstance(replies, Exception) else replies[0]
            if isinstance(error, Exception):
                self._sorting.refused += refused
                self._begin_anew(error)
            else:
                self._sorting.grown(_sequence(reached.event_id), reached.portions, sizes)

        return [entry(self._card, reached, buckets)], take

    def _is_at(self, position: Position) -> None:
        if position.portions < self._portions:  # the server was emptied
            self._sorting = Sorting(self._card)
        self._position, self._portions = position, position.portions

    def _begin_anew(self, error: Exception) -> None:
        """At once where somebody else has been there; else after a while, when more has come together, or nothing else
        is to be done."""
        self._position, self._read = None, []
        if isinstance(error, WatchError):
            self.waiting = max(COMMANDS_MIN, self.waiting)
        else:
            limited.warning("what happened to traders' orders is filed later", card=self._card, reason=reason(error))
            self.waiting = 1
            self._again_at = time.monotonic() + FAILED_SECONDS


def _sequence(event_id: bytes) -> int:
    return int(event_id.partition(b"-")[0])


class Filings:
    """Of all cards of a server, in turn. They go along with match calls: behind a round of these, what one card has to
    write, and what the next one has to read, and so on around. What a card writes is one transaction, so that it takes
    one fsync, or none of its own."""

    def __init__(self, cards: Iterable[str]) -> None:
        self._filings = {card: Filing(card) for card in cards}
        self._turns = deque(self._filings.values())

    def __bool__(self) -> bool:
        """Whether there is something to do now."""
        return any(filing.is_due or filing.is_visited for filing in self._turns)

    @property
    def wait(self) -> bool:
        """Whether something is not filed, if only a little."""
        return any(filing.waiting for filing in self._turns)

    def matched(self, card: str, commands: int) -> None:
        """A match call has taken so many commands."""
        self._filings[card].matched(commands)

    def flush(self, *, all_cards: bool) -> None:
        """Files everything that waits, however little: nothing else is to be done. Of all cards: what other engines
        may have left, too."""
        for filing in self._turns:
            if all_cards:
                filing.waiting = max(filing.waiting, 1)
            filing.flush()

    def commands(self) -> list[Command]:
        """What is to be sent behind match calls, each with what takes its reply: what ends the visit of one card, once
        what it read is here, or else begins that of the next one."""
        last = self._turns[-1]
        if last.is_visited and not last.is_read:
            return []
        commands = last.writes() if last.is_visited else []
        for _ in self._filings:
            self._turns.rotate(-1)
            if self._turns[-1].is_due:
                return commands + self._turns[-1].reads()
        return commands
