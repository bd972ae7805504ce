"""Fixtures that tests of several packages share. A server is one for the whole run unless its name says otherwise."""

import asyncio
import os
from collections.abc import Iterator

import pytest
from redis import Redis

# Tests are clients of gRPC and start processes: its handlers of a fork must not run in those.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
pytest.register_assert_rewrite("testing")

from testing.exchange import ExchangeServer, exchange_server  # noqa: E402 - after their assertions are to be explained
from testing.market import Market  # noqa: E402
from testing.servers import LoadedRedis, Servers, client_of, loaded_redis, servers  # noqa: E402

LONG = (
    *("test_readme", "test_schemathesis", "test_fuzz_bodies", "test_chaos", "test_kill", "test_bench", "test_backup"),
    *("test_rolling_restart", "test_floods", "test_http_oracle", "test_up", "test_failover", "test_trust"),
)
"""Modules that take longest. They come first, so that no process is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest modules first."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[LoadedRedis]:
    """The Redis that the tests share."""
    with loaded_redis() as server:
        yield server


@pytest.fixture
def redis_client(redis_server: LoadedRedis) -> Redis:
    """A client of the shared server, which is empty but has the library."""
    client = redis_server.client()
    client.flushall()
    return client


@pytest.fixture
def market(redis_client: Redis) -> Market:
    """An empty card of the shared server."""
    return Market(redis_client)


@pytest.fixture
def own_server() -> Iterator[LoadedRedis]:
    """A Redis for one test alone, which may stop and start it."""
    with loaded_redis() as server:
        yield server


@pytest.fixture(scope="session")
def shared_servers() -> Iterator[Servers]:
    """The Redis and the PostgreSQL that the tests share."""
    with servers() as running:
        yield running


@pytest.fixture
def pair(shared_servers: Servers) -> Servers:
    """Both, as empty as at their start. Services that a test starts on them it stops, too."""
    asyncio.run(shared_servers.empty())
    return shared_servers


@pytest.fixture
def pair_client(pair: Servers) -> Iterator[Redis]:
    """A client of the pair's Redis."""
    with client_of(pair.settings.redis_url) as client:
        yield client


@pytest.fixture(scope="session")
def exchange() -> Iterator[ExchangeServer]:
    """The exchange that the tests share: nobody stops a part of it, and each test takes traders of its own."""
    with exchange_server() as server:
        yield server


@pytest.fixture(autouse=True)
def books_are_empty_again(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test on the shared exchange no order rests, so that the next one meets its own orders alone."""
    if "exchange" not in request.fixturenames:
        yield
        return
    exchange: ExchangeServer = request.getfixturevalue("exchange")
    yield
    exchange.empty_books()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Long runs are asked for."""
    parser.addoption("--rounds", type=int, default=6, help="how many random histories of failures are run")
