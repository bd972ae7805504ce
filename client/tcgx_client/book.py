"""A local book, as a pure function of the messages of `book:<card>`. tests/vectors/book has what it must do."""

from decimal import Decimal
from enum import StrEnum

import msgspec

from tcgx_client.events import BookSnapshot, BookUpdate
from tcgx_client.models import Level


class Outcome(StrEnum):
    """What a message did to a book."""

    APPLIED = "applied"
    IGNORED = "ignored"
    """The message is old, or the book waits for a snapshot."""

    BROKEN = "broken"
    """The message does not follow: nothing of it is applied, and the book needs a snapshot."""


class BookView(msgspec.Struct, frozen=True):
    """A book at one moment, best levels first. It never changes."""

    card: str
    sequence: int
    is_live: bool
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]

    @property
    def best_bid(self) -> Level | None:
        """The highest price that somebody buys at, with its quantity."""
        return self.bids[0] if self.bids else None

    @property
    def best_ask(self) -> Level | None:
        """The lowest price that somebody sells at, with its quantity."""
        return self.asks[0] if self.asks else None


class BookState:
    """The levels of one card. It does no I/O: whoever reads the stream gives it the messages."""

    def __init__(self, card: str) -> None:
        self.card = card
        self.sequence = 0
        """The last command that the levels contain."""
        self.is_live = False
        """Whether the levels are those of the exchange at `sequence`."""
        self._bids: dict[Decimal, int] = {}
        self._asks: dict[Decimal, int] = {}
        self._view: BookView | None = None

    def apply(self, message: BookSnapshot | BookUpdate) -> Outcome:
        """Takes a message, as a whole or not at all."""
        if message.card != self.card:
            return Outcome.IGNORED
        if isinstance(message, BookSnapshot):
            self._bids, self._asks = {}, {}
        elif not self.is_live or message.sequence <= self.sequence:
            return Outcome.IGNORED
        elif message.previous_sequence != self.sequence:
            self.invalidate()
            return Outcome.BROKEN
        _set(self._bids, message.bids)
        _set(self._asks, message.asks)
        self.sequence = message.sequence
        self.is_live = True
        self._view = None
        return Outcome.APPLIED

    def invalidate(self) -> None:
        """The levels may be wrong from now on, until the next snapshot."""
        self.is_live = False
        self._view = None

    def view(self) -> BookView:
        """The book as it is now."""
        if self._view is None:
            bids = tuple(sorted(self._bids.items(), reverse=True))
            asks = tuple(sorted(self._asks.items()))
            self._view = BookView(self.card, self.sequence, self.is_live, bids, asks)
        return self._view


def _set(side: dict[Decimal, int], levels: tuple[Level, ...]) -> None:
    for price, quantity in levels:
        if quantity:
            side[price] = quantity
        else:
            side.pop(price, None)
