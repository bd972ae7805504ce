"""Many subscribers on one event loop, which read server-sent events as cheaply as Python allows."""

import asyncio
import sys
import time
from datetime import datetime

import msgspec
import uvloop

HEAD_SECONDS = 30.0
STARTS_AT_ONCE = 50
ENDINGS = (b"gap", b"bye", b"reset", b"error")
"""Names of events that no fan should get."""


class Fan(asyncio.Protocol):
    """A subscriber of the trades of one card. Counts trades, and checks that their numbers follow one another."""

    def __init__(self, card: str, times: dict[str, float]) -> None:
        """`times`: a cache of parsed times that fans share."""
        self.card = card
        self.trades = 0
        self.last_number = 0
        self.faults: list[str] = []
        self.delays_ms: list[float] = []
        """Of the last trade of each message, from its append to its receipt."""
        self._times = times
        self._rest = b""
        self._transport: asyncio.BaseTransport | None = None
        self._head: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def start(self, host: str, port: int) -> None:
        """Subscribes."""
        self._transport, _ = await asyncio.get_running_loop().create_connection(lambda: self, host, port)
        self._transport.write(f"GET /stream?channels=trades:{self.card} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        async with asyncio.timeout(HEAD_SECONDS):
            head = await self._head
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(head.partition(b"\r\n")[0].decode())

    def stop(self) -> None:
        """Ends the connection."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Takes the head of the answer, then whole events."""
        data = self._rest + data
        if not self._head.done():
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._rest = head
                return
            self._head.set_result(head)
        *events, self._rest = data.split(b"\n\n")
        for event in events:
            name = event[event.find(b"event: ") + len(b"event: ") :].partition(b"\n")[0]
            if name == b"trades":
                self._take(event)
            elif name in ENDINGS:
                self.faults.append(event.decode())

    def connection_lost(self, _: Exception | None) -> None:
        """The exchange should not end it."""
        if self._transport is not None and not self._transport.is_closing():
            self.faults.append("the connection ended")

    def _take(self, line: bytes) -> None:
        now = time.time()
        numbers = [int(part.partition(b'"')[0]) for part in line.split(b"-t")[1:]]
        expected = self.last_number + 1 if self.last_number else numbers[0]
        if numbers != list(range(expected, expected + len(numbers))):
            self.faults.append(f"{numbers[:3]} after {self.last_number}")
        self.trades += len(numbers)
        self.last_number = numbers[-1]
        at = line[line.rfind(b'"executed_at":"') + 15 :].partition(b'"')[0].decode()
        sent = self._times.get(at)
        if sent is None:
            sent = self._times[at] = datetime.fromisoformat(at).timestamp()
        self.delays_ms.append((now - sent) * 1_000)


def percentile(values: list[float], percent: float) -> float:
    """The value below which so many percent of the values are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


class FansReport(msgspec.Struct, frozen=True):
    """What a process of fans saw."""

    fans: int
    trades_min: int
    trades_max: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    faults: list[str]


def report(fans: list[Fan]) -> FansReport:
    """Sums up what fans saw."""
    delays = [delay for fan in fans for delay in fan.delays_ms] or [0.0]
    return FansReport(
        len(fans),
        min(fan.trades for fan in fans),
        max(fan.trades for fan in fans),
        percentile(delays, 50),
        percentile(delays, 99),
        max(delays),
        [fault for fan in fans for fault in fan.faults][:5],
    )


async def _watch(host: str, port: int, cards: list[str], count: int) -> FansReport:
    """Subscribes, says `ready`, reads until a line comes in, and sums up."""
    times: dict[str, float] = {}
    fans = [Fan(cards[number % len(cards)], times) for number in range(count)]
    for start in range(0, count, STARTS_AT_ONCE):
        group = fans[start : start + STARTS_AT_ONCE]
        await asyncio.gather(*(fan.start(host, port) for fan in group))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for fan in fans:
        fan.stop()
    return report(fans)


def main() -> None:
    """`python -m testing.stream_fans HOST PORT CARDS COUNT`: a process of fans; its report is a line of JSON."""
    host, port, cards, count = sys.argv[1:]
    found = uvloop.run(_watch(host, int(port), cards.split(","), int(count)))
    print(msgspec.json.encode(found).decode(), flush=True)


if __name__ == "__main__":
    main()
