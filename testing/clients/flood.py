"""`python -m testing.clients.flood`: the clients of `tcgx bench overload`, in a process of their own.

Standard input has a `Job` as a line of JSON. The process says `ready`. Then each line has a `Phase`, which it runs.
After each window it prints a `Window`, and after each phase an empty line. The clients honour no answer: they wait for
nothing and repeat nothing. Every request is a batch whose orders trade with each other, so that books stay small.
"""

import asyncio
import contextlib
import re
import sys
import time
from array import array
from collections.abc import Mapping
from random import Random
from typing import Any

import msgspec
import uvloop

from core.model import Side, price_text
from exchange import tokens
from testing.clients import sequences
from testing.clients.closed_loop import percentile
from testing.clients.open_loop import BROKEN, Answer, OpenLoop, Request
from testing.clients.windows import show_windows

ORDERS_A_REQUEST = 200
REQUESTS = 500
"""So many different requests are made, and sent again and again."""
TOKEN_SECONDS = 86_400
CONNECT_AT_ONCE = 200
PATIENCE_SECONDS = 1.0
"""A request that has no connection for so long is given up, and never sent."""
END_SECONDS = 60.0
PRICES = {Side.BUY: (550, 560), Side.SELL: (540, 550)}
ACCEPTED = 202
REFUSED = (429, 503)
ORDER_ID = re.compile(rb'"order_id":"(\w+)-(\d+)"')
FAULTS_MAX = 20


class Job(msgspec.Struct, frozen=True):
    """Where to, and what keeps the ledger."""

    host: str
    port: int
    secret: str
    cards: list[str]
    traders: int
    connections: int
    window_seconds: float
    seed: int
    ledger: str


class Phase(msgspec.Struct, frozen=True):
    """`rate`: requests a second at fixed times; 0 sends the next request of each of `connections` when it has its
    answer (closed loop)."""

    rate: float
    seconds: float
    connections: int = 0


class Window(msgspec.Struct, frozen=True):
    """Orders of a window: due, sent, acknowledged, refused, given up. `errors` are requests.

    `p99_ms` counts from when an acknowledged request was due. `refused_p99_ms` is the same for refused ones.
    """

    seconds: float
    due: int
    sent: int
    acknowledged: int
    refused: int
    given_up: int
    errors: int
    p50_ms: float
    p99_ms: float
    refused_p99_ms: float


class Told(msgspec.Struct, frozen=True):
    """The last line."""

    acknowledged: int
    refused: int
    errors: int
    unanswered: int
    failed_connects: int
    faults: list[str]


class Flood:
    """All clients of a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._requests = _requests(job)
        self._counts: dict[str, int] = dict.fromkeys(("due", "acknowledged", "refused", "given_up", "errors"), 0)
        self._shown = dict(self._counts)
        self._shown_sent = 0
        self._latencies: list[float] = []
        self._refusals: list[float] = []
        self._is_closed = False
        self._number = 0
        self.faults: list[str] = []
        self.ordered: Mapping[str, array[int]] = {card: array("q") for card in job.cards}
        self.loop = OpenLoop((job.host, job.port), job.connections, self._take)

    def make(self, _: int, due: float) -> Request:
        """The next request."""
        self._number += 1
        self._counts["due"] += ORDERS_A_REQUEST
        return Request(self._requests[self._number % REQUESTS], due, None)

    async def run(self, phase: Phase) -> None:
        """One phase."""
        if phase.rate:
            await self.loop.pace(phase.rate, phase.seconds, self.make)
            return
        self._is_closed = True
        for _ in range(phase.connections):
            self.loop.send(self.make(0, time.perf_counter()))
        await asyncio.sleep(phase.seconds)
        self._is_closed = False

    def _take(self, _: Request, answer: Answer) -> None:
        if answer.status == ACCEPTED:
            found = ORDER_ID.findall(answer.body)
            for card, sequence in found:
                self.ordered[card.decode()].append(int(sequence))
            self._counts["acknowledged"] += len(found)
            self._counts["refused"] += ORDERS_A_REQUEST - len(found)
            self._latencies.append(answer.seconds)
        elif answer.status in REFUSED:
            self._counts["refused"] += ORDERS_A_REQUEST
            self._refusals.append(answer.seconds)
        else:
            self._counts["errors"] += 1
            if len(self.faults) < FAULTS_MAX:
                told = "no answer" if answer.status == BROKEN else f"{answer.status} {answer.body[:200]!r}"
                self.faults.append(told)
        if self._is_closed:
            self.loop.send(self.make(0, time.perf_counter()))

    def window(self, seconds: float) -> Window:
        """What came since the last call."""
        self._counts["given_up"] += ORDERS_A_REQUEST * self.loop.give_up(time.perf_counter() - PATIENCE_SECONDS)
        now = {name: count - self._shown[name] for name, count in self._counts.items()}
        sent, self._shown_sent = self.loop.sent - self._shown_sent, self.loop.sent
        self._shown = dict(self._counts)
        latencies, self._latencies = sorted(self._latencies), []
        refusals, self._refusals = sorted(self._refusals), []
        return Window(
            seconds=round(seconds, 3),
            sent=sent * ORDERS_A_REQUEST,
            p50_ms=1e3 * percentile(latencies, 50),
            p99_ms=1e3 * percentile(latencies, 99),
            refused_p99_ms=1e3 * percentile(refusals, 99),
            **now,
        )

    def told(self, unanswered: int) -> Told:
        """The sums."""
        counts = {name: self._counts[name] for name in ("acknowledged", "refused", "errors")}
        return Told(**counts, unanswered=unanswered, failed_connects=self.loop.failed_connects, faults=self.faults)


def _requests(job: Job) -> list[bytes]:
    """Whole requests, each of one trader, with as much to buy as to sell on each card."""
    choose, made = Random(f"flood {job.seed}"), []
    for _ in range(REQUESTS):
        orders: list[dict[str, Any]] = []
        while len(orders) < ORDERS_A_REQUEST:
            card, quantity = choose.choice(job.cards), choose.randint(1, 20)
            for side in Side:
                price = price_text(choose.randint(*PRICES[side]))
                orders.append({"card": card, "side": side.value, "price": price, "quantity": quantity})
        choose.shuffle(orders)
        token = tokens.issue_token(job.secret, choose.randint(1, job.traders), "trader", TOKEN_SECONDS)
        body = msgspec.json.encode({"orders": orders})
        head = (
            f"POST /orders/batch HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    return made


async def run(job: Job) -> None:
    """Runs phase after phase, and keeps the ledger."""
    flood = Flood(job)
    await flood.loop.connect(min(CONNECT_AT_ONCE, job.connections))
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        began = time.perf_counter()
        showing = asyncio.create_task(show_windows(flood.window, job.window_seconds, began))
        await flood.run(msgspec.json.decode(line, type=Phase))
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing
        print(flush=True)
    unanswered = await flood.loop.finish(END_SECONDS)
    sequences.write(f"{job.ledger}.ordered", flood.ordered)
    print(msgspec.json.encode(flood.told(unanswered)).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(run(msgspec.json.decode(sys.stdin.readline(), type=Job)))
