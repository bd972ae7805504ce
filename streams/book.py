"""The book of a card, kept from events, and its versions: the states that subscribers see.

A subscriber has no queue. It keeps the sequence that it has reached, and gets all levels that changed since in one
message. So a slow reader gets fewer and larger messages, and never a wrong book.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from core.model import price_text
from engine.book_reader import Depth
from engine.events import Event

WINDOW = 1_000
"""Price levels of a side that subscribers get, at most: as many as `GET /cards/{card}/book` gives."""

KNOWN = 2 * WINDOW
"""Price levels of a side that a snapshot asks for. Those behind the window replace levels that leave it."""

CHANGES_MAX = 50_000
"""Changed levels of the versions that are kept. A reader that is further behind gets a snapshot."""

Levels = dict[int, int]
"""Quantities by price in cents."""


class Side:
    """One side of a book: its levels, as far as they are known, and those that subscribers have been told."""

    def __init__(self, *, is_bids: bool) -> None:
        self.levels: Levels = {}
        self.told: Levels = {}
        """The window of the last version, while the side has more levels than that; else empty."""
        self._is_bids = is_bids
        self._worst: int | None = None
        """The worst known price; None if all levels are known."""

    def replace(self, levels: list[tuple[int, int]]) -> None:
        """Takes a snapshot of at most `KNOWN` levels, best first."""
        self.levels = dict(levels)
        self._worst = levels[-1][0] if len(levels) >= KNOWN else None

    @property
    def is_short(self) -> bool:
        """Whether known levels are too few for the window, although more exist."""
        return self._worst is not None and len(self.levels) < WINDOW

    def set(self, price: int, quantity: int) -> bool:
        """Sets the quantity of a level; 0 removes it. Returns False for a level beyond the known ones."""
        if self._worst is not None and (price < self._worst if self._is_bids else price > self._worst):
            return False
        if quantity:
            self.levels[price] = quantity
        else:
            self.levels.pop(price, None)
        return True

    def trim(self) -> None:
        """Drops levels far behind the window. Lua keeps more (lua/parts/levels.lua), so what is known stays exact."""
        if len(self.levels) > 2 * KNOWN:
            prices = self.sorted_prices()
            self._worst = prices[KNOWN - 1]
            for price in prices[KNOWN:]:
                del self.levels[price]

    @property
    def best(self) -> tuple[int, int] | None:
        """The best price and its quantity; None if the side is empty."""
        if not self.levels:
            return None
        price = max(self.levels) if self._is_bids else min(self.levels)
        return price, self.levels[price]

    def sorted_prices(self) -> list[int]:
        """The prices, best first."""
        return sorted(self.levels, reverse=self._is_bids)

    def tell(self, changes: Levels) -> Levels | None:
        """The changes of what subscribers see, from changes of levels. None if they need a snapshot instead."""
        is_wide = len(self.levels) > WINDOW
        if not self.told and not is_wide:
            return changes
        if not self.told:
            return None
        window = dict(self.window())
        seen = {price: quantity for price, quantity in window.items() if self.told.get(price) != quantity}
        seen.update((price, 0) for price in self.told if price not in window)
        self.told = window if is_wide else {}
        return seen

    def begin(self) -> None:
        """Notes what a snapshot tells subscribers."""
        self.told = dict(self.window()) if len(self.levels) > WINDOW else {}

    def window(self) -> list[tuple[int, int]]:
        """The levels that subscribers see, best first."""
        return [(price, self.levels[price]) for price in self.sorted_prices()[:WINDOW]]


class Version(NamedTuple):
    """A state of the book that subscribers may have: its sequence, that of the version before, and what changed."""

    previous: int
    sequence: int
    bids: Levels
    asks: Levels


class Book:
    """The book of one card from the events of its match calls."""

    def __init__(self, card: str) -> None:
        self.card = card
        self.sequence = 0
        """The last command that the levels contain."""
        self.is_live = False
        """Whether the levels are known. A book that is not live waits for a snapshot."""
        self.bids = Side(is_bids=True)
        self.asks = Side(is_bids=False)
        self.version = 0
        """The sequence of the last version."""
        self._versions: deque[Version] = deque()
        self._kept_changes = 0
        self._changed_bids: Levels = {}
        self._changed_asks: Levels = {}
        self._updates: dict[int, bytes] = {}
        self._snapshot: tuple[int, bytes] | None = None
        self._waiting: list[Event] | None = None

    # -- what comes in

    def stop(self) -> None:
        """Forgets the levels, since events are missing."""
        self.is_live = False
        self._waiting = None

    def await_snapshot(self) -> None:
        """Keeps the events from now on, until a snapshot comes."""
        if self._waiting is None:
            self._waiting = []

    def take(self, depth: Depth) -> bool:
        """Takes a snapshot, and the events that came while it was read. Returns whether the book is live now."""
        events, self._waiting = self._waiting or [], None
        self.bids.replace(depth.bids)
        self.asks.replace(depth.asks)
        self.sequence = depth.sequence
        self.is_live = True
        self._restart_versions()
        for event in events:
            self.apply(event)
        return self.is_live

    def apply(self, event: Event) -> None:
        """Takes the changes of the next event. An event that does not follow, or has no changes, ends `is_live`."""
        if self._waiting is not None:
            self._waiting.append(event)
        if not self.is_live or event.last <= self.sequence:
            return
        if event.level_text is None or event.first != self.sequence + 1:
            self.is_live = False
            return
        bids, _, asks = event.level_text.partition(b";")
        _apply(bids, self.bids, self._changed_bids)
        _apply(asks, self.asks, self._changed_asks)
        self.sequence = event.last
        if self.bids.is_short or self.asks.is_short:
            self.is_live = False

    # -- what goes out

    def publish(self) -> bool:
        """Makes a version of the changes since the last one. Returns whether there was anything new."""
        if not self.is_live or self.sequence == self.version:
            return False
        self.bids.trim()
        self.asks.trim()
        bids, asks = self.bids.tell(self._changed_bids), self.asks.tell(self._changed_asks)
        if bids is None or asks is None:
            self._restart_versions()
            return True
        version = Version(self.version, self.sequence, bids, asks)
        self._changed_bids, self._changed_asks = {}, {}
        self._versions.append(version)
        self._kept_changes += _size(version)
        while self._kept_changes > CHANGES_MAX and len(self._versions) > 1:
            self._kept_changes -= _size(self._versions.popleft())
        self.version = self.sequence
        self._updates.clear()
        return True

    def message(self, reached: int | None) -> tuple[int, bytes] | None:
        """What a subscriber needs that has reached a version; None if that is nothing.

        `reached` None is a new subscriber. Returns the sequence that it then has, and the message.
        """
        if not self.is_live or reached == self.version:
            return None
        if reached is None or not self._oldest <= reached < self.version:
            return self.snapshot()
        found = self._updates.get(reached)
        if found is None:
            found = self._updates[reached] = self._update(reached)
        return self.version, found

    def snapshot(self) -> tuple[int, bytes]:
        """The sequence and the message of the last version, as a whole. All subscribers of a version share it."""
        if self._snapshot is None or self._snapshot[0] != self.version:
            self.publish()
            bids, asks = _pairs(self.bids.window()), _pairs(self.asks.window())
            self._snapshot = (
                self.version,
                (
                    f'{{"channel":"book","card":"{self.card}","type":"snapshot","sequence":{self.version},"at":"{now()}",'
                    f'"bids":[{bids}],"asks":[{asks}]}}'
                ).encode(),
            )
        return self._snapshot

    def sizes(self) -> tuple[int, int]:
        """How many levels of each side subscribers see: bids, asks."""
        return min(WINDOW, len(self.bids.levels)), min(WINDOW, len(self.asks.levels))

    @property
    def _oldest(self) -> int:
        return self._versions[0].previous if self._versions else self.version

    def _update(self, reached: int) -> bytes:
        bids: Levels = {}
        asks: Levels = {}
        for version in self._versions_after(reached):
            bids.update(version.bids)
            asks.update(version.asks)
        return (
            f'{{"channel":"book","card":"{self.card}","type":"update","previous_sequence":{reached},'
            f'"sequence":{self.version},"at":"{now()}","bids":[{_pairs(_sorted(bids, is_bids=True))}],'
            f'"asks":[{_pairs(_sorted(asks, is_bids=False))}]}}'
        ).encode()

    def _versions_after(self, reached: int) -> Iterable[Version]:
        """The versions after one, oldest first. Most readers lack the last one alone, and thousands may be kept."""
        found: list[Version] = []
        for version in reversed(self._versions):
            if version.sequence <= reached:
                break
            found.append(version)
        return reversed(found)

    def _restart_versions(self) -> None:
        self._versions.clear()
        self._kept_changes = 0
        self._changed_bids, self._changed_asks = {}, {}
        self._updates.clear()
        self._snapshot = None
        self.version = self.sequence
        self.bids.begin()
        self.asks.begin()


def _apply(text: bytes, side: Side, changed: Levels) -> None:
    values = text.split(b",") if text else []
    for price_text_, quantity_text in zip(values[::2], values[1::2], strict=True):
        price, quantity = int(price_text_), int(quantity_text)
        if side.set(price, quantity):
            changed[price] = quantity


def _size(version: Version) -> int:
    return len(version.bids) + len(version.asks) + 1


def _sorted(levels: Mapping[int, int], *, is_bids: bool) -> list[tuple[int, int]]:
    return sorted(levels.items(), reverse=is_bids)


def _pairs(levels: list[tuple[int, int]]) -> str:
    return ",".join([f'["{price_text(price)}",{quantity}]' for price, quantity in levels])


def now() -> str:
    """The time as messages have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
