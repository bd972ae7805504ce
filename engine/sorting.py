"""What lately happened to traders' orders, from {card}:recent into the traders' lists (lua/parts/trader.lua).

There are its lines in buckets, one for all traders whose id ends with the same digits, and of each bucket the portions
that filing.py has put there. Here they are put in order of the traders and pushed to their lists, and lists that have
become long are cut; all in the transaction of a visit (filing.py), so that several engines, or one that was killed, do
nothing twice.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import WatchError

from engine import keys, library
from engine.connection import Command, Part, packed
from engine.errors import reason
from engine.log_limit import LimitedLog
from engine.model import LATEST

log = structlog.get_logger()
limited = LimitedLog(log)

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
BUCKETS_AT_ONCE = 16
LISTS_AT_ONCE = 64
"""Of a card in a visit: what a few match calls make."""

TEXTS_MAX = 16
LINES_MAX = 3 * LATEST
"""A list is cut when it has more texts, or would have more lines if all its texts had as many as the newest."""

OLDER_MAX = 2 * LATEST
"""Completed orders are dropped from a trader's older ones when these become so many, or twice, four times as many: that
costs what there are, so it has to become rarer as more of them stay open."""

SEQUENCE_DIGITS = 12
RESTED_BYTES_MAX = 24
"""Of the line of an order that came to rest: sequence, trader, two commas."""


def by_trader(texts: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    """The lines of each trader. `texts`: lines that begin with `<sequence>,<trader>,`."""
    lines: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for text in texts:
        for line in text.splitlines(keepends=True):
            lines[line.split(b",", 2)[1]].append(line)
    return lines


def pushes(card: str, digits: bytes, first: int, last: int, lines: Mapping[bytes, Sequence[bytes]]) -> list[bytes]:
    """The commands that push these lines of a bucket, those of its portions after one up to another, to the lists of
    their traders, one each, and drop the portions."""
    recent, lists = keys.key(card, "recent"), keys.key(card, "trader:").encode()
    commands = [packed("RPUSH", lists + trader, b"".join(of_trader)) for trader, of_trader in lines.items()]
    if first < last:
        commands.append(packed("HDEL", recent, *_portions(digits, first, last)))
    return [*commands, packed("HSET", recent, digits, last)]


def cut(texts: Iterable[bytes]) -> tuple[bytes, list[bytes]]:
    """What stays of a trader's list, as one text: the latest orders, by sequence; and the sequences of the others, as
    far as it does not say that they are completed."""
    known: dict[bytes, bytes] = {}
    for line in b"".join(texts).splitlines():
        sequence = line[:SEQUENCE_DIGITS]
        if len(line) > RESTED_BYTES_MAX:
            known[sequence] = line
        else:
            known.setdefault(sequence, sequence)
    sequences = sorted(known)
    stays, goes = sequences[-LATEST:], sequences[:-LATEST]
    return b"".join(known[sequence] + b"\n" for sequence in stays), [one for one in goes if known[one] == one]


def _portions(digits: bytes, first: int, last: int) -> list[bytes]:
    return [b"%b:%d" % (digits, portion) for portion in range(first + 1, last + 1)]


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
        self._long: dict[bytes, None] = {}  # traders whose lists are to be cut
        self._read_lists: dict[bytes, list[bytes]] = {}
        self._long_older: dict[bytes, None] = {}  # traders whose older orders are to be looked at
        self.refused: list[bytes] = []
        """Lines that could not be pushed to a list; they are to be filed again."""

    @property
    def is_due(self) -> bool:
        """Whether there is something to read."""
        return bool(self._due or self._long)

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
        """What reads buckets that are due, and lists that have become long; each command with what takes its reply."""
        due = list(self._due)[:BUCKETS_AT_ONCE]
        commands = [self._ask(due)] if due else []
        for digits in due:
            del self._due[digits]
            bucket = self._buckets[digits]
            if bucket.sorted is not None and bucket.sorted < bucket.last:
                commands.append(self._get(digits, bucket, bucket.sorted))
        for trader in list(self._long)[:LISTS_AT_ONCE]:
            del self._long[trader]
            commands.append(self._get_list(trader))
        return commands

    def writes(self) -> list[Part]:
        """What cuts the lists that were read, and enters the buckets that were, sorted here."""
        parts = [self._cut(trader, texts) for trader, texts in self._read_lists.items()]
        parts += [self._enter(digits, *read) for digits, read in self._read.items()]
        parts += [self._trim_older(trader) for trader in self._long_older]
        self._read, self._read_lists, self._long_older = {}, {}, {}
        return parts

    def _ask(self, due: list[bytes]) -> Command:
        """Up to which portions these are sorted."""

        def take(reply: Any) -> None:
            if isinstance(reply, Exception):
                for digits in due:
                    self._forget(digits, reply)
                return
            for digits, stored in zip(due, reply, strict=True):
                bucket = self._buckets.get(digits)
                if bucket and bucket.sorted != int(stored or 0):
                    self._learn(digits, bucket, int(stored or 0))

        return packed("HMGET", keys.key(self._card, "recent"), *due), take

    def _learn(self, digits: bytes, bucket: _Bucket, stored: int) -> None:
        """A bucket is sorted up to this portion, and that is news: somebody else has done it, or an engine before."""
        if bucket.sorted is None:
            bucket.sorted = stored
            unknown, portions = stored < bucket.seen, bucket.last - stored
            if unknown or portions >= PORTIONS_MAX or bucket.size > BUCKET_BYTES:
                self._due[digits] = None
        else:
            self._forget(digits, None)

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

        return packed("HMGET", keys.key(self._card, "recent"), *_portions(digits, first, last)), take

    def _enter(self, digits: bytes, first: int, last: int, texts: list[bytes]) -> Part:
        lines = by_trader(texts)
        bucket = self._buckets[digits]
        bucket.sorted = last  # where it is read from on; if the transaction fails, the next one will as well

        def take(replies: list[Any] | Exception) -> None:
            if isinstance(replies, Exception):
                self._forget(digits, replies)
                return
            bucket.size_max = min(2 * BUCKET_BYTES, BYTES_MIN + len(lines) * BYTES_A_TRADER)
            for (trader, of_trader), length in zip(lines.items(), replies, strict=False):
                if self._failed("what happened to a trader's orders cannot be listed", trader, length):
                    self.refused += of_trader
                elif length > TEXTS_MAX or length * len(of_trader) > LINES_MAX:
                    self._long[trader] = None

        return pushes(self._card, digits, first, last, lines), take

    def _get_list(self, trader: bytes) -> Command:
        def take(reply: Any) -> None:
            if not self._failed("a trader's list is left long", trader, [reply]):
                self._read_lists[trader] = reply

        return packed("LRANGE", keys.key(self._card, "trader:").encode() + trader, 0, -1), take

    def _cut(self, trader: bytes, texts: list[bytes]) -> Part:
        """Leaves the latest orders in a trader's list, and puts older ones that may be open where they are found."""
        key, older_key = (keys.key(self._card, part).encode() + trader for part in ("trader:", "older:"))
        stays, older = cut(texts)

        def take(replies: Any) -> None:
            if self._failed("a trader's list is left long", trader, replies) or not older:
                return
            length, bound = replies[-1], OLDER_MAX
            while 2 * bound <= length:
                bound *= 2
            if length - len(older) < bound <= length:
                self._long_older[trader] = None

        commands = [packed("DEL", key), packed("RPUSH", key, stays)]
        return [*commands, packed("RPUSH", older_key, *older)] if older else commands, take

    def _trim_older(self, trader: bytes) -> Part:
        def take(replies: list[Any] | Exception) -> None:
            self._failed("a trader's older orders are not looked at", trader, replies)

        return [packed("FCALL", "trim_older", 1, keys.tag(self._card), trader)], take

    def _forget(self, digits: bytes, error: Exception | None) -> None:
        """Somebody else has sorted this bucket, or it cannot be done: it will be its turn again."""
        self._buckets.pop(digits, None)
        self._due.pop(digits, None)
        self._read.pop(digits, None)
        if error and not isinstance(error, WatchError):
            limited.warning(
                "traders' orders are left unsorted", card=self._card, bucket=digits.decode(), reason=reason(error)
            )

    def _failed(self, what: str, trader: bytes, replies: Any) -> bool:
        """Whether there is an error among these replies (or in their place), and says so, unless it is one of two
        engines or of an empty server."""
        errors = [
            reply for reply in (replies if isinstance(replies, list) else [replies]) if isinstance(reply, Exception)
        ]
        for error in errors:
            if not isinstance(error, WatchError) and not library.is_missing(error):
                limited.warning(what, card=self._card, trader=int(trader), reason=reason(error))
        return bool(errors)
