"""Appends that fail, and what waits behind them inside a process. No server is needed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import redis.exceptions
from redis.asyncio import Redis

from core.errors import Overloaded, Unavailable
from core.model import Accepted, PlaceOrder, Side
from engine.order_log import OrderLog

ORDER = PlaceOrder(trader_id=1, card="pikachu", side=Side.BUY, price_cents=500)
SECONDS = 5.0


class KnownHistory:
    """A history that was compared before."""

    last_ms = 0

    async def mark(self, _card: str) -> str:
        """Always the same."""
        return "0123 1.2"

    def forget(self, card: str) -> None:
        """It never is another one."""
        raise AssertionError(card)

    def record_sequence(self, card: str, sequence: int, mark: str = "") -> None:
        """Nobody asks for that here."""

    def record_unconfirmed(self, card: str, sequence: int) -> None:
        """Nor for that."""

    def record_confirmed(self, card: str) -> None:
        """Nor for that."""


class FailingClient:
    """A client of Redis whose first pipeline fails, or whose first call in it, once it is let go."""

    def __init__(self, error: Exception) -> None:
        self.go = asyncio.Event()
        self.asked = asyncio.Event()
        self.calls: list[int] = []
        self._error: Exception | None = error

    def pipeline(self, *, transaction: bool) -> "FailingClient":
        """Of one call, for there is one card."""
        assert not transaction
        return self

    def fcall(self, _name: str, _keys: int, _key: str, count: int, *_: Any) -> None:
        """An append."""
        self.calls.append(count)

    async def execute(self, *, raise_on_error: bool) -> list[Any]:
        """The replies."""
        assert not raise_on_error
        self.asked.set()
        if self._error is not None:
            await self.go.wait()
            error, self._error = self._error, None
            if isinstance(error, redis.exceptions.ResponseError):
                return [error]
            raise error
        return [[1, b"2026-11-23T00:00:00.000Z", 1_795_392_000_000]]


async def outcomes(client: FailingClient, *, waiting: int) -> tuple[list[Any], OrderLog]:
    """What becomes of an order whose append fails, and of those that wait behind it."""
    log = OrderLog(cast(Redis, client), backlog_max=1_000, pending_max=1_000, history=KnownHistory())
    first = asyncio.create_task(log.append(ORDER))
    await client.asked.wait()
    behind = [asyncio.create_task(log.append(ORDER)) for _ in range(waiting)]
    await asyncio.sleep(0)
    client.go.set()
    found = await asyncio.wait_for(asyncio.gather(first, *behind, return_exceptions=True), SECONDS)
    return list(found), log


def of_loop(work: Callable[[], Awaitable[None]]) -> None:
    """Runs it; an exception that nobody takes from a task of the log is told to nobody."""

    async def quiet() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _about: None)
        await work()

    asyncio.run(quiet())


def test_what_waits_behind_an_append_without_an_answer_is_refused_at_once() -> None:
    async def work() -> None:
        client = FailingClient(redis.exceptions.TimeoutError("Timeout reading from socket"))

        (first, *behind), log = await outcomes(client, waiting=2_500)

        assert isinstance(first, Unavailable)
        assert {type(outcome) for outcome in behind} == {Overloaded}
        assert client.calls == [1]
        assert await log.append(ORDER) == Accepted(1, "2026-11-23T00:00:00.000Z")
        await log.close()

    of_loop(work)


def test_an_append_that_is_refused_leaves_what_waits_behind_it_to_be_appended() -> None:
    async def work() -> None:
        client = FailingClient(redis.exceptions.ResponseError("BACKLOG 8 commands of {pikachu} wait to be matched"))

        (first, *behind), _ = await outcomes(client, waiting=3)

        assert isinstance(first, Overloaded)
        assert [type(outcome) for outcome in behind] == [Accepted] * 3
        assert client.calls == [1, 3]

    of_loop(work)


def test_an_error_that_nobody_expects_leaves_nobody_waiting() -> None:
    async def work() -> None:
        client = FailingClient(RuntimeError("a fault of the client"))

        (first, *behind), log = await outcomes(client, waiting=2_500)

        assert isinstance(first, RuntimeError)
        assert {type(outcome) for outcome in behind} == {Overloaded}
        assert client.calls == [1]
        assert await log.append(ORDER) == Accepted(1, "2026-11-23T00:00:00.000Z")
        await log.close()

    of_loop(work)
