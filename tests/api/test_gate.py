"""Identity, limit and observer are said once, and hold on both ways to an answer."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar

from api.app import create_app
from api.gate import Limit, Observer
from api.server import serve
from core.errors import Overloaded
from core.settings import Settings
from exchange import tokens
from exchange.tokens import Caller
from testing.clients.trader import http_client
from testing.exchange import ExchangeServer
from testing.servers import free_port
from testing.waiting import until

pytestmark = pytest.mark.server

ORDER = {"card": "pikachu", "side": "buy", "price": "1.00"}
LIMITED = 900_017
TRADER = 900_018


class Seen:
    """Remembers what an observer is told."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, int]] = []

    def answered(self, operation: str, status: int, seconds: float) -> None:
        assert 0 <= seconds < 10
        self.answers.append((operation, status))

    def taken(self, count: int) -> list[tuple[str, int]]:
        until(lambda: len(self.answers) >= count, why=f"{self.answers}")
        found, self.answers = self.answers, []
        return found


def limit(caller: Caller) -> None:
    if caller.trader_id == LIMITED:
        raise Overloaded("trader 900017 asks too much")


@contextmanager
def served(settings: Settings, **options: Limit | Observer) -> Iterator[str]:
    """An API process's worth of server, in a thread."""
    local = msgspec.structs.replace(settings, port=free_port(), api_workers=1)
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def work() -> None:
        stopping = asyncio.Event()
        started.append((asyncio.get_running_loop(), stopping))
        await serve(local, stopping, partial(create_app, **options))  # type: ignore[arg-type]

    thread = threading.Thread(target=asyncio.run, args=[work()])
    thread.start()
    url = f"http://127.0.0.1:{local.port}"
    try:
        until(lambda: _lives(url), why="it does not start")
        yield url
    finally:
        loop, stopping = started[0]
        loop.call_soon_threadsafe(stopping.set)
        thread.join()


def _lives(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_both_ways_tell_the_observer_and_keep_to_the_limit(exchange: ExchangeServer) -> None:
    seen = Seen()
    secret = exchange.settings.jwt_secret
    with served(exchange.settings, limit=limit, observer=seen.answered) as url:
        seen.answers.clear()

        with http_client(url, f"Bearer {tokens.issue_token(secret, TRADER, 'trader', 60)}") as trader:
            assert trader.post("/orders", json=ORDER).status_code == 202
            assert trader.post("/orders?x=1", json=ORDER).status_code == 422  # Litestar's way: the target has a query
            assert trader.post("/orders", json=ORDER | {"price": "0"}).status_code == 422
            assert trader.post("/orders/batch", json={"orders": [ORDER]}).status_code == 202
            assert trader.get("/orders").status_code == 200
            assert trader.get("/nowhere").status_code == 404
            assert trader.delete("/orders", headers={"prefer": "wait=10"}).status_code == 200
        assert seen.taken(7) == [
            ("place_order", 202),
            ("place_order", 422),
            ("place_order", 422),
            ("place_orders", 202),
            ("list_orders", 200),
            ("", 404),
            ("cancel_orders", 200),
        ]

        with http_client(url, f"Bearer {tokens.issue_token(secret, LIMITED, 'trader', 60)}") as limited:
            answers = [limited.post("/orders", json=ORDER), limited.get("/orders"), limited.delete("/orders")]
            answers += [limited.get("/cards"), limited.post("/orders", json=ORDER, headers={"authorization": "x"})]
        assert [answer.status_code for answer in answers] == [503, 503, 503, 200, 401]
        assert [answer.headers.get("retry-after") for answer in answers[:3]] == ["1"] * 3
        assert {answer.json()["code"] for answer in answers[:3]} == {"overloaded"}
        assert [status for _, status in seen.taken(5)] == [503, 503, 503, 200, 401]


def test_a_task_of_the_background_that_fails_ends_the_server(exchange: ExchangeServer) -> None:
    settings = msgspec.structs.replace(exchange.settings, port=free_port(), api_workers=1)
    failing: asyncio.Event

    def app_of(local: Settings) -> Litestar:
        app = create_app(local)

        async def fail() -> None:
            await failing.wait()
            raise RuntimeError("a task that nobody waits for")

        async def prepare(made: Litestar) -> None:
            made.state.background = (*made.state.background, asyncio.create_task(fail()))

        app.on_startup.append(prepare)
        return app

    async def work() -> Any:
        nonlocal failing
        failing = asyncio.Event()
        serving = asyncio.create_task(serve(settings, asyncio.Event(), app_of))
        await asyncio.to_thread(until, lambda: _lives(f"http://127.0.0.1:{settings.port}"))
        assert not serving.done()
        failing.set()
        return await asyncio.wait_for(serving, 10)

    with pytest.raises(RuntimeError, match="a task that nobody waits for"):
        asyncio.run(work())
