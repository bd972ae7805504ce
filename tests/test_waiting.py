"""What waits inside a process: for an append, for a match, for a token to be looked at. No server is needed."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest
import redis.exceptions
from redis.asyncio import Redis

from archiver.queries import Archive
from core import service
from core.errors import Kind, Overloaded, Unauthenticated, Unavailable
from core.model import Accepted, PlaceOrder, Side, Status
from core.settings import Settings
from engine.match_notifications import FORGOTTEN_MAX, MatchNotification, MatchNotifier
from engine.nodes import Node, Nodes
from engine.order_log import OrderLog
from exchange import tokens
from exchange.auth import Authenticator

ORDER = PlaceOrder(trader_id=1, card="pikachu", side=Side.BUY, price_cents=500)
SECRET = 32 * "x"
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

    def given(self, _card: str, _sequence: int) -> None:
        """Nobody asks for that here."""


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


def test_those_who_have_waited_in_vain_are_forgotten_and_the_others_are_not() -> None:
    async def work() -> None:
        watch = MatchNotifier(Nodes([Node(cast(Redis, None), cast(Redis, None), ["pikachu"])]))
        patient = [asyncio.create_task(watch.wait("pikachu", sequence, SECONDS)) for sequence in (3, 1, 2)]
        await asyncio.sleep(0)

        for sequence in range(1_000):
            assert not await watch.wait("pikachu", 10 + sequence, 0)

        assert len(watch._waiters["pikachu"]) <= 2 * len(patient) + FORGOTTEN_MAX + 1
        watch._advance("pikachu", 2)
        await asyncio.wait(patient[1:], timeout=SECONDS)
        assert [task.done() for task in patient] == [False, True, True]
        watch._advance("pikachu", 3)
        assert await patient[0]

    asyncio.run(work())


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_token_is_remembered_once_however_its_header_is_spaced(scheme: str) -> None:
    authenticator = Authenticator(Settings(jwt_secret=SECRET), cast(Archive, None))
    token = tokens.issue_token(SECRET, 7, "trader", 60)

    found = [
        authenticator.authenticate(f"{scheme}{' ' * spaces}{token}{' ' * behind}".encode())
        for spaces in (1, 2, 9)
        for behind in (0, 3)
    ]

    assert all(caller is found[0] for caller in found)
    assert found[0].trader_id == 7
    assert len(authenticator._caller_by_header) == 1


def test_a_token_that_is_remembered_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    authenticator = Authenticator(Settings(jwt_secret=SECRET), cast(Archive, None))
    header = f"Bearer {tokens.issue_token(SECRET, 7, 'trader', 60)}".encode()
    expires_at = authenticator.authenticate(header).expires_at

    for seconds, code in ((-1, None), (0, "token_expired"), (1, "token_expired"), (-1, None)):
        monkeypatch.setattr("exchange.auth.time.time", lambda at=expires_at + seconds: at)

        if code is None:
            assert authenticator.authenticate(header).trader_id == 7
            continue
        with pytest.raises(Unauthenticated) as raised:
            authenticator.authenticate(header)
        assert raised.value.code == code


def test_no_more_tokens_are_remembered_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exchange.auth.CACHED_TOKENS_MAX", 10)
    authenticator = Authenticator(Settings(jwt_secret=SECRET), cast(Archive, None))
    headers = [f"Bearer {tokens.issue_token(SECRET, trader_id, 'trader', 60)}".encode() for trader_id in range(1, 26)]

    for _ in range(2):
        assert [authenticator.authenticate(header).trader_id for header in headers] == list(range(1, 26))
        assert len(authenticator._caller_by_header) <= 10


@pytest.mark.parametrize("header", [None, b"", b"Bearer", b"Bearer  ", b"Basic x", b"Bearer \xff\x00", b"Bearer a.b.c"])
def test_what_is_no_token_is_not_remembered(header: bytes | None) -> None:
    authenticator = Authenticator(Settings(jwt_secret=SECRET), cast(Archive, None))

    with pytest.raises(Unauthenticated) as raised:
        authenticator.authenticate(header)

    assert raised.value.kind is Kind.UNAUTHENTICATED
    assert not authenticator._caller_by_header


def test_a_task_that_loses_a_cancellation_is_ended_all_the_same() -> None:
    async def loses_the_first() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    async def run() -> bool:
        task = asyncio.create_task(loses_the_first())
        await asyncio.sleep(0)
        await asyncio.wait_for(service.cancel_and_wait(task), 5)
        return task.cancelled()

    assert asyncio.run(run())


# What a match call told.


LINES = (
    b"000000000007,000000000012,000000000003,1,5,500,2,buy,2026-11-23T00:00:00.001Z\n"
    b"000000000008,000000000013,000000000012,4,1,500,1,sell,2026-11-23T00:00:00.001Z\n"
    b"000000000003,5,sell,500,2,gtc,,2026-11-22T00:00:00.000Z,2,filled,2026-11-23T00:00:00.001Z\n"
    b"000000000013,4,sell,500,1,gtc,,2026-11-23T00:00:00.000Z,1,filled,2026-11-23T00:00:00.001Z\n"
)
AT = "2026-11-23T00:00:00.000Z"


def test_what_a_small_call_told_answers_for_its_orders() -> None:
    told = MatchNotification(b"11 14 2\n" + LINES)

    rests, nothing = told.result(ORDER, Accepted(11, AT))
    partly, made = told.result(msgspec.structs.replace(ORDER, quantity=9), Accepted(12, AT))
    filled, sold = told.result(msgspec.structs.replace(ORDER, side=Side.SELL, trader_id=4), Accepted(13, AT))

    assert (told.first, told.last, told.is_whole) == (11, 14, True)
    assert (rests.status, rests.filled_quantity, nothing) == (Status.OPEN, 0, [])
    assert (partly.status, partly.filled_quantity) == (Status.PARTIALLY_FILLED, 3)
    assert [(fill.trade.number, fill.trade.quantity, fill.is_taker) for fill in made] == [(7, 2, True), (8, 1, False)]
    assert (filled.status, filled.closed_at) == (Status.FILLED, "2026-11-23T00:00:00.001Z")
    assert [(fill.trade.number, fill.is_taker) for fill in sold] == [(8, True)]


@pytest.mark.parametrize(
    ("text", "sequence", "accepted_at"),
    [(b"11 14", 12, AT), (b"11 14 0\n", 15, AT), (b"11 14 0\n", 10, AT), (b"11 14 0\n", 12, None)],
    ids=["a large call", "a later order", "an earlier order", "a repeated order"],
)
def test_what_was_not_told_is_read(text: bytes, sequence: int, accepted_at: str | None) -> None:
    watch = MatchNotifier(Nodes([Node(cast(Redis, None), cast(Redis, None), ["pikachu"])]))
    watch.take("pikachu", MatchNotification(text))

    assert watch.result(ORDER, Accepted(sequence, accepted_at)) is None
