"""Clients of streams under load and faults, and what they were told beside what the log says.

`python -m testing.stream_storm --commands 200000 --clients 50` is the long form: clients join at random, each is
cut off several times, the API and Redis are restarted, and `GET /cards/{card}/book` is read all the while.

Each client keeps a local book, comes and goes at random, and resumes with the last id that it has. Afterwards a
reference book is fed with the log: each book that a client had must be the book at that sequence, and the trades that a
client was told must be all trades, each once.
"""

import argparse
import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import msgspec
from redis import Redis

from core.model import price_text
from engine import codec, keys
from testing import faults
from testing.clients.stream import EventStream, LocalBook
from testing.exchange import ExchangeServer, exchange_server
from testing.oracle.reference_book import ReferenceBook

RETRY_SECONDS = 0.05
CUT_SHARE = 0.004
BATCH = 50
REST_SECONDS = 0.02
FINISH_SECONDS = 120
Levels = tuple[tuple[str, int], ...]


class StormReport(msgspec.Struct, frozen=True):
    """What came of a storm."""

    commands: int
    trades: int
    books_compared: int
    rest_books: int
    reconnects: int
    doubles: int
    snapshots: int
    seconds: float


class Follower:
    """One client, in a thread of its own. It follows trades after the command `start`."""

    def __init__(self, url: str, card: str, seed: str, *, start: int = 0, kept: float = 1.0) -> None:
        """`kept`: the share of updates after which the client keeps a copy of its book, as after each snapshot."""
        self.start = start
        self._kept = kept
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
        self._last_id = f"{card}.{start}"
        self._goal: int | None = None
        self._is_cut = False
        self._thread = threading.Thread(target=self._run, name=f"follower {seed}")
        self._thread.start()

    def cut(self) -> None:
        """Makes the client go without a word after its next message, and come back."""
        self._is_cut = True

    def aim(self, sequence: int) -> None:
        """Makes the client end at the first message after it has reached a sequence."""
        self._goal = sequence

    def finish(self, *, seconds: float) -> None:
        """Waits until the client has reached its goal."""
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive():
            self.faults.append(f"stands at book {self.book.sequence} and {self._last_id}, not at {self._goal}")

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
                if self._is_cut or self._choose.random() < CUT_SHARE:
                    self._is_cut = False
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
        if data["type"] == "update" and self._choose.random() >= self._kept:
            return
        levels = (_frozen(self.book.levels("bids")), _frozen(self.book.levels("asks")))
        known = self.books.setdefault(data["sequence"], levels)
        if known != levels:
            self.faults.append(f"two books at {data['sequence']}")


def _frozen(levels: list[list[Any]]) -> Levels:
    return tuple((price, quantity) for price, quantity in levels)


def finish_all(followers: Sequence[Follower], sequence: int) -> None:
    """Waits until all clients have reached a sequence. A client that is there already waits for a heartbeat."""
    for follower in followers:
        follower.aim(sequence)
    deadline = time.monotonic() + FINISH_SECONDS
    for follower in followers:
        follower.finish(seconds=deadline - time.monotonic())


class RestReader:
    """Reads the book of a card over REST all the while, in a thread of its own."""

    def __init__(self, url: str, card: str) -> None:
        self.books: dict[int, tuple[Levels, Levels]] = {}
        self.faults: list[str] = []
        self._client = httpx.Client(base_url=url, timeout=20, trust_env=False)
        self._path = f"/cards/{card}/book"
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rest reader")
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over.wait(REST_SECONDS):
            try:
                answer = self._client.get(self._path, params={"depth": 1_000})
            except httpx.TransportError:
                continue
            if answer.status_code == 200:
                book = answer.json()
                levels = (_frozen(book["bids"]), _frozen(book["asks"]))
                if self.books.setdefault(book["sequence"], levels) != levels:
                    self.faults.append(f"two books at {book['sequence']}")

    def finish(self) -> None:
        """Stops reading."""
        self._is_over.set()
        self._thread.join()
        self._client.close()


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


