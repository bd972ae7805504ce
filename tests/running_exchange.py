"""Real exchanges for the end-to-end tests: `tcgx up` as a process of its own, or its servers and services one by one;
traders that talk to it over HTTP; and the log as the judge of what came out.

Everything runs in a folder and on ports of its own, and is stopped by its process id.
"""

import asyncio
import http.client
import itertools
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
import msgspec
from redis import Redis

from archiver import schema
from bench.reference_book import ReferenceBook
from cli import datadir
from cli.embedded_postgres import PostgresServer
from cli.embedded_redis import RedisServer
from cli.run_file import RunFile, find_running
from core import settings
from core.model import Command, Order, Trade
from core.settings import Settings
from engine import codec, connection, keys
from engine.book_reader import BookReader
from engine.order_log import OrderLog
from exchange import tokens
from tests.comparison import levels

CARDS = ("pikachu", "bulbasaur", "charmander", "squirtle")
START_SECONDS = 60
STOP_SECONDS = 10
COMMAND_SECONDS = 60
SETTLE_SECONDS = 60
POLL_SECONDS = 0.02
IDLE_SECONDS = 2  # uvicorn closes a connection that has been idle for 5
PORTS = (15_000, 30_000)  # below those that the kernel gives to outgoing connections
TOKEN_SECONDS = 3_600
LEVELS_MAX = 2_000
BURST_MAX = 1_500
FAST = {"TCGX_TRADERS": "100", "TCGX_LOG_RETENTION": "1000000000"}
"""Few traders, so that it starts quickly; the whole log is kept, so that it can be judged."""

T = TypeVar("T")
Row = TypeVar("Row", Order, Trade)


