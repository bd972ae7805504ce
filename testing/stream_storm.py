"""Clients of streams under load and faults, and what they were told beside what the log says.

Each client keeps a local book, comes and goes at random, and resumes with the last id that it has. Afterwards a
reference book is fed with the log: each book that a client had must be the book at that sequence, and the trades that a
client was told must be all trades, each once.
"""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import msgspec
from redis import Redis

from core.model import Order, price_text
from engine import codec, keys
from testing.clients.stream import EventStream, LocalBook
from testing.oracle.reference_book import ReferenceBook

RETRY_SECONDS = 0.05
CUT_SHARE = 0.004
BATCH = 50
Levels = tuple[tuple[str, int], ...]


class StormReport(msgspec.Struct, frozen=True):
    """What came of a storm."""

    commands: int
    trades: int
    books_compared: int
    reconnects: int
    doubles: int
    snapshots: int
    seconds: float


class Follower:
    """One client, in a thread of its own."""

    def __init__(self, url: str, card: str, seed: str) -> None:
        self.book = LocalBook()
        self.books: dict[int, tuple[Levels, Levels]] = {}
        self.trades: dict[int, int] = {}
        """The sequences of trades, by trade number."""
        self.doubles = 0
        self.reconnects = 0
        self.faults: list[str] = []
        self.reached = 0
        self._url = url
        self._card = card
        self._choose = random.Random(seed)
        self._last_id = f"{card}.0"
        self._goal: int | None = None
        self._thread = threading.Thread(target=self._run, name=f"follower {seed}")
        self._thread.start()

    def finish(self, sequence: int, *, seconds: float) -> None:
        """Waits until the client has reached a sequence."""
        self._goal = sequence
        self._thread.join(seconds)
        if self._thread.is_alive():
            self.faults.append(f"stands at book {self.book.sequence} and {self._last_id}, not at {sequence}")

    @property
    def _is_done(self) -> bool:
        return self._goal is not None and min(self.book.sequence, self.reached) >= self._goal

    def _run(self) -> None:
        while not self._is_done and not self.faults:
            try:
                self._follow()
            except (httpx.TransportError, EOFError):
                self.reconnects += 1
                time.sleep(RETRY_SECONDS)

    def _follow(self) -> None:
        interval = self._choose.choice((0, 0, 20, 100))
        channels = f"book:{self._card},trades:{self._card}"
        headers = {"last-event-id": self._last_id}
        with EventStream(self._url, channels, headers=headers, interval=interval) as stream:
            if stream.status != 200:
                raise EOFError
            self.book.is_live = False
            for event in stream:
                self._take(event.event, event.data)
                self._last_id = stream.last_id or self._last_id
                if self._is_done or self.faults or event.event == "bye":
                    return
                if self._choose.random() < CUT_SHARE:
                    raise EOFError  # a client that goes without a word

    def _take(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "book":
            self._take_book(data)
        elif kind == "trades":
            self.reached = max(self.reached, data["sequence"])
            for trade in data["trades"]:
                number = int(trade["trade_id"].rpartition("-t")[2])
                self.doubles += number in self.trades
                self.trades[number] = data["sequence"]
        elif kind == "heartbeat":
            pass
        elif kind in ("gap", "reset", "error"):
            self.faults.append(f"{kind}: {data}")
        self.reached = max(self.reached, self._last_id_position())

    def _last_id_position(self) -> int:
        return int(self._last_id.rpartition(".")[2])

    def _take_book(self, data: dict[str, Any]) -> None:
        if not self.book.apply(data):
            self.faults.append(f"an update does not follow {self.book.sequence}: {data}")
            return
        if self.book.is_crossed:
            self.faults.append(f"the book is crossed at {self.book.sequence}")
        levels = (_frozen(self.book.levels("bids")), _frozen(self.book.levels("asks")))
        known = self.books.setdefault(data["sequence"], levels)
        if known != levels:
            self.faults.append(f"two books at {data['sequence']}")


def _frozen(levels: list[list[Any]]) -> Levels:
    return tuple((price, quantity) for price, quantity in levels)


class Load:
    """Random orders of a card over HTTP, as fast as they are taken."""

    def __init__(self, url: str, card: str, headers: Sequence[dict[str, str]], seed: int) -> None:
        self._client = httpx.Client(base_url=url, timeout=20, trust_env=False)
        self._headers = headers
        self._card = card
        self._choose = random.Random(seed)

    def send(self, count: int, *, batch: int = BATCH, pause: float = 0.0) -> None:
        """Places orders; a batch whose answer is lost is sent again, since any log will do."""
        sent = 0
        while sent < count:
            orders = [self._order() for _ in range(min(batch, count - sent))]
            headers = self._choose.choice(self._headers)
            try:
                answer = self._client.post("/orders/batch", json={"orders": orders}, headers=headers)
            except httpx.TransportError:
                time.sleep(RETRY_SECONDS)
                continue
            if answer.status_code in (200, 202, 207):
                sent += len(orders)
                time.sleep(pause)
            else:
                time.sleep(RETRY_SECONDS)

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def _order(self) -> dict[str, Any]:
        choose = self._choose
        middle = 550 + choose.randint(-25, 25)
        side = choose.choice(("buy", "sell"))
        away = choose.randint(-6, 30)
        cents = middle - away if side == "buy" else middle + away
        return {
            "card": self._card,
            "side": side,
            "price": price_text(cents),
            "quantity": choose.choice((1, 1, 2, 9)),
            "time_in_force": choose.choice(("gtc", "gtc", "gtc", "ioc")),
        }


def compare(redis: Redis, card: str, followers: Sequence[Follower]) -> tuple[int, int]:
    """Compares what clients had with the log. Returns how many trades there are, and how many books were compared."""
    wanted: dict[int, list[tuple[Levels, Levels]]] = {}
    for follower in followers:
        assert not follower.faults, follower.faults
        for sequence, levels in follower.books.items():
            wanted.setdefault(sequence, []).append(levels)
    reference = ReferenceBook(card)
    compared = 0
    for sequence, at, command in _log(redis, card):
        reference.apply(sequence, at, command)
        for levels in wanted.pop(sequence, ()):
            assert levels == (_levels(reference.bids()), _levels(reference.asks())), f"the book at {sequence} is wrong"
            compared += 1
    wanted.pop(0, None)
    assert not wanted, f"books of sequences that do not exist: {sorted(wanted)[:5]}"
    count = len(reference.trades)
    for follower in followers:
        assert sorted(follower.trades) == list(range(1, count + 1)), "trades are missing, or are none"
    return count, compared


def _log(redis: Redis, card: str) -> Iterator[tuple[int, str, Any]]:
    entries: Any = redis.xrange(keys.key(card, "orders"))
    for entry_id, fields in entries:
        first = int(entry_id.partition(b"-")[2])
        for place, command in enumerate(codec.decode(card, fields)):
            yield first + place, fields[b"at"].decode(), command


def _levels(orders: Sequence[Order]) -> Levels:
    levels: dict[int, int] = {}
    for order in orders:
        levels[order.price_cents] = levels.get(order.price_cents, 0) + order.quantity - order.filled_quantity
    return tuple((price_text(price), quantity) for price, quantity in levels.items())
