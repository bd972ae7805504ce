"""A whole exchange for the tests: real servers, and engine, archiver and API as processes of their own.

Everything is in a data directory of its own and on a port of its own, so that the suite may run several times at once
on one machine; every process is stopped by its id, and nothing is left behind.
"""

import asyncio
import csv
import http.client
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from archiver import postgres, schema, traders
from cli import datadir, embedded
from cli.embedded_postgres import PostgresServer
from cli.embedded_redis import RedisServer
from cli.supervisor import Process
from core import settings
from core.settings import Settings
from engine import keys
from exchange import tokens
from tests.contract import Contract

SERVICES = ("engine", "archiver", "api")
TRADERS = 40
ANSWER_SECONDS = 15.0
POLL_SECONDS = 0.01


class Answer(msgspec.Struct, frozen=True):
    """What came back for a request that was written byte by byte."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body."""
        return msgspec.json.decode(self.body)


def until(holds: Callable[[], Any], *, seconds: float = ANSWER_SECONDS, why: str = "") -> Any:
    """What `holds` gives as soon as that is true; fails after `seconds`. Other processes tell nothing: it asks."""
    deadline = time.monotonic() + seconds
    while True:
        value = holds()
        if value:
            return value
        assert time.monotonic() < deadline, f"not after {seconds} s: {why or holds}"
        time.sleep(POLL_SECONDS)


