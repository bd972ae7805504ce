"""Clients of the shared exchange: the one that blocks, and the one for asyncio with the same surface."""

import asyncio
import inspect
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from tcgx_client import AsyncTcgx, Tcgx

from testing.exchange import SEEDED, ExchangeServer

WITH_KEYS = itertools.cycle(range(2, SEEDED))
"""The traders who have API keys. A test may meet completed orders of an earlier one; books are empty after each."""

NEW = itertools.count(500_000)
"""Traders who have no orders, and tokens alone."""


class Awaited:
    """An object of the async client as one that blocks: what its methods return is awaited."""

    def __init__(self, of: Any, runner: asyncio.Runner) -> None:
        self._of = of
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)
        return self._call(found) if callable(found) else found

    def _call(self, method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **options: self._wrapped(method(*arguments, **options))

    def _wrapped(self, result: Any) -> Any:
        if inspect.isawaitable(result):
            return self._wrapped(self._runner.run(_awaited(result)))
        is_ours = isinstance(result, AsyncIterator)
        return Awaited(result, self._runner) if is_ours else result

    def __iter__(self) -> Iterator[Any]:
        while True:
            try:
                yield self._runner.run(_awaited(self._of.__anext__()))
            except StopAsyncIteration:
                return

    def __enter__(self) -> Any:
        self._runner.run(_awaited(self._of.__aenter__()))
        return self

    def __exit__(self, *error: object) -> None:
        self._runner.run(_awaited(self._of.__aexit__(*error)))


async def _awaited(result: Any) -> Any:
    return await result


MakeClient = Callable[..., Any]


@pytest.fixture
def usual_options() -> dict[str, Any]:
    """What the clients of a module are made with, unless a test says otherwise."""
    return {}


@pytest.fixture(params=["sync", "async"])
def make_client(
    request: pytest.FixtureRequest, exchange: ExchangeServer, usual_options: dict[str, Any]
) -> Iterator[MakeClient]:
    """Makes clients of the shared exchange, of one kind or the other; `trader_id=0` is nobody."""
    made: list[Any] = []
    with asyncio.Runner() as runner:

        def make(trader_id: int = 1, **options: Any) -> Any:
            options = usual_options | options
            if trader_id:
                options = identity(exchange, trader_id) | options
            url = options.pop("base_url", exchange.url)
            is_sync = request.param == "sync"
            client = Tcgx(url, **options) if is_sync else Awaited(AsyncTcgx(url, **options), runner)
            made.append(client)
            return client

        yield make
        for client in made:
            client.close()


def identity(exchange: ExchangeServer, trader_id: int) -> dict[str, Any]:
    """The API key of a trader who has one, else a token."""
    if trader_id <= SEEDED:
        return {"trader_id": trader_id, "api_key": exchange.api_key(trader_id)}
    return {"token": exchange.bearer(trader_id)["authorization"].removeprefix("Bearer ")}


@pytest.fixture
def trader_id() -> int:
    """A trader who has an API key."""
    return next(WITH_KEYS)


@pytest.fixture
def client(make_client: MakeClient) -> Any:
    """A client of a trader who has no orders yet."""
    return make_client(next(NEW))
