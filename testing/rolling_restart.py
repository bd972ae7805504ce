"""Rolling restarts of a `tcgx up` under load, with strict clients: `python -m testing.rolling_restart --rounds 10`.

A strict client counts each request without a whole answer, also on a connection that idled before, and each answer that
is no acknowledgement. It repeats nothing. The ledger is checked against log, books and archive at the end.
"""

import argparse
import asyncio
import itertools
import random
import sys
import threading
import time
from collections.abc import Sequence

import msgspec

from core.model import PlaceOrder, Side, TimeInForce
from core.settings import read
from testing.chaos.checker import Violation, check
from testing.chaos.evidence import gather
from testing.chaos.ledger import Ledger, Placed
from testing.chaos.load import PRICES, Door, order_body
from testing.exchange import TcgxUp, tcgx_up
from testing.oracle.judge import settle
from testing.servers import folder

ANSWER_SECONDS = 20.0
THINK_SECONDS = (0.0, 0.02, 1.5)
"""None, short, and so long that a restart meets idle connections."""
THINK_SECONDS_MAX = 6.0
CLIENTS = 12
"""Half of them keep a connection, half open one for each request."""
WAITING = 0.2
"""The share of orders with `Prefer: wait`."""
JOIN_SECONDS = 60.0


class Unanswered(Exception):
    """A request without a whole answer; says how the connection ended."""


class Connection:
    """A connection of HTTP/1.1 that is used until the server says `Connection: close`."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.was_reused = False

    async def post(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer.

        Raises:
            Unanswered: there is none.
        """
        self.was_reused = self._streams is not None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._post(head, body)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            await self.close()
            raise Unanswered(repr(error)) from error

    async def _post(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
        answer = await reader.readexactly(length)
        if b"connection: close" in lines:
            await self.close()
        return int(lines[0].split()[1]), answer

    async def close(self) -> None:
        """Closes it; the next request opens another one."""
        if self._streams is None:
            return
        _, writer = self._streams
        self._streams = None
        writer.close()


class StrictLoad:
    """All clients, in a thread with an event loop of its own."""

    def __init__(self, door: Door, *, think_seconds: Sequence[float] = THINK_SECONDS, first_trader: int = 1) -> None:
        """`think_seconds`: mean pauses of clients between two requests, one client after the other."""
        self._think_seconds = think_seconds
        self.ledger = Ledger()
        self.unanswered: list[str] = []
        self.refused: list[str] = []
        self.requests = 0
        self._door = door
        self._first_trader = first_trader
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> "StrictLoad":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(JOIN_SECONDS)
        assert not self._thread.is_alive(), "a client does not end"

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._client(self._first_trader + number, keeps=number % 2 == 0))

    async def _client(self, trader_id: int, *, keeps: bool) -> None:
        choose = random.Random(f"rolling restart {trader_id}")
        think = self._think_seconds[trader_id // 2 % len(self._think_seconds)]
        connection, numbers = Connection(self._door.hosts[0], self._door.port), itertools.count(1)
        token = self._door.token(trader_id)
        head = (
            f"POST /orders HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n"
        )
        while not self._stopping.is_set():
            side = choose.choice((Side.BUY, Side.SELL))
            command = PlaceOrder(
                trader_id=trader_id,
                card=choose.choice(self._door.cards),
                side=side,
                price_cents=choose.randint(*PRICES[side]),
                quantity=choose.randint(1, 20),
                time_in_force=TimeInForce.GTC,
                client_order_id=f"{trader_id}-{next(numbers)}",
            )
            (placed,) = self.ledger.enter([command], time.monotonic())
            extra = "" if keeps else "connection: close\r\n"
            extra += "prefer: wait=5\r\n" if choose.random() < WAITING else ""
            await self._place(connection, (head + extra).encode(), placed)
            await asyncio.sleep(min(choose.expovariate(1 / think), THINK_SECONDS_MAX) if think else 0)
        await connection.close()

    async def _place(self, connection: Connection, head: bytes, placed: Placed) -> None:
        self.requests += 1
        try:
            status, answer = await connection.post(head, msgspec.json.encode(order_body(placed.command)))
        except Unanswered as error:
            self.unanswered.append(f"{placed.name}, reused {connection.was_reused}: {error}")
            return
        if status not in (200, 202):
            self.refused.append(f"{placed.name}: {status} {answer.decode()}")
            placed.refusal = str(status)
            return
        order_id = msgspec.json.decode(answer)["order_id"]
        placed.answered(int(order_id.rpartition("-")[2]), time.monotonic())


def door_of(up: TcgxUp) -> Door:
    """Where clients reach it."""
    return Door(up.port, up.urls.jwt_secret, read(up.urls.variables()).cards)


def judge(up: TcgxUp, load: StrictLoad) -> list[Violation]:
    """Every violation in the data of the exchange, once all is matched and archived."""
    settings = read(up.urls.variables())
    settle(settings.redis_url, settings.database_url, settings.cards)
    return check(load.ledger, gather(settings))


def main() -> int:
    """Rounds of restarts with one load. The exit code is 1 if a request was lost or refused, or a rule is violated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="how often all services are restarted (10)")
    parser.add_argument("--workers", type=int, default=2, help="API workers (2)")
    given = parser.parse_args()
    variables = {"TCGX_API_WORKERS": str(given.workers)}
    with folder() as where, tcgx_up(where, variables=variables) as up:
        with StrictLoad(door_of(up)) as load:
            began = time.monotonic()
            for number in range(1, given.rounds + 1):
                up.run("restart")
                print(
                    f"{number:3}  {time.monotonic() - began:6.1f} s  {load.requests} requests, "
                    f"{len(load.unanswered)} unanswered, {len(load.refused)} refused",
                    flush=True,
                )
        found = judge(up, load)
    for text in (*load.unanswered, *load.refused, *map(str, found)):
        print(text)
    print(f"{load.requests} requests, {len(load.unanswered)} unanswered, {len(load.refused)} refused")
    print(f"{load.ledger.acknowledged} orders acknowledged, {len(found)} rules violated")
    return 1 if load.unanswered or load.refused or found else 0


if __name__ == "__main__":
    sys.exit(main())
