"""The trading page for a while: every ladder that was seen must be the book, and its heap must stay as it is.

`python -m testing.page_soak --minutes 10` has a market maker and ten takers on one card, and three tabs. Each tab is
looked at several times a second. Afterwards a reference book is fed with the log, and each ladder that was seen must be
the book at its sequence. `GET /cards/{card}/book` is asked all the while, and judged in the same way.
"""

import argparse
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from playwright.sync_api import CDPSession, Page

from core.model import Order, price_text
from testing.clients.trader import Trader
from testing.exchange import ExchangeServer, exchange_server
from testing.oracle.judge import log_of
from testing.oracle.reference_book import ReferenceBook
from testing.pages import browser, live, log_in
from testing.servers import KEEP_ALL

CARD = "pikachu"
TABS = 3
TAKERS = 10
QUOTES = 8
MAKER_SECONDS, TAKER_SECONDS, LOOK_SECONDS = 0.2, 0.5, 0.25
WARM_SECONDS = 60.0
GROWTH_BYTES_MAX = 2_000_000
"""The heap may differ by so much from the end of the first minute to the end, each after a collection."""

LADDER = """
() => ({
  state: document.documentElement.dataset.live,
  sequence: Number(document.getElementById("ladder").dataset.sequence),
  rows: [...document.querySelectorAll("#ladder tbody tr")].map((row) =>
    [row.cells[1].textContent, ...[0, 2].map((side) => Number(row.cells[side].querySelector("b").textContent))]),
})
"""


class Seen(msgspec.Struct, frozen=True):
    """Quantities at some prices: price, bid and ask."""

    sequence: int
    rows: Sequence[tuple[str, int, int]]


class Report(msgspec.Struct, frozen=True):
    """What came of a soak. `heaps`: bytes of each tab once warm and at the end."""

    seconds: float
    commands: int
    ladders: int
    sequences: int
    books: int
    wrong: Sequence[str]
    heaps: Sequence[tuple[int, int]]
    messages: Sequence[str]


@contextmanager
def _threads(*works: Callable[[], None], pauses: Sequence[float]) -> Iterator[list[BaseException]]:
    """Repeats each work with its pause inside; the errors that ended one."""
    stopping, errors = threading.Event(), list[BaseException]()

    def repeat(work: Callable[[], None], pause: float) -> None:
        try:
            while not stopping.wait(pause):
                work()
        except BaseException as error:  # noqa: BLE001 - told to the caller
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=pair) for pair in zip(works, pauses, strict=True)]
    for thread in threads:
        thread.start()
    try:
        yield errors
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


class Market:
    """A market maker who quotes around a middle that walks, and takers who take."""

    def __init__(self, exchange: ExchangeServer, seed: int) -> None:
        self._choose = random.Random(seed)
        self._middle = 550
        self._maker = Trader(exchange.client(2))
        self._takers = [Trader(exchange.client(3 + number)) for number in range(TAKERS)]

    @property
    def works(self) -> list[Callable[[], None]]:
        """The maker and each taker."""
        return [self._quote, *(lambda taker=taker: self._take(taker) for taker in self._takers)]

    def _quote(self) -> None:
        self._middle = min(800, max(300, self._middle + self._choose.choice((-3, -1, 0, 1, 3))))
        self._maker.http.delete(f"/orders?card={CARD}").raise_for_status()
        orders = [
            {"card": CARD, "side": side, "price": price_text(self._middle + sign * step), "quantity": step + 3}
            for side, sign in (("buy", -1), ("sell", 1))
            for step in range(1, QUOTES + 1)
        ]
        self._maker.http.post("/orders/batch", json={"orders": orders}).raise_for_status()

    def _take(self, taker: Trader) -> None:
        side, cents = self._choose.choice((("buy", 3), ("sell", -3)))
        order = {"card": CARD, "side": side, "price": price_text(self._middle + cents), "quantity": 2}
        taker.http.post("/orders", json=order | {"time_in_force": "ioc"}).raise_for_status()


def _heap(session: CDPSession) -> int:
    session.send("HeapProfiler.collectGarbage")
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(int(each["value"]) for each in metrics if each["name"] == "JSHeapUsedSize")


