"""RunFile exchanges in both ways: services one by one on servers of their own, or `tcgx up` in a folder."""

import asyncio
import csv
import http.client
import itertools
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
from redis import Redis

from archiver import traders
from archiver.postgres import connect
from cli import datadir
from cli.run_file import RunFile, find_running
from core.settings import Settings
from engine import connection, keys
from exchange import login_codes, tokens
from testing.clients.trader import Trader, http_client
from testing.contract import Contract
from testing.oracle.judge import matched_of, settle
from testing.processes import PROGRAM, children, descendants, ended, environment, member_name, module, tcgx
from testing.servers import Servers, client_of, fetch, free_port, sequences_of
from testing.services import Service
from testing.waiting import until

SERVICES = ("engine", "archiver", "api")
SEEDED = 40
START_SECONDS = 60
STOP_SECONDS = 10
ANSWER_SECONDS = 15.0
TOKEN_SECONDS = 3_600
ENDLESS = "text/event-stream"
FAST = {"TCGX_TRADERS": "100", "TCGX_LOG_RETENTION": "1000000000"}
"""Few traders, so that it starts quickly; the whole log is kept, so that it can be judged."""

_trader_ids = itertools.count(1_000)
"""Each test has traders of its own."""


class RawAnswer(msgspec.Struct, frozen=True):
    """The answer to a request that was written byte by byte."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body."""
        return msgspec.json.decode(self.body)


# -- services one by one


