"""What holds at the seam below HTTP and on both ways through it: bounds, texts of any door, counting, the end."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from decimal import Decimal
from functools import partial
from typing import Any, cast

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from api.app import create_app
from api.gate import Limit, Observer
from api.problems import problem_of
from api.server import serve
from core.errors import InvalidRequest, Kind, OrderNotFound, TcgxError, UnknownCard
from core.model import PlaceOrder, Side
from core.rules import OrderRules
from core.settings import Settings
from exchange import wiring
from exchange.archive_reader import ArchiveReader, HistoryQuery
from exchange.market import CandleQuery, Market
from exchange.service import Exchange, OrderFilter
from exchange.tokens import Caller
from testing.exchange import ExchangeServer, exchange_server

SECONDS = 10.0
CALLER = Caller(7, "trader", 2**40)
LONE_SURROGATE = "\ud800"
ORDER = {"card": "pikachu", "side": "buy", "price": "1.00"}

Call = Callable[[Exchange], Awaitable[object]]
NOTHING = cast(Any, None)
ARCHIVE = ArchiveReader(Settings().cards, NOTHING, NOTHING)
MARKET = Market(Settings().cards, NOTHING, NOTHING)


# -- bounds and texts: a door that is not HTTP checks nothing itself


@pytest.fixture
def unconnected() -> Exchange:
    """An exchange whose servers nobody may ask: what is wrong is refused before."""
    return Exchange(Settings(), *(cast(Any, None) for _ in range(4)), deadlines=cast(Any, None))


@pytest.mark.parametrize(
    "price", [Decimal("Infinity"), Decimal("-Infinity"), Decimal("NaN"), Decimal("sNaN"), 5.5, float("inf")], ids=str
)
def test_a_price_that_is_no_finite_decimal_is_refused(price: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        OrderRules(Settings()).check([("card", "pikachu"), ("side", "buy"), ("price", price)], 7)

    assert refused.value.code == "invalid_price"
    assert "an array" not in refused.value.detail
    assert msgspec.json.encode(problem_of(refused.value))


OUT_OF_BOUNDS: dict[str, tuple[str, Call]] = {
    "no order": ("invalid_limit", lambda exchange: exchange.orders(CALLER, OrderFilter(limit=0))),
    "51 orders": ("invalid_limit", lambda exchange: exchange.orders(CALLER, OrderFilter(limit=51))),
    "501 open orders": (
        "invalid_limit",
        lambda exchange: exchange.orders(CALLER, OrderFilter(status="open", limit=501)),
    ),
    "no fill": ("invalid_limit", lambda exchange: exchange.fills(CALLER, before=None, limit=0)),
    "501 fills": ("invalid_limit", lambda exchange: exchange.fills(CALLER, before=None, limit=501)),
    "501 archived orders": ("invalid_limit", lambda _: ARCHIVE.orders(CALLER, HistoryQuery(limit=501))),
    "501 archived trades": ("invalid_limit", lambda _: ARCHIVE.trades(HistoryQuery(card="pikachu", limit=501))),
    "-1 archived trades": ("invalid_limit", lambda _: ARCHIVE.trades(HistoryQuery(card="pikachu", limit=-1))),
    "1001 candles": ("invalid_limit", lambda _: MARKET.candles("pikachu", CandleQuery(interval="1m", limit=1_001))),
    "51 latest trades": ("invalid_limit", lambda exchange: exchange.latest_trades("pikachu", 51)),
    "no level": ("invalid_depth", lambda exchange: exchange.book("pikachu", 0)),
    "1001 levels": ("invalid_depth", lambda exchange: exchange.book("pikachu", 1_001)),
}


@pytest.mark.parametrize(("code", "call"), OUT_OF_BOUNDS.values(), ids=OUT_OF_BOUNDS)
def test_the_exchange_itself_bounds_what_a_call_may_ask_for(unconnected: Exchange, code: str, call: Call) -> None:
    with pytest.raises(InvalidRequest) as refused:
        asyncio.run(cast(Any, call(unconnected)))

    assert refused.value.code == code


WITH_SURROGATE: dict[str, Call] = {
    "order_id": lambda exchange: exchange.find(CALLER, f"{LONE_SURROGATE}-1"),
    "client_order_id": lambda exchange: exchange.find_by_client_id(CALLER, LONE_SURROGATE),
    "card": lambda exchange: exchange.book(LONE_SURROGATE, 1),
    "card of a filter": lambda exchange: exchange.orders(CALLER, OrderFilter(card=LONE_SURROGATE)),
    "status": lambda exchange: exchange.orders(CALLER, OrderFilter(status=LONE_SURROGATE)),
    "side": lambda exchange: exchange.orders(CALLER, OrderFilter(side=LONE_SURROGATE)),
    "before": lambda exchange: exchange.orders(CALLER, OrderFilter(before=LONE_SURROGATE)),
    "before of fills": lambda exchange: exchange.fills(CALLER, before=LONE_SURROGATE, limit=1),
    "before of the archive": lambda _: ARCHIVE.orders(CALLER, HistoryQuery(before=LONE_SURROGATE)),
    "after of the archive": lambda _: ARCHIVE.trades(HistoryQuery(card="pikachu", after=LONE_SURROGATE)),
    "since of the archive": lambda _: ARCHIVE.orders(CALLER, HistoryQuery(since=LONE_SURROGATE)),
    "interval": lambda _: MARKET.candles("pikachu", CandleQuery(interval=LONE_SURROGATE)),
    "start": lambda _: MARKET.candles("pikachu", CandleQuery(interval="1m", start=LONE_SURROGATE)),
}


@pytest.mark.parametrize("call", WITH_SURROGATE.values(), ids=WITH_SURROGATE)
def test_a_refusal_that_repeats_a_text_without_utf_8_can_be_sent(unconnected: Exchange, call: Call) -> None:
    with pytest.raises((InvalidRequest, OrderNotFound, UnknownCard)) as refused:
        asyncio.run(cast(Any, call(unconnected)))

    assert b"\\\\ud800" in msgspec.json.encode(problem_of(refused.value))


# -- limit and observer, on the fast path and through Litestar


class Counter:
    """An observer that keeps what it is told, and fails if it is to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.told: list[tuple[str, int]] = []
        self._error = error

    def __call__(self, operation: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.told.append((operation, status))
        if self._error is not None:
            raise self._error


def _refuse(_: Caller) -> None:
    """A limit that nobody keeps. Its error is no class of its own: those must be in the table of codes."""
    error = TcgxError("too many requests")
    error.kind = Kind.RATE_LIMITED
    error.code = "too_many"
    raise error


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def served(
    exchange: ExchangeServer, *, limit: Limit | None = None, observer: Observer | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """Another API process's worth of server on the shared exchange, within this one; a client of trader 7."""
    settings = msgspec.structs.replace(exchange.settings, port=_free_port(), api_workers=1)
    stopping = asyncio.Event()
    serving = asyncio.create_task(serve(settings, stopping, partial(create_app, limit=limit, observer=observer)))
    base_url = f"http://127.0.0.1:{settings.port}"
    client = httpx.AsyncClient(base_url=base_url, headers=exchange.bearer(7), trust_env=False, timeout=SECONDS)
    try:
        async with asyncio.timeout(SECONDS):
            while not await _listens(settings.port):
                assert not serving.done(), serving
        yield client
    finally:
        await client.aclose()
        stopping.set()
        await asyncio.wait_for(serving, SECONDS)


async def _listens(port: int) -> bool:
    """Whether the server is up; it tells nobody, so it is asked. Nothing is sent, so nothing is answered."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        await asyncio.sleep(0.01)
        return False
    writer.close()
    return True


async def _raw(client: httpx.AsyncClient, request: bytes) -> bytes:
    """Sends bytes as they are; all that comes until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), SECONDS)
    finally:
        writer.close()


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    """A body without Content-Length, which goes to Litestar."""
    yield body


