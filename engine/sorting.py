"""What lately happened to traders' orders, from the buckets that match writes into the traders' lists.

Each match call appends its lines to a hundred texts, one for all traders whose id ends with the same digits
(lua/parts/trader.lua). Here such a text is put in order of its traders, and lua/sort.lua enters it: unless the bucket
is another by then, so that several engines, or one that was killed, do nothing twice.
"""

from collections.abc import Sequence
from typing import Any

import structlog

from engine import keys, library
from engine.connection import packed

log = structlog.get_logger()

BYTES_AT_ONCE = 131_072
"""Of a bucket: what it has when it is due at once, and some more. One with more than that is sorted in steps."""

BUCKETS_AT_ONCE = 8
"""In a round trip: what four match calls make."""


def arguments(bucket: bytes, text: bytes) -> list[Any]:
    """The arguments of the call that enters what a bucket begins with. `text`: its first bytes, lines that
    begin with `<sequence>,<trader>,`; a last one that is cut off is left for later."""
    lines = text[: text.rfind(b"\n") + 1]
    head = lines[: lines.find(b"\n") + 1]
    texts: dict[bytes, list[bytes]] = {}
    for line in lines.splitlines():
        trader = line.split(b",", 2)[1]
        if trader in texts:
            texts[trader].append(line)
        else:
            texts[trader] = [line]
    sizes = b"".join(b"%b %d " % (trader, len(of_trader)) for trader, of_trader in texts.items())
    return [bucket, len(lines), head, sizes, *(b"\n".join(of_trader) + b"\n" for of_trader in texts.values())]


class Sorting:
    """The buckets that are due, those that are read, and those that a call enters which is under way.

    It goes along with match calls: a bucket is read behind those of one round trip, sorted while the server works on
    those of the next one, and entered behind them.
    """

    def __init__(self) -> None:
        self._due: list[tuple[str, bytes]] = []
        self._reading: list[tuple[str, bytes]] = []
        self._read: list[tuple[str, bytes, bytes]] = []
        self._entering: list[tuple[str, bytes]] = []

    def __bool__(self) -> bool:
        return bool(self._due or self._read)

    def due(self, card: str, buckets: Sequence[bytes]) -> None:
        """These are due, as a call of a card told."""
        if buckets:
            known = {*self._due, *self._reading, *self._entering, *((card, bucket) for card, bucket, _ in self._read)}
            self._due += [(card, bucket) for bucket in buckets if (card, bucket) not in known]

    def commands(self) -> list[bytes]:
        """To be sent behind match calls: they enter what was read, sorted here, and read what is due."""
        entering, self._read = self._read, []
        self._entering = [(card, bucket) for card, bucket, _ in entering]
        self._reading, self._due = self._due[:BUCKETS_AT_ONCE], self._due[BUCKETS_AT_ONCE:]
        return [
            *(packed("FCALL", "sort", 1, keys.tag(card), *arguments(bucket, text)) for card, bucket, text in entering),
            *(
                packed("GETRANGE", keys.key(card, f"recent:{bucket.decode()}"), 0, BYTES_AT_ONCE - 1)
                for card, bucket in self._reading
            ),
        ]

    def take(self, replies: Sequence[Any]) -> None:
        """The replies to these commands."""
        entered, read = replies[: len(self._entering)], replies[len(self._entering) :]
        for (card, bucket), reply in zip(self._reading, read, strict=True):
            if isinstance(reply, Exception):
                _refused(card, bucket, reply)
            else:
                self._read.append((card, bucket, reply))
        told: dict[str, Sequence[bytes]] = {}
        for (card, bucket), reply in zip(self._entering, entered, strict=True):
            if isinstance(reply, Exception):
                _refused(card, bucket, reply)
            else:
                told[card] = reply[1]  # the last reply of a card comes after all its calls
        self._reading, self._entering = [], []
        for card, buckets in told.items():
            self.due(card, buckets)


def _refused(card: str, bucket: bytes, error: Exception) -> None:
    if not library.is_missing(error):  # an empty server has nothing to sort
        log.warning("traders' orders are left unsorted", card=card, bucket=bucket.decode(), reason=str(error))