class ExchangeServer:
    """The servers and services of one exchange. What a test stops, it can start again."""

    def __init__(self, data_dir: Path, *, redis_lines: Sequence[str] = (), **changes: Any) -> None:
        """`redis_lines` are added to the configuration of Redis, `changes` are settings by their field's name."""
        self._reserved = _reserve_port()
        port: int = self._reserved.getsockname()[1]
        # Two workers mean that the port may be shared: with the socket that keeps it for us while the API is stopped.
        self.servers = Servers(data_dir, redis_lines=redis_lines, port=port, api_workers=2, **changes)
        self.data_dir = data_dir
        self.url = f"http://127.0.0.1:{port}"
        self._services: dict[str, Service] = {}
        self._clients: list[httpx.Client] = []
        self._redis: Redis | None = None
        self._contract: Contract | None = None
        self.http: httpx.Client = self.client()

    @property
    def settings(self) -> Settings:
        """The settings of the services. Known once started."""
        return self.servers.settings

    # -- life

    def start(self, *names: str) -> None:
        """Starts the servers, makes the tables and traders, and starts these services; they work when this returns."""
        asyncio.run(self.servers.start())
        asyncio.run(self._seed())
        self.start_service(*(names or SERVICES))

    async def _seed(self) -> None:
        database = await connect(self.settings.database_url)
        try:
            await traders.seed(database, SEEDED, self.data_dir / "traders.csv")
        finally:
            await database.close()

    def reset(self) -> None:
        """Makes it as it was at the start: empty servers, the traders of the start, and all services."""
        self.stop_service(*reversed(self._services))
        asyncio.run(self.servers.empty())
        (self.data_dir / "traders.csv").unlink()
        asyncio.run(self._seed())
        self.start_service(*SERVICES)

    def start_service(self, *names: str) -> None:
        """Starts services, and waits until each works."""
        for name in names:
            self._services[name] = Service(name, self.settings, self._output_of(name))
        for name in names:
            service = self._services[name]
            if name.partition("-")[0] == "api":
                until(lambda service=service: self._lives(service), f"{name} does not work")  # type: ignore[misc]
            else:
                service.works()

    def stop_service(self, *names: str) -> int:
        """Stops services as a service manager does, one after the other; the exit code, which is that of the last."""
        code = 0
        for name in names:
            code = self._services.pop(name).stop(seconds=self.settings.stop_seconds)
            self._output_of(name).rename(self._output_of(f"{name}-before-{time.monotonic_ns()}"))
        return code

    def kill_service(self, name: str) -> None:
        """Kills a service with -9."""
        self._services.pop(name).kill()
        self._output_of(name).rename(self._output_of(f"{name}-before-{time.monotonic_ns()}"))

    def pid(self, name: str) -> int:
        """The process id of a service."""
        return self._services[name].pid

    def stop(self) -> None:
        """Stops everything that runs."""
        for client in self._clients:
            client.close()
        if self._redis is not None:
            self._redis.close()
        try:
            self.stop_service(*reversed(self._services))
        finally:
            asyncio.run(self.servers.stop())
            self._reserved.close()

    def log_of(self, name: str) -> str:
        """What a service has written since it was started last."""
        path = self._output_of(name)
        return path.read_text() if path.exists() else ""

    def _output_of(self, name: str) -> Path:
        return self.data_dir / f"{name}.output"

    def _lives(self, api: Service) -> bool:
        assert not api.process.ended(), f"the API ended:\n{api.output()}"
        try:
            return httpx.get(f"{self.url}/health/live", timeout=2, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    # -- talking to it

    def client(self, trader_id: int = 0, role: tokens.Role = "trader", **options: Any) -> httpx.Client:
        """A client of this trader; of nobody for 0. The OpenAPI document must describe every answer."""
        authorization = self.bearer(trader_id, role)["authorization"] if trader_id else ""
        made = http_client(self.url, authorization, event_hooks={"response": [self._judge]}, **options)
        self._clients.append(made)
        return made

    def trader(self) -> Trader:
        """A trader who has no orders yet."""
        trader_id = next(_trader_ids)
        return Trader(self.client(trader_id), trader_id)

    def bearer(self, trader_id: int, role: tokens.Role = "trader") -> dict[str, str]:
        """The header that says who it is."""
        token = tokens.issue_token(self.settings.jwt_secret, trader_id, role, TOKEN_SECONDS)
        return {"authorization": f"Bearer {token}"}

    def api_key(self, trader_id: int) -> str:
        """The API key that the trader was seeded with."""
        with (self.data_dir / "traders.csv").open(newline="") as file:
            return next(row["api_key"] for row in csv.DictReader(file) if row["trader_id"] == str(trader_id))

    def raw(self, request: bytes, *, half_close: bool = False) -> RawAnswer:
        """The answer to these bytes, which are sent as they are. `half_close`: says that nothing more comes."""
        host, port = self._reserved.getsockname()
        with socket.create_connection((host, port), timeout=ANSWER_SECONDS) as connection:
            connection.sendall(request)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            answer = http.client.HTTPResponse(connection)
            with answer:
                answer.begin()
                headers = {name.lower(): value for name, value in answer.getheaders()}
                return RawAnswer(answer.status, headers, answer.read())

    def missing(self) -> list[str]:
        """The parts that do not do their work, as /health says."""
        answer = self.http.get("/health")
        health = answer.json()
        if answer.status_code == 500:
            return [health["title"]]
        assert (answer.status_code == 200) == (not health["missing"]) == (health["status"] == "healthy")
        names: list[str] = health["missing"]
        return names

    def ready(self, *, seconds: float = ANSWER_SECONDS) -> None:
        """Returns when nothing is missing."""
        until(lambda: self.missing() == [], "a part of the exchange is missing", seconds=seconds)

    def tcgx(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `tcgx` command with the settings of the exchange, run to its end."""
        return module("tcgx", *arguments, local=self.settings)

    @property
    def redis(self) -> Redis:
        """A client of the exchange's Redis, which sends nothing twice."""
        if self._redis is None:
            self._redis = client_of(self.settings.redis_url)
        return self._redis

    def sequences(self) -> dict[str, int]:
        """How many commands each log has had."""
        return sequences_of(self.redis, self.settings.cards)

    def entries(self, card: str) -> int:
        """How many entries a card's log has."""
        return int(self.redis.xlen(keys.key(card, "orders")))

    def execute(self, query: str, *arguments: Any) -> list[dict[str, Any]]:
        """Runs SQL; its rows."""
        return fetch(self.settings.database_url, query, *arguments)

    def archived(self) -> None:
        """Returns when everything is matched, and the archive has all of it."""
        settle(self.settings.redis_url, self.settings.database_url, self.settings.cards)

    def empty_books(self) -> None:
        """Cancels every order that rests or is not matched yet, whoever has placed it."""
        for card, sequence in self.sequences().items():
            until(lambda card=card, sequence=sequence: matched_of(self.redis, card) >= sequence, f"matching of {card}")  # type: ignore[misc]
        resting: Any = [line for card in self.settings.cards for line in self.redis.hvals(keys.key(card, "open"))]
        for trader_id in {int(line.split(b",")[1]) for line in resting}:
            with self.client(trader_id) as client:
                Trader(client).cancel_all()

    def _judge(self, response: httpx.Response) -> None:
        if self._contract is None:
            self._contract = Contract(self.settings)
        kind, target = response.headers.get("content-type", ""), response.request.url.raw_path.decode()
        body = b"" if kind.startswith(ENDLESS) else response.read()
        self._contract.judge(response.request.method, target, response.status_code, kind, body)


def login_code(redis_url: str, trader_id: int) -> str:
    """A new login code, as `tcgx up` makes one."""

    async def made() -> str:
        async with connection.connect(redis_url) as redis:
            return await login_codes.issue(redis, trader_id)

    with ThreadPoolExecutor(1) as thread:  # that of a test may have an event loop, as Playwright's
        return thread.submit(lambda: asyncio.run(made())).result()


@contextmanager
def exchange_server(*names: str, **changes: Any) -> Iterator[ExchangeServer]:
    """An exchange with these services (default: all), gone at the end."""
    with datadir.ephemeral() as data_dir:
        server = ExchangeServer(data_dir, **changes)
        try:
            server.start(*names)
            yield server
        finally:
            server.stop()


def _reserve_port() -> socket.socket:
    """A free port that stays ours: bound, never listening, and shared with our API alone."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


# -- `tcgx up`


class TcgxUp:
    """`tcgx up` in a folder."""

    def __init__(
        self,
        where: Path,
        *options: str,
        variables: Mapping[str, str] | None = None,
        program: Path | None = None,
        port: int | None = None,
    ) -> None:
        self.where = where
        self.data_dir = where / ".tcgx"
        self.port = port or free_port()
        self.greeting = ""
        self._options = options
        self._variables = FAST | dict(variables or {})
        self._program = program
        self._errors = where / "errors.log"
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._greeted = threading.Event()
        self._traders: list[Trader] = []

    @property
    def pid(self) -> int:
        """The process id of `tcgx up`."""
        assert self._process, "it does not run"
        return self._process.pid

    def start(self) -> "TcgxUp":
        """Starts it, and waits until it says that it is ready."""
        self.begin()
        if not self._greeted.wait(START_SECONDS) or not self.greeting:
            self.close()
            raise AssertionError(f"tcgx up did not start:\n{self.errors()}")
        return self

    def begin(self) -> None:
        """Starts it, and does not wait."""
        assert self._process is None, "it runs already"
        self.greeting = ""
        self._greeted.clear()
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [self._program or PROGRAM, "up", "--port", str(self.port), *self._options],
                cwd=self.where,
                env=environment(**self._variables),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, args=[self._process])
        self._reader.start()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        lines = []
        assert process.stdout
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Stop with"):
                self.greeting = "".join(lines)
                self._greeted.set()
        self._greeted.set()

    def errors(self) -> str:
        """What it and its services wrote to standard error."""
        return self._errors.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM, *, group: bool = False) -> int:
        """Sends a signal and waits until it has ended, with all that it had started; its exit code."""
        assert self._process
        pids = descendants(self.pid)
        if group:
            os.killpg(self.pid, number)
        else:
            os.kill(self.pid, number)
        code = self._process.wait(STOP_SECONDS)
        assert ended(pids, seconds=0 if number is not signal.SIGKILL else STOP_SECONDS), "it left children behind"
        self._forget()
        return code

    def close(self) -> None:
        """Ends it, in whatever state it is, and the connections of its traders."""
        for trader in self._traders:
            trader.close()
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(2 * STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._forget()

    def _forget(self) -> None:
        assert self._process
        assert self._reader
        assert self._process.stdout
        self._reader.join(STOP_SECONDS)
        self._process.stdout.close()
        self._process = None

    def run(self, *arguments: str) -> str:
        """The output of a `tcgx` command beside it, which must succeed."""
        result = tcgx(self.where, *arguments, program=self._program, variables=self._variables)
        assert result.returncode == 0, f"tcgx {' '.join(arguments)}: {result.stdout}{result.stderr}"
        return result.stdout

    @property
    def urls(self) -> RunFile:
        """Where it is reached, as it tells the commands beside it."""
        found = find_running(self.data_dir)
        assert found, f"nothing is announced in {self.data_dir}"
        return found

    def traders(self, *ids: int) -> list[Trader]:
        """Traders with a token each."""
        secret = self.urls.jwt_secret
        return [self.trader(tokens.issue_token(secret, trader_id, "trader", TOKEN_SECONDS)) for trader_id in ids]

    def trader(self, token: str = "") -> Trader:
        """The trader of this token; nobody without one."""
        self._traders.append(Trader(http_client(f"http://127.0.0.1:{self.port}", f"Bearer {token}" if token else "")))
        return self._traders[-1]

    def member(self, name: str) -> int | None:
        """The process id of a child, by its name."""
        for pid in children(self.pid):
            with suppress(OSError):
                if member_name(pid) == name:
                    return pid
        return None

    def kill(self, name: str) -> int:
        """Kills a child with -9; the process id it had."""
        pid = until(lambda: self.member(name), f"start of {name}")
        os.kill(pid, signal.SIGKILL)
        assert ended([pid], seconds=STOP_SECONDS)
        return pid


@contextmanager
def tcgx_up(where: Path, *options: str, **arguments: Any) -> Iterator[TcgxUp]:
    """A running `tcgx up`, ended at the end."""
    started = TcgxUp(where, *options, **arguments)
    try:
        yield started.start()
    finally:
        started.close()