def _watch(
    pages: Sequence[Page], seconds: float, looked: Callable[[], None]
) -> tuple[list[Seen], list[tuple[int, int]]]:
    """What the ladders showed while they were live, and the heaps."""
    sessions = [page.context.new_cdp_session(page) for page in pages]
    for session in sessions:
        session.send("Performance.enable")
    began, seen, warm = time.monotonic(), list[Seen](), list[int]()
    while (passed := time.monotonic() - began) < seconds:
        if not warm and passed >= min(WARM_SECONDS, seconds / 2):
            warm = [_heap(session) for session in sessions]
        for page in pages:
            found: dict[str, Any] = page.evaluate(LADDER)
            if found["state"] == "live" and found["sequence"]:
                seen.append(msgspec.convert(found, Seen))
        looked()
        pages[0].wait_for_timeout(1_000 * LOOK_SECONDS)
    return seen, [*zip(warm, [_heap(session) for session in sessions], strict=True)]


def _levels(orders: Sequence[Order]) -> dict[str, int]:
    found: dict[str, int] = {}
    for order in orders:
        price = price_text(order.price_cents)
        found[price] = found.get(price, 0) + order.quantity - order.filled_quantity
    return found


def _judge(redis_url: str, seen: Sequence[Seen]) -> tuple[int, list[str]]:
    """How many commands the log has, and what was seen that no book was."""
    by_sequence: dict[int, list[Seen]] = {}
    for one in seen:
        by_sequence.setdefault(one.sequence, []).append(one)
    book, wrong, last = ReferenceBook(CARD), list[str](), 0
    wrong += [f"at 0: {one.rows[:3]}" for one in by_sequence.pop(0, []) if any(bid or ask for _, bid, ask in one.rows)]
    for sequence, at, command in log_of(redis_url, CARD):
        book.apply(sequence, at, command)
        last = sequence
        if sequence not in by_sequence:
            continue
        bids, asks = _levels(book.bids()), _levels(book.asks())
        for one in by_sequence.pop(sequence):
            expected = [(price, bids.get(price, 0), asks.get(price, 0)) for price, _, _ in one.rows]
            if expected != list(one.rows):
                different = [pair for pair in zip(one.rows, expected, strict=True) if pair[0] != pair[1]]
                wrong.append(f"at {sequence}: {different[:3]}")
    return last, wrong + [f"there is no command {sequence}" for sequence in by_sequence]


def run(seconds: float, *, seed: int = 1) -> Report:
    """A soak of this many seconds."""
    books: list[Seen] = []
    messages: list[str] = []
    with exchange_server(log_retention=KEEP_ALL) as exchange, browser() as running:
        market = Market(exchange, seed)

        def ask() -> None:
            book = exchange.http.get(f"/cards/{CARD}/book?depth=100").json()
            sides = [[(price, quantity) for price, quantity in book[side]] for side in ("bids", "asks")]
            rows = [(price, quantity, 0) for price, quantity in sides[0]] + [(p, 0, q) for p, q in sides[1]]
            books.append(Seen(book["sequence"], rows))

        pages = [running.new_page() for _ in range(TABS)]
        for number, page in enumerate(pages):
            page.on("console", lambda message: messages.append(message.text))
            page.on("pageerror", lambda error: messages.append(str(error)))
            live(page, exchange.url)
            if number == 0:
                log_in(page, 1, exchange.api_key(1))
        began = time.monotonic()
        pauses = [MAKER_SECONDS, *[TAKER_SECONDS] * TAKERS]
        with _threads(*market.works, pauses=pauses) as errors:
            seen, heaps = _watch(pages, seconds, ask)
        if errors:
            raise errors[0]
        spent = time.monotonic() - began
        commands, wrong = _judge(exchange.settings.redis_url, [*seen, *books])
    return Report(
        seconds=spent,
        commands=commands,
        ladders=len(seen),
        sequences=len({one.sequence for one in seen}),
        books=len(books),
        wrong=wrong,
        heaps=heaps,
        messages=messages,
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    found = run(60 * arguments.minutes, seed=arguments.seed)
    print(
        f"{found.seconds:.0f} s, {found.commands:,} commands: {found.ladders:,} ladders at {found.sequences:,} "
        f"sequences and {found.books:,} books of GET compared, {len(found.wrong)} wrong"
    )
    for number, (warm, end) in enumerate(found.heaps, 1):
        print(f"heap of tab {number}: {warm / 1e6:.2f} MB warm, {end / 1e6:.2f} MB at the end")
    for text in [*found.wrong[:5], *found.messages[:5]]:
        print(text)
    grown = [end - warm for warm, end in found.heaps]
    if found.wrong or found.messages or max(grown) > GROWTH_BYTES_MAX:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