def compare(redis: Redis, card: str, followers: Sequence[Follower], rest: Sequence[RestReader] = ()) -> tuple[int, int]:
    """Compares what clients had with the log. Returns how many trades there are, and how many books were compared."""
    wanted: dict[int, list[tuple[Levels, Levels]]] = {}
    readers: list[Follower | RestReader] = [*followers, *rest]
    for reader in readers:
        assert not reader.faults, reader.faults
        for sequence, levels in reader.books.items():
            wanted.setdefault(sequence, []).append(levels)
    reference = ReferenceBook(card)
    compared = 0
    for sequence, at, command in _log(redis, card):
        reference.apply(sequence, at, command)
        right: tuple[Levels, Levels] | None = None
        for levels in wanted.pop(sequence, ()):
            if right is None:
                bids, asks = reference.levels()
                right = _texts(bids), _texts(asks)
            assert levels == right, f"the book at {sequence} is wrong"
            compared += 1
    wanted.pop(0, None)
    assert not wanted, f"books of sequences that do not exist: {sorted(wanted)[:5]}"
    count = len(reference.trades)
    for follower in followers:
        first = next((trade.number for trade in reference.trades if trade.taker_sequence > follower.start), count + 1)
        assert sorted(follower.trades) == list(range(first, count + 1)), "trades are missing, or are none"
    return count, compared


def _log(redis: Redis, card: str) -> Iterator[tuple[int, str, Any]]:
    entries: Any = redis.xrange(keys.key(card, "orders"))
    for entry_id, fields in entries:
        first = int(entry_id.partition(b"-")[2])
        for place, command in enumerate(codec.decode(card, fields)):
            yield first + place, fields[b"at"].decode(), command


def _texts(levels: Sequence[tuple[int, int]]) -> Levels:
    return tuple((price_text(price), quantity) for price, quantity in levels)


def storm(
    server: ExchangeServer, *, commands: int, clients: int, cuts: int, batch: int, seed: int, kept: float = 1.0
) -> StormReport:
    """A storm on an exchange whose API and Redis are restarted in it."""
    choose = random.Random(seed)
    card = server.settings.cards[0]
    actions = [(choose.uniform(0.0, 0.5), "join", place) for place in range(clients)]
    actions += [(choose.uniform(0.5, 0.98), "cut", place) for place in range(clients) for _ in range(cuts)]
    actions += [(1 / 3, "api", 0), (2 / 3, "redis", 0)]
    followers: list[Follower] = []
    rest = RestReader(server.url, card)
    load = Load(server.url, card, [server.bearer(number) for number in range(1, 9)], seed)
    began, sent, last = time.monotonic(), 0, 0
    try:
        for share, what, place in sorted(actions):
            wanted = int(share * commands) - sent
            load.send(max(0, wanted), batch=batch)
            sent += max(0, wanted)
            if what == "join":
                matched: Any = server.redis.hget(keys.key(card, "cursor"), "sequence")
                name = f"{seed}-{place}"
                followers.append(Follower(server.url, card, name, start=int(matched or 0), kept=kept))
            elif what == "cut":
                followers[place].cut()
            elif what == "api":
                with faults.without(server, "api"):
                    pass
            else:
                with faults.without_redis(server):
                    pass
        load.send(commands - sent, batch=batch)
        last = server.sequences()[card]
    finally:
        load.close()
        finish_all(followers, last)
        rest.finish()
    seconds = time.monotonic() - began
    trades, compared = compare(server.redis, card, followers, [rest])
    return StormReport(
        commands=last,
        trades=trades,
        books_compared=compared,
        rest_books=len(rest.books),
        reconnects=sum(follower.reconnects for follower in followers),
        doubles=sum(follower.doubles for follower in followers),
        snapshots=sum(follower.book.snapshots for follower in followers),
        seconds=seconds,
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=int, default=200_000, help="orders, at least")
    parser.add_argument("--clients", type=int, default=50, help="subscribers of book and trades")
    parser.add_argument("--cuts", type=int, default=3, help="how often each of them is cut off")
    parser.add_argument("--batch", type=int, default=200, help="orders of a request")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kept", type=float, default=0.1, help="the share of books that are compared")
    arguments = parser.parse_args()
    # Clients that share one Python process may be slow; what they miss for that would be told as a gap.
    kept = {"log_retention": 1_000_000_000, "event_retention": arguments.commands}
    with exchange_server(stream_heartbeat_seconds=1, stream_address_max=0, **kept) as server:
        found = storm(server, **vars(arguments))
    print(msgspec.json.format(msgspec.json.encode(found)).decode())


if __name__ == "__main__":
    main()