@pytest.mark.server
def test_every_answer_is_observed_once(exchange: ExchangeServer) -> None:
    counter = Counter()
    order = msgspec.json.encode(ORDER)

    async def work() -> None:
        async with served(exchange, observer=counter) as client:
            await client.post("/orders", content=order)
            await client.post("/orders", content=_chunks(order))
            await client.post("/orders", content=b"{}")
            await client.post("/orders", content=_chunks(b"{}"))
            await client.post("/orders", content=order, headers={"authorization": "Bearer x"})
            await client.head("/cards")
            await client.get("/cards/mew/book")
            await client.get("/nowhere")
            await client.patch("/orders")
            await _raw(client, b"this is no HTTP\r\n\r\n")
            await _raw(client, b"GET / HTTP/1.1\r\nhost: x\r\nlong: " + 70_000 * b"x")

    asyncio.run(work())

    assert counter.told == [
        ("place_order", 202),
        ("place_order", 202),
        ("place_order", 422),
        ("place_order", 422),
        ("place_order", 401),
        ("list_cards", 200),
        ("get_book", 404),
        ("", 404),
        ("", 405),
        ("", 400),
        ("", 431),
    ]


@pytest.mark.server
def test_an_observer_that_fails_costs_no_client_its_answer(exchange: ExchangeServer) -> None:
    counter = Counter(RuntimeError("the observer is broken"))
    order = msgspec.json.encode(ORDER)

    async def work() -> list[int]:
        async with served(exchange, observer=counter) as client:
            answers = [
                await client.post("/orders", content=order),
                await client.post("/orders", content=_chunks(order)),
                await client.get("/cards"),
            ]
            refusal = await _raw(client, b"this is no HTTP\r\n\r\n")
            return [*(answer.status_code for answer in answers), int(refusal.split()[1])]

    with capture_logs() as lines:
        statuses = asyncio.run(work())

    assert statuses == [202, 202, 200, 400]
    assert len(counter.told) == 4
    assert [line["event"] for line in lines if line["log_level"] == "error"] == 4 * ["an answer could not be observed"]


