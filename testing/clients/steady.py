"""`python -m testing.clients.steady`: the clients of `tcgx bench soak`, in a process of their own.

Standard input has a `Job` as a line of JSON. The process says `ready`, waits for a line, and then sends commands at a
steady rate. After each window it prints a `Window` as a line of JSON. Its ledger goes to files, at the end.

The books come to a steady state. Most orders are made in pairs that trade with each other. Some rest away from the
market, and are canceled after `HOLD_SECONDS`. A few are immediate-or-cancel orders that expire.
"""

import asyncio
import random
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import uvloop

from core.model import Side
from exchange import tokens
from testing.clients import sequences
from testing.clients.closed_loop import percentile
from testing.clients.open_loop import BROKEN, Answer, OpenLoop, Request
from testing.clients.windows import show_windows

CONNECTIONS_OPENED, CONNECTIONS_MAX = 32, 256
TOKEN_SECONDS = 86_400
END_SECONDS = 30.0
HOLD_SECONDS = 20.0
ORDERS_A_BATCH = 25
PATTERN = {"cancel": 75, "single": 175, "batch": 10}
"""Requests of a pattern: 500 commands, of which 15 % are cancels and half of them orders of batches."""
PATTERN_COMMANDS = PATTERN["cancel"] + PATTERN["single"] + ORDERS_A_BATCH * PATTERN["batch"]
DECK = {"away": 34, "expiring": 10, "pairs": 78}
"""Orders of a deck: 200, so that 14.5 % of the commands rest away from the market, a little less than are canceled."""
PRICES = {
    "away": {Side.BUY: (300, 400), Side.SELL: (700, 800)},
    "expiring": {Side.BUY: (200, 250), Side.SELL: (850, 900)},
    "pairs": {Side.BUY: (550, 560), Side.SELL: (540, 550)},
}
"""Every buy of a pair crosses every sell of one."""
QUANTITIES = (1, 20)
ACCEPTED, COMPLETED = 202, 409
REFUSED = (429, 503)


class Job(msgspec.Struct, frozen=True):
    """What the clients do."""

    host: str
    port: int
    secret: str
    cards: list[str]
    traders: int
    rate: int
    seconds: float
    window_seconds: float
    seed: int
    ledger: str


class Window(msgspec.Struct, frozen=True):
    """What became of the requests whose answers came within a window. Times count from when a request was due.

    `commands` were acknowledged; `completed` are cancels of orders that had ended before.
    """

    seconds: float
    commands: int
    completed: int
    refused: int
    errors: int
    waiting: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Told(msgspec.Struct, frozen=True):
    """The last line: what was acknowledged in all, and what went wrong."""

    orders: int
    cancels: int
    completed: int
    refused: int
    errors: int
    unanswered: int
    faults: list[str]


class Deck:
    """Orders of one card, without an end. What pairs have bought and sold is the same after each deck."""

    def __init__(self, card: str, choose: random.Random) -> None:
        self._card = card
        self._choose = choose
        self._orders: list[dict[str, Any]] = []

    def draw(self) -> dict[str, Any]:
        """The next order, as a body without a trader."""
        if not self._orders:
            self._orders = [*self._made()]
            self._choose.shuffle(self._orders)
        return self._orders.pop()

    def _made(self) -> Iterator[dict[str, Any]]:
        for _ in range(DECK["pairs"]):
            quantity = self._choose.randint(*QUANTITIES)
            for side in Side:
                yield self._order("pairs", side, quantity)
        for kind in ("away", "expiring"):
            for number in range(DECK[kind]):
                yield self._order(kind, (Side.BUY, Side.SELL)[number % 2], self._choose.randint(*QUANTITIES))

    def _order(self, kind: str, side: Side, quantity: int) -> dict[str, Any]:
        low, high = PRICES[kind][side]
        return {
            "card": self._card,
            "side": side.value,
            "price": f"{self._choose.randint(low, high) / 100:.2f}",
            "quantity": quantity,
            "time_in_force": "ioc" if kind == "expiring" else "gtc",
        }


class Resting(msgspec.Struct, frozen=True):
    """An acknowledged order that may be canceled from a time on."""

    order_id: str
    trader_id: int
    from_time: float