class ExchangeServer:
    """The servers and services of one exchange. What a test stops, it can start again."""

    def __init__(self, data_dir: Path, **overrides: Any) -> None:
        """`overrides` are settings by their field's name."""
        self._reserved = _reserve_port()
        port: int = self._reserved.getsockname()[1]
        loaded = datadir.load_secrets(data_dir)
        self.data_dir = data_dir
        self.url = f"http://127.0.0.1:{port}"
        # Two workers mean that the port may be shared: with the socket that keeps it for us while the API is stopped.
        self._settings = Settings(
            data_dir=str(data_dir), port=port, api_workers=2, jwt_secret=loaded.jwt_secret, **overrides
        )
        self.redis_server = RedisServer(self._settings, loaded)
        self.postgres_server = PostgresServer(self._settings, loaded)
        self._contract = Contract(self._settings)
        self._processes: dict[str, Process] = {}
        self._clients: list[httpx.Client] = []
        self._redis: Redis | None = None
        self.http: httpx.Client = self.client()

    @property
    def settings(self) -> Settings:
        """What the services run with."""
        return self._settings

    # -- life

    def start(self, *names: str) -> None:
        """Starts the servers, makes the tables and traders, and starts these services; they work when this returns."""
        self.start_redis()
        self.start_postgres()
        self._settings = msgspec.structs.replace(
            self._settings, redis_url=self.redis_server.socket_url, database_url=self.postgres_server.url
        )
        asyncio.run(self._prepare())
        for name in names or SERVICES:
            self.start_service(name)

    def start_redis(self) -> None:
        """Starts Redis, on the data that it has."""
        asyncio.run(self.redis_server.start())

    def start_postgres(self) -> None:
        """Starts PostgreSQL, on the data that it has."""
        asyncio.run(self.postgres_server.start())

    def kill(self, server: embedded.EmbeddedServer) -> None:
        """Ends a server at once, as a crash does; `start_…` brings it back to the same place."""
        pid = server.pid
        assert pid, f"{server.name} does not run"
        os.kill(pid, 9)
        asyncio.run(server.wait())

    def start_service(self, name: str) -> None:
        """Starts a service and waits until it works."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(settings.PREFIX)}
        environment |= settings.environment_of(self._settings)
        with self._log_of(name).open("ab") as output:
            process = Process([sys.executable, "-P", "-m", name], environment=environment, output=output)
        self._processes[name] = process
        working = "health/live" if name == "api" else None

        def works() -> bool:
            assert not process.ended(), f"{name} ended:\n{self.log_of(name)}"
            if working is not None:
                return self._answers(f"/{working}")
            return {"engine": "matching ", "archiver": "archiving "}[name] in self.log_of(name)

        until(works, why=f"{name} does not work:\n{self.log_of(name)}")

    def stop_service(self, name: str) -> int:
        """Stops a service as a service manager does; its exit code."""
        process = self._processes.pop(name)

        async def ended() -> int:
            await process.stop(seconds=self._settings.stop_seconds)
            return await process.wait()

        code = asyncio.run(ended())
        self._log_of(name).rename(self._log_of(f"{name}-before-{time.monotonic_ns()}"))
        return code

    def pid(self, name: str) -> int:
        """The process id of a service."""
        return self._processes[name].pid

    def stop(self) -> None:
        """Stops everything that runs."""
        for client in self._clients:
            client.close()
        if self._redis is not None:
            self._redis.close()
        for name in reversed([*self._processes]):
            self.stop_service(name)
        for server in (self.postgres_server, self.redis_server):
            asyncio.run(server.stop())
        self._reserved.close()

    def log_of(self, name: str) -> str:
        """What a service has written since it was started last."""
        path = self._log_of(name)
        return path.read_text() if path.exists() else ""

    def _log_of(self, name: str) -> Path:
        return self.data_dir / f"{name}.output"

    # -- talking to it

    def client(self, trader_id: int = 0, role: tokens.Role = "trader", **options: Any) -> httpx.Client:
        """A client of this trader; of nobody for 0."""
        headers = self.bearer(trader_id, role) if trader_id else {}
        made = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=ANSWER_SECONDS,
            trust_env=False,
            event_hooks={"response": [self._judge]},
            **options,
        )
        self._clients.append(made)
        return made

    def bearer(self, trader_id: int, role: tokens.Role = "trader") -> dict[str, str]:
        """The header that says who it is."""
        token = tokens.issue_token(self._settings.jwt_secret, trader_id, role, 3_600)
        return {"authorization": f"Bearer {token}"}

    def api_key(self, trader_id: int) -> str:
        """The API key that the trader was seeded with."""
        with (self.data_dir / "traders.csv").open(newline="") as file:
            return next(row["api_key"] for row in csv.DictReader(file) if row["trader_id"] == str(trader_id))

    def raw(self, request: bytes, *, half_close: bool = False) -> Answer:
        """Sends these bytes as they are; the answer. `half_close`: says that nothing more comes."""
        host, port = self._reserved.getsockname()
        with socket.create_connection((host, port), timeout=ANSWER_SECONDS) as connection:
            connection.sendall(request)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            answer = http.client.HTTPResponse(connection)
            with answer:
                answer.begin()
                headers = {name.lower(): value for name, value in answer.getheaders()}
                return Answer(answer.status, headers, answer.read())

    @property
    def redis(self) -> Redis:
        """A client of the exchange's Redis, which sends nothing twice."""
        if self._redis is None:
            self._redis = Redis.from_url(self.redis_server.socket_url, retry=Retry(NoBackoff(), 0), socket_timeout=15)
        return self._redis

    def sequences(self) -> dict[str, int]:
        """How many commands each log has had."""
        names = self._settings.cards
        found: Any = self.redis.mget([keys.key(card, "sequence") for card in names])
        return {card: int(value or 0) for card, value in zip(names, found, strict=True)}

    def entries(self, card: str) -> int:
        """How many entries a card's log has."""
        return int(self.redis.xlen(keys.key(card, "orders")))

    def execute(self, query: str, *arguments: Any) -> list[Any]:
        """Runs SQL; its rows."""

        async def fetch() -> list[Any]:
            connection = await postgres.connect(self._settings.database_url)
            try:
                return list(await connection.fetch(query, *arguments))
            finally:
                await connection.close()

        return asyncio.run(fetch())

    def archived(self) -> None:
        """Returns when the archive has all that is matched, and everything is matched."""
        appended = {card: sequence for card, sequence in self.sequences().items() if sequence}

        def done() -> bool:
            rows = self.execute("SELECT card, sequence FROM archive_cursor")
            return {row["card"]: row["sequence"] for row in rows} == appended

        until(done, why=f"the archive does not reach {appended}")

    def _judge(self, response: httpx.Response) -> None:
        """Every answer to a client must be one that the OpenAPI document describes."""
        kind, target = response.headers.get("content-type", ""), response.request.url.raw_path.decode()
        self._contract.judge(response.request.method, target, response.status_code, kind, response.read())

    def _answers(self, path: str) -> bool:
        try:
            return httpx.get(self.url + path, timeout=2, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    async def _prepare(self) -> None:
        connection = await postgres.connect(self._settings.database_url)
        try:
            await schema.migrate(connection, self._settings.cards)
            await traders.seed(connection, TRADERS, self.data_dir / "traders.csv")
        finally:
            await connection.close()


@contextmanager
def exchange_server(*names: str, **overrides: Any) -> Iterator[ExchangeServer]:
    """An exchange with these services (default: all), gone at the end."""
    with ExitStack() as stack:
        data_dir = stack.enter_context(datadir.ephemeral())
        server = ExchangeServer(data_dir, **overrides)
        stack.callback(server.stop)
        server.start(*names)
        yield server


SHARED = pytest.StashKey[ExchangeServer]()


@pytest.fixture(scope="session", name="exchange")
def shared_exchange(pytestconfig: pytest.Config) -> ExchangeServer:
    """The exchange that the tests share: nobody stops a part of it, and each test takes traders of its own.

    It is one for all modules that import this fixture, which pytest takes for as many fixtures.
    """
    if SHARED not in pytestconfig.stash:
        stack = ExitStack()
        pytestconfig.add_cleanup(stack.close)
        pytestconfig.stash[SHARED] = stack.enter_context(exchange_server())
    return pytestconfig.stash[SHARED]


def _reserve_port() -> socket.socket:
    """A free port that stays ours: bound, never listening, and shared with our API alone."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved
