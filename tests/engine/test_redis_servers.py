"""Redis servers that are set up in another way than ours: some can be worked with, and the others are named."""

import asyncio
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import redis.exceptions
from structlog.testing import capture_logs

from cli.embedded_redis import RedisServer
from core.errors import StartError, TcgxError
from core.settings import Settings
from engine import connection
from engine.book_reader import BookReader
from testing.exchange import ExchangeServer, exchange_server
from testing.processes import module
from testing.servers import redis_with
from testing.waiting import until

pytestmark = pytest.mark.server


def checked(url: str) -> list[Any]:
    """The log lines of a check that is passed."""

    async def check() -> None:
        async with connection.connect(url) as redis:
            await connection.check(redis, durability="always")

    with capture_logs() as lines:
        asyncio.run(check())
    return [*lines]


def sentence_of(result: "subprocess.CompletedProcess[str]") -> str:
    """Why a service did not start: one sentence, behind log lines at most."""
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    return result.stderr.splitlines()[-1]


# -- commands that are not allowed


FORBIDDEN = {
    "renamed CONFIG": 'rename-command CONFIG ""',
    "renamed CONFIG and INFO": 'rename-command CONFIG ""\nrename-command INFO "hidden"',
    "ACL without dangerous commands": "user default on nopass ~* &* +@all -@dangerous",
    "ACL without CONFIG": "user default on nopass ~* &* +@all -config",
}


@pytest.mark.parametrize("lines", FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_redis_that_hides_its_settings_is_taken_with_a_warning(lines: str) -> None:
    with redis_with(lines) as server:
        told = checked(server.socket_url)

    assert all(line["log_level"] == "warning" for line in told)
    assert any("CONFIG" in line["event"] for line in told)
    assert any("INFO" in line["event"] for line in told) == ("INFO" in lines or "dangerous" in lines)


def test_an_exchange_works_on_a_redis_that_allows_no_dangerous_commands() -> None:
    with exchange_server(redis_lines=[FORBIDDEN["ACL without dangerous commands"]]) as exchange:
        buyer, seller = exchange.client(1), exchange.client(2)
        order = {"card": "pikachu", "price": "2.00"}
        assert buyer.post("/orders", json={"side": "buy", **order}).status_code == 202
        sold = seller.post("/orders", json={"side": "sell", **order}, headers={"prefer": "wait=10"})
        assert sold.json()["status"] == "filled"
        exchange.archived()
        exchange.ready()


@pytest.mark.parametrize("lines", ["user default on nopass ~* &* +@all -config -info -client|list", "appendonly no"])
def test_a_managed_service_is_asked_for_no_configuration_and_that_is_said(lines: str) -> None:
    async def check(url: str) -> None:
        async with connection.connect(url) as redis:
            await redis.config_resetstat()
            await connection.check(redis, durability="managed")
            stats: Any = await redis.info("commandstats")
            assert "cmdstat_config|get" not in stats

    async def check_forbidden(url: str) -> None:
        async with connection.connect(url) as redis:
            await connection.check(redis, durability="managed")

    with redis_with(lines) as server, capture_logs() as told:
        asyncio.run((check_forbidden if "-config" in lines else check)(server.socket_url))

    assert [line["event"] for line in told if "promises durability" in line["event"]] == [told[0]["event"]]
    assert not any("CONFIG" in line["event"] for line in told)


def test_an_exchange_starts_on_a_managed_service_without_config() -> None:
    lines = ["user default on nopass ~* &* +@all -config"]
    with exchange_server("engine", "api", redis_lines=lines, durability="managed") as exchange:
        order = {"card": "pikachu", "side": "buy", "price": "2.00"}
        assert exchange.client(1).post("/orders", json=order).status_code == 202


def test_a_redis_without_config_and_aof_is_refused_by_what_it_does_tell() -> None:
    with redis_with('rename-command CONFIG ""', "appendonly no") as server, pytest.raises(StartError, match="no AOF"):
        checked(server.socket_url)


def test_a_redis_that_only_fsyncs_every_second_is_refused_still() -> None:
    with redis_with(durability="everysec") as server, pytest.raises(StartError, match="appendfsync everysec"):
        checked(server.socket_url)


# -- servers that can't be written to


@contextmanager
def replica() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and a replica of it, which is in step."""
    with redis_with() as primary:
        port = primary.url.rpartition(":")[2].partition("/")[0]
        password = primary.url.partition("default:")[2].partition("@")[0]
        with redis_with(f"replicaof 127.0.0.1 {port}", f"masterauth {password}") as second:
            yield primary, second


@pytest.mark.parametrize("name", ["engine", "api"])
def test_a_service_does_not_start_on_a_replica_and_says_so(name: str) -> None:
    with replica() as (_, second):
        result = module(name, local=Settings(jwt_secret=32 * "x", redis_url=second.socket_url))

    assert "replica of 127.0.0.1" in sentence_of(result)
    assert "primary" in sentence_of(result)


def test_a_primary_that_becomes_a_replica_is_not_ready_for_orders() -> None:
    async def scenario(url: str) -> None:
        async with connection.connect(url) as redis:
            books = BookReader(redis)
            assert await books.answers()
            await redis.replicaof("127.0.0.1", "1")
            with pytest.raises(TcgxError, match=r"it is a replica of 127\.0\.0\.1:1"):
                await books.answers()
            await redis.replicaof("NO", "ONE")
            assert await books.answers()

    with redis_with() as server:
        asyncio.run(scenario(server.socket_url))


@pytest.mark.parametrize("name", ["engine", "api"])
def test_a_service_does_not_start_on_a_part_of_a_cluster(name: str) -> None:
    with redis_with("cluster-enabled yes") as server:
        result = module(name, local=Settings(jwt_secret=32 * "x", redis_url=server.socket_url))

    assert "cluster" in sentence_of(result)


@pytest.mark.parametrize("name", ["engine", "api"])
def test_a_library_that_cannot_be_loaded_is_told_in_a_sentence(name: str) -> None:
    with redis_with("user default on nopass ~* &* +@all -function") as server:
        result = module(name, local=Settings(jwt_secret=32 * "x", redis_url=server.socket_url))

    assert "function" in sentence_of(result).lower()
    assert "permission" in sentence_of(result)


# -- a full disk


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("MISCONF Errors writing to the AOF file: No space left on device", "Redis cannot write to its disk"),
        ("MISCONF Redis is configured to save RDB snapshots", "Redis cannot write to its disk"),
        ("ERR could not do it: No space left on device", "Redis cannot write to its disk"),
        ("READONLY You can't write against a read only replica.", "replica"),
        ("BACKLOG 9 commands of {pikachu} wait to be matched", "9 commands of pikachu wait"),
    ],
)
def test_what_redis_refuses_is_said_in_plain_words(reply: str, said: str) -> None:
    with pytest.raises(TcgxError) as told, connection.redis_errors():
        raise redis.exceptions.ResponseError(reply)

    assert said in str(told.value)
    assert "{" not in str(told.value)


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionResetError(), redis.exceptions.TimeoutError()])
def test_a_failure_without_words_is_told_by_its_kind(error: Exception) -> None:
    with pytest.raises(TcgxError, match=f": {type(error).__name__}$"), connection.redis_errors():
        raise error


def test_a_redis_that_does_not_answer_is_told_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "COMMAND_SECONDS", 0.2)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()

        with pytest.raises(StartError, match=r"does not answer at TCGX_REDIS_URL: \w+"):
            checked(f"redis://127.0.0.1:{mute.getsockname()[1]}")


# -- the library is gone


@pytest.fixture(scope="module")
def exchange() -> Iterator[ExchangeServer]:
    """An exchange whose functions the tests take away."""
    with exchange_server() as server:
        yield server


READS = {
    "cards": ("GET", "/cards", 200),
    "book": ("GET", "/cards/pikachu/book", 200),
    "orders": ("GET", "/orders", 200),
    "order": ("GET", "/orders/{id}", 200),
    "by client id": ("GET", "/orders/by-client-id/kept", 200),
    "cancel": ("DELETE", "/orders/{id}", 202),
    "cancel all": ("DELETE", "/orders", 202),
}


@pytest.mark.parametrize(("method", "path", "status"), READS.values(), ids=READS)
def test_a_read_loads_the_functions_again(exchange: ExchangeServer, method: str, path: str, status: int) -> None:
    trader = exchange.client(5)
    order = {"card": "pikachu", "side": "buy", "price": "1.00", "client_order_id": "kept"}
    trader.delete("/orders", headers={"prefer": "wait=10"})
    order["client_order_id"] = "kept" if path.endswith("kept") else os.urandom(8).hex()
    placed = trader.post("/orders", json=order, headers={"prefer": "wait=10"}).json()
    exchange.redis.function_flush()

    answer = trader.request(method, path.format(id=placed["order_id"]))

    assert answer.status_code == status, answer.text
    exchange.ready()


OTHER_LIBRARY = "#!lua name=tcgx\nredis.register_function('depth', function() return {} end)"


@pytest.mark.parametrize(("other", "status", "part"), [("", 503, "missing"), (OTHER_LIBRARY, 200, "warning")])
def test_readiness_tells_of_functions_that_are_gone_or_others(
    exchange: ExchangeServer, other: str, status: int, part: str
) -> None:
    exchange.ready()

    def told() -> httpx.Response | None:
        with exchange.redis.pipeline(transaction=True) as pipe:  # again and again: others load them within 2 s
            pipe.function_flush()
            if other:
                pipe.function_load(other)
            pipe.execute()
        answer = exchange.http.get("/health/ready")
        return answer if answer.json()["parts"]["functions"]["status"] == part else None

    answer = until(told, f"the functions are never {part}")
    # Without our functions, other services may stop their work, too.
    assert (answer.status_code, "functions" in answer.json()["missing"]) == (status, status == 503)
    exchange.redis.function_flush()
    assert exchange.http.get("/cards").status_code == 200
    exchange.ready()
    assert "lost the Lua library" in exchange.log_of("api")