class Clients:
    """All traders of a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._choose = random.Random(f"steady {job.seed}")
        self._decks = [Deck(card, self._choose) for card in job.cards]
        self._tokens = [
            tokens.issue_token(job.secret, number, "trader", TOKEN_SECONDS) for number in range(1, job.traders + 1)
        ]
        self._pattern = [name for name, count in PATTERN.items() for _ in range(count)]
        self._choose.shuffle(self._pattern)
        self._names = 0
        self._resting: deque[Resting] = deque()
        self._ended: deque[Resting] = deque(maxlen=1_000)
        self.loop = OpenLoop((job.host, job.port), CONNECTIONS_MAX, self._take)
        self.ordered: Mapping[str, array[int]] = {card: array("q") for card in job.cards}
        self.canceled: Mapping[str, array[int]] = {card: array("q") for card in job.cards}
        self.faults: list[str] = []
        self.total: dict[str, int] = dict.fromkeys(("orders", "cancels", "completed", "refused", "errors"), 0)
        self._shown = dict(self.total)
        self._latencies: list[float] = []

    @property
    def requests_a_second(self) -> float:
        """The rate of requests that gives the rate of commands."""
        return self._job.rate * len(self._pattern) / PATTERN_COMMANDS

    def make(self, number: int, due: float) -> Request:
        """The next request of the pattern."""
        kind = self._pattern[number % len(self._pattern)]
        if kind == "cancel":
            return self._cancel(due)
        trader_id = self._choose.randint(1, self._job.traders)
        if kind == "single":
            self._names += 1
            body = self._choose.choice(self._decks).draw() | {"client_order_id": f"s{self._names}"}
            return Request(self._post("/orders", trader_id, body), due, (kind, trader_id, [body]))
        orders = [self._choose.choice(self._decks).draw() for _ in range(ORDERS_A_BATCH)]
        return Request(self._post("/orders/batch", trader_id, {"orders": orders}), due, (kind, trader_id, orders))

    def _cancel(self, due: float) -> Request:
        """A cancel of the oldest order away from the market, or else of one that has ended: it is answered with 409."""
        if self._resting and self._resting[0].from_time <= due:
            target = self._resting.popleft()
        elif self._ended:
            target = self._ended.popleft()
        else:
            target = Resting(f"{self._job.cards[0]}-1", 1, 0.0)
        head = (
            f"DELETE /orders/{target.order_id} HTTP/1.1\r\nhost: bench\r\n{self._authorization(target.trader_id)}\r\n"
        )
        return Request(head.encode(), due, ("cancel", target.trader_id, target.order_id))

    def _post(self, path: str, trader_id: int, body: object) -> bytes:
        text = msgspec.json.encode(body)
        head = (
            f"POST {path} HTTP/1.1\r\nhost: bench\r\n{self._authorization(trader_id)}"
            f"content-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
        )
        return head.encode() + text

    def _authorization(self, trader_id: int) -> str:
        return f"authorization: Bearer {self._tokens[trader_id - 1]}\r\n"

    # -- answers

    def _take(self, request: Request, answer: Answer) -> None:
        kind, trader_id, sent = request.about
        self._latencies.append(answer.seconds)
        if answer.status in REFUSED:
            self.total["refused"] += 1
        elif kind == "cancel":
            self._take_cancel(sent, answer)
        elif answer.status != ACCEPTED:
            self._fault(kind, answer)
        elif kind == "single":
            self._take_order(trader_id, sent[0], msgspec.json.decode(answer.body))
        else:
            for body, result in zip(sent, msgspec.json.decode(answer.body)["results"], strict=True):
                self._take_order(trader_id, body, result)

    def _take_order(self, trader_id: int, body: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        if "error" in result:
            name = "refused" if result["error"]["status"] in REFUSED else "errors"
            self.total[name] += 1
            self._note(f"an order of a batch: {result['error']}")
            return
        card, _, sequence = result["order_id"].rpartition("-")
        self.total["orders"] += 1
        self.ordered[card].append(int(sequence))
        resting = Resting(result["order_id"], trader_id, time.perf_counter() + HOLD_SECONDS)
        price = float(body["price"])
        is_away = body["time_in_force"] == "gtc" and not 5 < price < 6
        (self._resting if is_away else self._ended).append(resting)

    def _take_cancel(self, order_id: str, answer: Answer) -> None:
        if answer.status == ACCEPTED:
            card, _, sequence = order_id.rpartition("-")
            self.total["cancels"] += 1
            self.canceled[card].append(int(sequence))
        elif answer.status == COMPLETED or order_id.endswith("-1"):
            self.total["completed"] += 1
        else:
            self._fault("cancel", answer)

    def _fault(self, kind: str, answer: Answer) -> None:
        self.total["errors"] += 1
        told = "no answer" if answer.status == BROKEN else f"{answer.status} {answer.body[:200]!r}"
        self._note(f"{kind}: {told}")

    def _note(self, text: str) -> None:
        if len(self.faults) < 20:
            self.faults.append(text)

    def window(self, seconds: float) -> Window:
        """What came since the last call."""
        now = {name: count - self._shown[name] for name, count in self.total.items()}
        self._shown = dict(self.total)
        latencies, self._latencies = sorted(self._latencies), []
        return Window(
            seconds=round(seconds, 3),
            commands=now["orders"] + now["cancels"],
            completed=now["completed"],
            refused=now["refused"],
            errors=now["errors"],
            waiting=self.loop.waiting,
            p50_ms=1e3 * percentile(latencies, 50),
            p99_ms=1e3 * percentile(latencies, 99),
            max_ms=1e3 * percentile(latencies, 100),
        )


async def run(job: Job) -> None:
    """Sends for as long as the job says, and keeps the ledger."""
    clients = Clients(job)
    await clients.loop.connect(CONNECTIONS_OPENED)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began = time.perf_counter()
    showing = asyncio.create_task(show_windows(clients.window, job.window_seconds, began))
    await clients.loop.pace(clients.requests_a_second, job.seconds, clients.make)
    unanswered = await clients.loop.finish(END_SECONDS)
    showing.cancel()
    print(msgspec.json.encode(clients.window(time.perf_counter() - began)).decode(), flush=True)
    sequences.write(f"{job.ledger}.ordered", clients.ordered)
    sequences.write(f"{job.ledger}.canceled", clients.canceled)
    told = Told(**clients.total, unanswered=unanswered, faults=clients.faults)
    print(msgspec.json.encode(told).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(run(msgspec.json.decode(sys.stdin.readline(), type=Job)))
