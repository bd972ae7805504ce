"""What lately happened to traders' orders, from {card}:recent into the traders' lists (lua/parts/trader.lua).

There are its lines in buckets, one for all traders whose id ends with the same digits, and of each bucket the portions
that filing.py has put there. Here they are put in order of the traders, and lua/sort.lua enters them: unless somebody
has done that by then, so that several engines, or one that was killed, do nothing twice.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from engine import keys, library
from engine.connection import Command, packed

log = structlog.get_logger()

BUCKETS = 100
BUCKET_BYTES = 49_152
TURN_EVERY = 512
"""Whenever so many commands are done it is the next bucket's turn to be sorted, if it has grown to so many bytes by
then, or if that is not known; or as soon as it has twice as many. So they do not come all at once."""

BYTES_MIN, BYTES_A_TRADER = 8_192, 4_096
"""Where a bucket has few traders it is due earlier, with so many bytes more for each: there are enough lines of each
for an RPUSH, and whoever reads its orders reads them all."""

PORTIONS_MAX = 100
"""A bucket is sorted, however small, when it has so many portions at its turn, which comes with every hundredth of
them: whoever reads a trader's orders looks for each."""

PORTIONS_AT_ONCE = 128
BUCKETS_AT_ONCE = 8
"""Of a card in a transaction: what four match calls make."""


def arguments(digits: bytes, first: int, last: int, texts: Iterable[bytes]) -> list[Any]:
    """The arguments of the call that enters the portions of a bucket after one up to another. `texts`: their lines,
    which begin with `<sequence>,<trader>,`."""
    lines: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for text in texts:
        for line in text.splitlines(keepends=True):
            lines[line.split(b",", 2)[1]].append(line)
    sizes = b"".join(b"%b %d " % (trader, len(of_trader)) for trader, of_trader in lines.items())
    return [digits, first, last, sizes, *(b"".join(of_trader) for of_trader in lines.values())]


def _digits(number: int) -> set[bytes]:
    """The buckets whose turn has this number."""
    return {b"%02d" % (number % BUCKETS), b"%d" % (number % BUCKETS)}


@dataclass(slots=True)
class _Bucket:
    """`seen`: how many portions there were before any that this engine has filed; `last`: how many there are; `sorted`:
    up to which one, if known; `size`: bytes after `seen`, and after what is read."""

    seen: int
    sorted: int | None = None
    last: int = 0
    size: int = 0
    size_max: int = 2 * BUCKET_BYTES


class Sorting:
    """Of one card: the buckets that are due, and those that are read. What a restart forgets is learned again at a
    bucket's turn."""

    def __init__(self, card: str) -> None:
        self._card = card
        self._buckets: dict[bytes, _Bucket] = {}
        self._turn: int | None = None
        self._due: dict[bytes, None] = {}  # in turn
        self._read: dict[bytes, tuple[int, int, list[bytes]]] = {}

    @property
    def is_due(self) -> bool:
        """Whether there is something to read."""
        return bool(self._due)

    @property
    def has_read(self) -> bool:
        """Whether there is something to write."""
        return bool(self._read)

    def grown(self, sequence: int, portion: int, sizes: Mapping[bytes, int]) -> None:
        """What happened up to this sequence is filed in this portion: these buckets have so many bytes more."""
        for digits, size in sizes.items():
            bucket = self._buckets.setdefault(digits, _Bucket(portion - 1))
            bucket.last = portion
            bucket.size += size
            if bucket.size > bucket.size_max:
                self._due[digits] = None
        turn = sequence // TURN_EVERY
        for number in range(max(turn if self._turn is None else self._turn, turn - BUCKETS) + 1, turn + 1):
            for digits in _digits(number):
                at_turn = self._buckets.get(digits)
                if at_turn and at_turn.size > (0 if at_turn.sorted is None else BUCKET_BYTES):
                    self._due[digits] = None
        for digits in _digits(portion):
            at_turn = self._buckets.setdefault(digits, _Bucket(portion))
            at_turn.last = portion
            if at_turn.last - (at_turn.sorted or 0) >= PORTIONS_MAX:
                self._due[digits] = None
        self._turn = turn

    def reads(self) -> list[Command]:
        """What reads buckets that are due; each command with what takes its reply."""
        commands = []
        for digits in list(self._due)[:BUCKETS_AT_ONCE]:
            del self._due[digits]
            bucket = self._buckets[digits]
            if bucket.sorted is None:
                commands.append(self._ask(digits, bucket))
            elif bucket.sorted < bucket.last:
                commands.append(self._get(digits, bucket, bucket.sorted))
        return commands

    def writes(self) -> list[Command]:
        """What enters what was read, sorted here."""
        commands = [self._enter(digits, *read) for digits, read in self._read.items()]
        self._read = {}
        return commands

    def _ask(self, digits: bytes, bucket: _Bucket) -> Command:
        """Up to which portion it is sorted."""

        def take(reply: Any) -> None:
            if isinstance(reply, Exception):
                self._forget(digits, reply)
            else:
                bucket.sorted = int(reply or 0)
                unknown, portions = bucket.sorted < bucket.seen, bucket.last - bucket.sorted
                if unknown or portions >= PORTIONS_MAX or bucket.size > BUCKET_BYTES:
                    self._due[digits] = None

        return packed("HGET", keys.key(self._card, "recent"), digits), take

    def _get(self, digits: bytes, bucket: _Bucket, first: int) -> Command:
        """The portions after that one."""
        last = min(bucket.last, first + PORTIONS_AT_ONCE)
        bucket.size = 0

        def take(reply: Any) -> None:
            if isinstance(reply, Exception):
                self._forget(digits, reply)
            elif self._buckets.get(digits) is bucket and bucket.sorted == first:
                self._read[digits] = (first, last, [text for text in reply if text])
                if last < bucket.last:
                    self._due[digits] = None

        portions = [b"%b:%d" % (digits, portion) for portion in range(first + 1, last + 1)]
        return packed("HMGET", keys.key(self._card, "recent"), *portions), take

    def _enter(self, digits: bytes, first: int, last: int, texts: list[bytes]) -> Command:
        sorting = arguments(digits, first, last, texts)
        traders = len(sorting) - 4
        bucket = self._buckets[digits]
        bucket.sorted = last  # where it is read from on; if the call is refused, the next one will be as well

        def take(reply: Any) -> None:
            if reply == 1:
                bucket.size_max = min(2 * BUCKET_BYTES, BYTES_MIN + traders * BYTES_A_TRADER)
            else:
                self._forget(digits, reply)

        return packed("FCALL", "sort", 1, keys.tag(self._card), *sorting), take

    def _forget(self, digits: bytes, reply: Any) -> None:
        """Somebody else has sorted this bucket, or it cannot be done: it will be its turn again."""
        self._buckets.pop(digits, None)
        self._due.pop(digits, None)
        self._read.pop(digits, None)
        if isinstance(reply, Exception) and not library.is_missing(reply):  # an empty server has nothing to sort
            log.warning("traders' orders are left unsorted", card=self._card, bucket=digits.decode(), reason=str(reply))