@pytest.mark.server
def test_a_limit_refuses_alike_on_both_ways(exchange: ExchangeServer) -> None:
    counter = Counter()
    order = msgspec.json.encode(ORDER)
    before = exchange.sequences()

    async def work() -> list[httpx.Response]:
        async with served(exchange, limit=_refuse, observer=counter) as client:
            return [
                await client.post("/orders", content=order),
                await client.post("/orders", content=_chunks(order)),
                await client.get("/orders"),
            ]

    answers = asyncio.run(work())

    assert [answer.status_code for answer in answers] == 3 * [429]
    assert [answer.json()["code"] for answer in answers] == 3 * ["too_many"]
    assert [answer.headers["retry-after"] for answer in answers] == 3 * ["1"]
    assert counter.told == [("place_order", 429), ("place_order", 429), ("list_orders", 429)]
    assert exchange.sequences() == before


# -- the end of a connected exchange


@pytest.fixture(name="own")
def own_exchange() -> Iterator[ExchangeServer]:
    with exchange_server("engine") as server:
        yield server


@pytest.mark.server
def test_a_door_that_is_canceled_while_it_ends_leaves_no_task_behind(own: ExchangeServer) -> None:
    pid = own.servers.redis.pid
    assert pid is not None

    async def work() -> set[str]:
        connected: asyncio.Future[Exchange] = asyncio.get_running_loop().create_future()
        leaving = asyncio.Event()

        async def door() -> None:
            async with wiring.connect(own.settings) as services:
                connected.set_result(services.exchange)
                await leaving.wait()

        running = asyncio.create_task(door())
        exchange = await asyncio.wait_for(asyncio.shield(connected), SECONDS)
        os.kill(pid, signal.SIGSTOP)  # so the end waits for the append
        try:
            command = PlaceOrder(trader_id=7, card="pikachu", side=Side.BUY, price_cents=100)
            placing = asyncio.create_task(exchange.place(command))
            leaving.set()
            for _ in range(3):  # the order is handed over, and the door is in its end
                await asyncio.sleep(0)
            assert not running.done()
            running.cancel()
            await asyncio.wait({running}, timeout=SECONDS)
            assert running.cancelled()
            return {task.get_name() for task in asyncio.all_tasks() if not task.done()}
        finally:
            os.kill(pid, signal.SIGCONT)
            with suppress(asyncio.CancelledError, TcgxError):
                await asyncio.wait_for(placing, SECONDS)

    left = asyncio.run(work())

    assert not {"match notifications", "history"} & left