# -- processes


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    choose = random.SystemRandom()
    while True:
        port = choose.randrange(*PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that every user can pass through (root's PostgreSQL is another user), removed with what is in it."""
    made = Path(tempfile.mkdtemp(prefix="tcgx-test-"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        for data_dir in {path.parent for path in made.rglob("secrets.json")}:
            datadir.remove(data_dir)
        shutil.rmtree(made)


def environment(**variables: str) -> dict[str, str]:
    """Ours without any setting of tcgx, and with these variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(settings.PREFIX)}
    return kept | variables


def tcgx(
    where: Path, *arguments: str, program: Path | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A `tcgx` command in a folder, run to its end."""
    return subprocess.run(
        [program or Path(sys.executable).with_name("tcgx"), *arguments],
        cwd=where,
        env=environment(**(variables or {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(path.parent.name))
    return found


def descendants(pid: int) -> list[int]:
    """All processes that a process has started, and those that they have started."""
    direct = children(pid)
    return direct + [below for child in direct for below in descendants(child)]


def member_name(pid: int) -> str:
    """What a child of `tcgx up` is: api, archiver, engine, postgres, redis, or the name of its program."""
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    for number, argument in enumerate(arguments):
        if argument == "-m" or argument.endswith("/tcgx/__main__.py"):
            return arguments[number + 1]
    name = Path(f"/proc/{pid}/exe").readlink().name
    return "redis" if name in ("redis-server", "valkey-server") else name


def ended(pids: Iterable[int], *, seconds: float) -> bool:
    """Waits until these processes have ended, whoever's children they are; whether they did in time."""
    deadline = time.monotonic() + seconds
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            waiting = select.poll()
            waiting.register(descriptor, select.POLLIN)
            if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return False
        finally:
            os.close(descriptor)
    return True


def until(condition: Callable[[], T | None], what: str, *, seconds: float = SETTLE_SECONDS) -> T:
    """The first result that is true. For what tells nobody when it happens."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(POLL_SECONDS)


class Exchange:
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

    def start(self) -> "Exchange":
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
                [
                    *(self._program or Path(sys.executable).with_name("tcgx"), "up", "--port", str(self.port)),
                    *self._options,
                ],
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

    def traders(self, *ids: int) -> "list[Trader]":
        """Traders with a token each."""
        secret = self.urls.jwt_secret
        return [self.trader(tokens.issue_token(secret, trader_id, "trader", TOKEN_SECONDS)) for trader_id in ids]

    def trader(self, token: str = "") -> "Trader":
        """Whoever has this token."""
        self._traders.append(Trader(f"http://127.0.0.1:{self.port}", token))
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
def exchange(where: Path, *options: str, **arguments: Any) -> Iterator[Exchange]:
    """A running `tcgx up`, ended at the end."""
    running = Exchange(where, *options, **arguments)
    try:
        yield running.start()
    finally:
        running.close()


# -- traders


class Answer(msgspec.Struct, frozen=True):
    """Status and decoded body of an HTTP answer."""

    status: int
    body: Any


class Trader:
    """One trader's requests, over one connection that is kept open."""

    def __init__(self, api: str, token: str) -> None:
        self.token = token
        parts = urlsplit(api)
        assert parts.hostname
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
        self._used_at = 0.0

    def request(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """One request.

        Raises:
            OSError, http.client.HTTPException: no answer.
        """
        if time.monotonic() - self._used_at > IDLE_SECONDS or self._is_ended():
            self._connection.close()
        try:
            self._connection.request(
                method,
                path,
                body=None if body is None else json.dumps(body),
                headers={"authorization": f"Bearer {self.token}", **headers},
            )
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        self._used_at = time.monotonic()
        is_json = "json" in (response.getheader("content-type") or "")
        return Answer(response.status, json.loads(text) if is_json else text.decode())

    def _is_ended(self) -> bool:
        """Whether the other side has closed the connection while it was idle, as an API that restarts does."""
        idle = self._connection.sock
        return idle is not None and bool(select.select([idle], [], [], 0)[0])

    def get(self, path: str) -> Any:
        """The body of a GET that must succeed."""
        answer = self.request("GET", path)
        assert answer.status == 200, f"GET {path}: {answer}"
        return answer.body

    def place(self, card: str, side: str, price: str, quantity: int = 1, **fields: str) -> dict[str, Any]:
        """Places an order, which must be accepted; the order as it was answered."""
        order = {"card": card, "side": side, "price": price, "quantity": quantity, **fields}
        answer = self.request("POST", "/orders", order)
        assert answer.status == 202, f"{order}: {answer}"
        return dict(answer.body)

    def insist(self, method: str, path: str, body: object = None, *, seconds: float = SETTLE_SECONDS) -> Answer:
        """The same request again and again while nothing answers, or a 5xx does, as a careful client does it."""

        def tried() -> Answer | None:
            try:
                answer = self.request(method, path, body)
            except (OSError, http.client.HTTPException):
                return None
            return answer if answer.status < 500 else None

        return until(tried, f"an answer to {method} {path}", seconds=seconds)

    def completed(self, order_id: str) -> dict[str, Any]:
        """The order, once it is completed."""

        def order() -> dict[str, Any] | None:
            answer = self.insist("GET", f"/orders/{order_id}")
            assert answer.status == 200, answer
            return answer.body if answer.body["closed_at"] else None

        return until(order, f"completion of {order_id}")

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


# -- servers and services one by one


class Service:
    """`python -m engine` or the like."""

    def __init__(self, name: str, local: Settings, log: Path) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", name],
                env=environment(**settings.environment_of(local)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """Kills it with -9; it must have run until now."""
        assert self._process.poll() is None, f"{self.name} has ended by itself:\n{self.output()}"
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def wait(self) -> int:
        """Waits until it has ended by itself; its exit code."""
        return self._process.wait(STOP_SECONDS)

    def output(self) -> str:
        """What it has written."""
        return self._log.read_text()


class ServerPair:
    """The Redis and PostgreSQL of `tcgx up`, without its services."""

    def __init__(self, where: Path) -> None:
        self._where = where
        (where / "data").mkdir()
        (where / "data").chmod(0o755)
        local = Settings(data_dir=str(where / "data"), log_retention=1_000_000_000)
        secrets = datadir.load_secrets(where / "data")
        self._redis = RedisServer(local, secrets)
        self._postgres = PostgresServer(local, secrets)
        self._local = local
        self._count = itertools.count(1)

    @property
    def settings(self) -> Settings:
        """The settings of services that use these servers."""
        return msgspec.structs.replace(self._local, redis_url=self._redis.url, database_url=self._postgres.url)

    async def start(self) -> None:
        """Starts both, with an up-to-date database."""
        await asyncio.gather(self._redis.start(), self._postgres.start())
        database = await asyncpg.connect(self._postgres.url)
        try:
            await schema.migrate(database, CARDS)
        finally:
            await database.close()

    async def stop(self) -> None:
        """Stops both."""
        await asyncio.gather(self._redis.stop(), self._postgres.stop())

    def service(self, name: str, **changes: int) -> Service:
        """Starts a service on them, with these settings changed."""
        return Service(
            name, msgspec.structs.replace(self.settings, **changes), self._where / f"{name}-{next(self._count)}.log"
        )


@contextmanager
def server_pair() -> Iterator[ServerPair]:
    """A running pair, gone at the end."""
    with folder() as where:
        pair = ServerPair(where)
        try:
            asyncio.run(pair.start())
            yield pair
        finally:
            asyncio.run(pair.stop())


class Load:
    """Commands appended by a thread, in order and in bursts, while the test does other things."""

    def __init__(self, redis_url: str, commands: Iterable[Command], *, seed: int, pause_seconds: float) -> None:
        self._redis_url = redis_url
        self._commands = iter(commands)
        self._choose = random.Random(seed)
        self._pause_seconds = pause_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failure: BaseException | None = None

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def finish(self) -> None:
        """Waits until all commands are appended."""
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._append())
        except BaseException as error:  # noqa: BLE001 - it is raised where the load is stopped
            self._failure = error

    async def _append(self) -> None:
        async with connection.connect(self._redis_url) as redis:
            order_log = OrderLog(redis, backlog_max=1_000_000_000, pending_max=1_000_000)
            while not self._stopping.is_set():
                burst = list(itertools.islice(self._commands, self._choose.randint(1, BURST_MAX)))
                if not burst:
                    return
                for outcome in await order_log.append_all(burst):
                    if isinstance(outcome, BaseException):
                        raise outcome
                await asyncio.sleep(self._choose.uniform(0, 2 * self._pause_seconds))


# -- the log as judge


def fetch(database_url: str, query: str, *arguments: object) -> list[dict[str, Any]]:
    """The rows of a query."""

    async def rows() -> list[dict[str, Any]]:
        database = await asyncpg.connect(database_url)
        try:
            return [dict(row) for row in await database.fetch(query, *arguments)]
        finally:
            await database.close()

    return asyncio.run(rows())


def log_of(redis_url: str, card: str) -> list[tuple[int, str, Command]]:
    """Sequence, time and command of everything in a card's log, which must begin with 1 and have no gap."""
    found: list[tuple[int, str, Command]] = []
    with Redis.from_url(redis_url) as redis:
        entries: Any = redis.xrange(keys.key(card, "orders"))
    for entry_id, fields in entries:
        first = int(entry_id.decode().partition("-")[2])
        assert first == len(found) + 1, f"{card}: command {len(found) + 1} is followed by {first}"
        for command in codec.decode(card, fields):
            found.append((len(found) + 1, fields[b"at"].decode(), command))
    return found


def judged(redis_url: str, cards: Sequence[str] = CARDS) -> dict[str, ReferenceBook]:
    """What each card's log must lead to."""
    books = {}
    for card in cards:
        books[card] = ReferenceBook(card)
        for sequence, at, command in log_of(redis_url, card):
            books[card].apply(sequence, at, command)
    return books


def settle(redis_url: str, database_url: str, *, seconds: float = SETTLE_SECONDS) -> None:
    """Waits until everything in the logs is matched and archived. Nothing may be appended meanwhile."""

    async def archived() -> None:
        database = await asyncpg.connect(database_url)
        try:
            while True:
                rows = await database.fetch("SELECT card, sequence FROM archive_cursor")
                if {row["card"]: row["sequence"] for row in rows} == expected:
                    return
                assert time.monotonic() < deadline, f"archived until {rows}, must be {expected}"
                await asyncio.sleep(POLL_SECONDS)
        finally:
            await database.close()

    deadline = time.monotonic() + seconds
    with Redis.from_url(redis_url) as redis:
        appended: dict[str, Any] = {card: redis.get(keys.key(card, "sequence")) for card in CARDS}
        expected = {card: int(sequence) for card, sequence in appended.items() if sequence}
        for card, sequence in expected.items():
            until(
                lambda card=card, sequence=sequence: matched_of(redis, card) >= sequence,  # type: ignore[misc]
                f"matching of {card} until {sequence}",
                seconds=deadline - time.monotonic(),
            )
    asyncio.run(archived())


def matched_of(redis: "Redis", card: str) -> int:
    """How far a card is matched."""
    sequence: Any = redis.hget(keys.key(card, "cursor"), "sequence")
    return int(sequence or 0)


def archived_orders(database_url: str, card: str) -> list[Order]:
    """The table `orders`, all columns, by sequence."""
    rows = fetch(database_url, "SELECT * FROM orders WHERE card = $1 ORDER BY sequence", card)
    return [_converted(row, Order) for row in rows]


def archived_trades(database_url: str, card: str) -> list[Trade]:
    """The table `trades`, all columns, by number."""
    rows = fetch(
        database_url, "SELECT trade_number AS number, * FROM trades WHERE card = $1 ORDER BY trade_number", card
    )
    for row in rows:
        del row["trade_number"]
    return [_converted(row, Trade) for row in rows]


def _converted(row: dict[str, Any], kind: type[Row]) -> Row:
    values = {name: _rfc3339(value) if isinstance(value, datetime) else value for name, value in row.items()}
    assert set(values) == {field.name for field in msgspec.structs.fields(kind)}, "a column has no counterpart"
    return msgspec.convert(values, kind)


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def differences(found: Sequence[T], expected: Sequence[T]) -> list[tuple[int, T | None, T | None]]:
    """The first three places where two lists differ: place, found, expected."""
    pairs = itertools.zip_longest(found, expected)
    return list(itertools.islice(((i, f, e) for i, (f, e) in enumerate(pairs) if f != e), 3))


def assert_archived(database_url: str, books: Mapping[str, ReferenceBook]) -> None:
    """That PostgreSQL has exactly the completed orders and the trades of the logs."""
    for card, book in books.items():
        completed = sorted(book.completed, key=lambda order: order.sequence)
        assert differences(archived_orders(database_url, card), completed) == []
        assert differences(archived_trades(database_url, card), book.trades) == []


def assert_books(redis_url: str, books: Mapping[str, ReferenceBook]) -> None:
    """That Redis has exactly the price levels, the open orders and the latest trades of the logs."""

    async def compared() -> None:
        async with connection.connect(redis_url) as redis:
            read = BookReader(redis)
            for card, book in books.items():
                depth = await read.depth(card, LEVELS_MAX)
                assert depth.sequence == book.sequence
                assert (depth.bids, depth.asks) == (levels(book.bids()), levels(book.asks()))
                assert await read.latest_trades(card) == book.latest_trades()
                resting = [order for trader_id in book.traders() for order in book.open_orders(trader_id)]
                for order in resting[:: max(1, len(resting) // 100)]:
                    assert await read.order(card, order.sequence) == order

    asyncio.run(compared())
