"""The ledger: what clients have sent, and what they were answered. Nothing in it comes from the exchange's own data."""

import itertools
import threading

import msgspec

from core.model import CancelOrder, PlaceOrder


class Placed(msgspec.Struct):
    """An order of a client, with the times of its first request and of its first answer.

    `sequences` has the sequence of every answer; repeats of an order must all be answered with the first one.
    Orders of one batch have the same number `batch`, which is 0 for a single order.
    """

    command: PlaceOrder
    sent_at: float
    batch: int = 0
    answered_at: float | None = None
    sequences: list[int] = msgspec.field(default_factory=list)
    refusal: str = ""

    @property
    def name(self) -> str:
        """The client_order_id."""
        return self.command.client_order_id or ""

    def answered(self, sequence: int, at: float) -> None:
        """Enters an acknowledgement."""
        self.sequences.append(sequence)
        if self.answered_at is None:
            self.answered_at = at


class Ledger:
    """What all clients have done. Orders of a batch stand together, in the order of the batch."""

    def __init__(self) -> None:
        self.placed: list[Placed] = []
        self.canceled: list[CancelOrder] = []
        self.canceled_with_all: list[tuple[str, int]] = []
        """Card and sequence of orders that the answer to a cancel of all orders named.

        Each was open shortly before, so it has a cancel in the log, or was filled before the cancels.
        """
        self.unfound: list[str] = []
        """Acknowledged orders that the exchange did not find when their trader canceled them."""
        self.repeats = 0
        """How many requests were sent again, after no answer or one that says so."""
        self._batches = itertools.count(1)
        self._lock = threading.Lock()

    def enter(self, commands: list[PlaceOrder], sent_at: float) -> list[Placed]:
        """Enters orders that are about to be sent in one request."""
        with self._lock:
            batch = next(self._batches) if len(commands) > 1 else 0
            entered = [Placed(command, sent_at, batch) for command in commands]
            self.placed += entered
        return entered

    def withdraw(self, placed: Placed) -> None:
        """Takes out an order that the exchange has refused for good, so that its log must not have it."""
        with self._lock:
            self.placed.remove(placed)

    def repeated(self) -> None:
        """Counts a request that is sent again."""
        with self._lock:
            self.repeats += 1

    @property
    def acknowledged(self) -> int:
        """How many orders were acknowledged."""
        return sum(placed.answered_at is not None for placed in self.placed)
