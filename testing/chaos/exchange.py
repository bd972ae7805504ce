"""The exchange of a round: servers and services as processes, links between them, and what keeps them running."""

import asyncio
import http.client
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import asyncpg
from redis import Redis, RedisError

from cli.embedded import EmbeddedServer
from core.errors import StartError
from core.settings import Settings
from testing.chaos.links import Link, Links
from testing.chaos.machine import Clock, SmallDisk, Unsynced, inherited
from testing.chaos.plan import READERS, SERVICES, Plan
from testing.faults import all_of, crash
from testing.oracle.judge import matched_of
from testing.servers import KEEP_ALL, Servers, client_of, fetch, sequences_of
from testing.services import Service
from testing.waiting import NotInTime

CLIENTS = "clients"
ERROR_LINE = re.compile(r"^[ |]*((?:[a-z_]+\.)*[A-Z]\w*(?:Error|Exception|Group|Timeout)\b.*)$", re.MULTILINE)
"""The last line of a traceback, also within that of a group."""
POSTGRES_SOCKET = ".s.PGSQL.5432"
POLL_SECONDS = 0.02
RESTART_SECONDS = 0.3
"""A process that has ended is started again so long after its last start, at the earliest."""
START_SECONDS = 60.0
RECOVERY_SECONDS = 120.0
EVENT_RETENTION = 200
"""Small, so that the archiver trims during a round. The log is kept whole, because it is what is judged."""


END_CONNECTIONS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
UNANSWERED = (RedisError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What the clients of both servers raise while a server is away."""


class Stopped(Exception):
    """Somebody has stopped the run."""


class Exchange:
    """One exchange. Servers and services that end are started again, unless a fault keeps them down.

    A subclass may have other servers in the place of the one Redis.
    """

    supervised_servers: Sequence[str] = ("redis", "postgres")
    """The servers that are started again when they end by themselves."""

    def __init__(self, data_dir: Path, plan: Plan, *, programs: Settings, stopping: threading.Event) -> None:
        """`programs`: settings that name the programs of Redis and PostgreSQL."""
        self.data_dir = data_dir
        self.clocks: dict[str, Clock] = {}
        """The clocks of servers and services that can be set, by the name of the part."""
        self.disks: dict[str, SmallDisk] = {}
        """The small disks of servers, by the name of the server."""
        self.unsynced: Unsynced | None = None
        self.notes: list[str] = []
        self.broken: list[str] = []
        """Promises of `tcgx up` that a fault has found broken."""
        self.in_batch: Callable[[], bool] = lambda: True
        """Whether a request with a batch is under way. The load sets it."""
        self.held: set[str] = set()
        """Names of servers and services that are not started again."""
        self._door = bound(shared=False)
        self.client_port: int = self._door.getsockname()[1]
        self._reserved = bound(shared=True)
        self.port: int = self._reserved.getsockname()[1]
        # Two workers mean that the port may be shared, by several API processes and the socket that keeps it for them.
        self.servers = Servers(
            data_dir,
            **self._server_options(),
            api_workers=2,
            log_retention=KEEP_ALL,
            event_retention=EVENT_RETENTION,
            match_batch=plan.match_batch,
            archive_batch_bytes=plan.archive_batch_bytes,
            port=self.port,
            redis_core="any",
            redis_bin=programs.redis_bin,
            pg_bin=programs.pg_bin,
        )
        self.ended: Counter[str] = Counter()
        """How often each service has ended by itself."""
        self._plan = plan
        self._stopping = stopping
        self._services: dict[str, Service] = {}
        self._started_at: dict[str, float] = {}
        self._links: Links | None = None
        self.links: Mapping[str, Link] = {}
        self._redis: Redis | None = None
        self._redis_url = ""
        self.conflicts: set[str] = set()
        """Cards that had a history conflict, from which the round has recovered."""

    def _server_options(self) -> dict[str, Any]:
        """What `Servers` gets for the place of Redis."""
        return {"redis_lines": ["port 0"]}

    def _links_to_redis(self) -> bool:
        """Whether services reach Redis through links."""
        return True

    @property
    def judged_settings(self) -> Settings:
        """The settings with which the evidence is read."""
        return self.settings

    @property
    def settings(self) -> Settings:
        """The settings of the servers. Known once started."""
        return self.servers.settings

    @property
    def redis(self) -> Redis:
        """A client of Redis that uses no link and sends nothing twice."""
        if self._redis is None:
            self._redis = client_of(self.settings.redis_url)
        return self._redis

    # -- life

    def start(self) -> None:
        """Starts everything; the exchange is ready when this returns."""
        with self._inherited("redis"):
            asyncio.run(self.servers.start())
        self._start_links()
        for name in self.services():
            self.start_service(name)
        self.wait_until(self.is_healthy, "the exchange does not get ready", seconds=START_SECONDS)

    def stop(self) -> None:
        """Stops everything, in whatever state it is."""
        if self._redis is not None:
            self._redis.close()
        for server in map(self.server, self.supervised_servers):
            if server.pid is not None:
                _signal(all_of(server), signal.SIGCONT)
        for service in self._services.values():
            _signal([service.pid], signal.SIGCONT)
            asyncio.run(service.process.stop(seconds=self.settings.stop_seconds))
        asyncio.run(self.servers.stop())
        if self._links is not None:
            self._links.stop()
        self.close_ports()

    def close_ports(self) -> None:
        """Gives back the ports of the round."""
        self._door.close()
        self._reserved.close()

    def services(self) -> list[str]:
        """The services of the plan; further API processes have a number."""
        return [*SERVICES, *(f"api-{number}" for number in range(2, self._plan.api_processes + 1))]

    def _start_links(self) -> None:
        seed = self._plan.seed
        links = {CLIENTS: Link(self._door, self.port, f"link {seed}")}
        for name in SERVICES:
            folder = self._link_folder(name)
            folder.mkdir(mode=0o700, parents=True)
            if self._links_to_redis():
                links[name] = Link(folder / "redis.sock", self._redis_socket(), f"link {seed} {name}")
        for name in READERS:
            at = self._link_folder(name) / POSTGRES_SOCKET
            links[f"{name} to postgres"] = Link(at, self._postgres_folder() / POSTGRES_SOCKET, f"link {seed} {name} pg")
        self.links = links
        self._links = Links([*links.values()])
        self._links.start()

    def _link_folder(self, service: str) -> Path:
        return self.data_dir / "links" / service.partition("-")[0]

    def _redis_socket(self) -> Path:
        return Path(unquote(urlsplit(self.settings.redis_url).path))

    def _postgres_folder(self) -> Path:
        return Path(parse_qs(urlsplit(self.settings.database_url).query)["host"][0])

    @contextmanager
    def _inherited(self, name: str) -> Iterator[None]:
        """Processes that are started inside have the clock and the disk of this part."""
        sources: list[Mapping[str, str]] = []
        if clock := self.clocks.get(name.partition("-")[0]):
            sources.append(clock.variables)
        if name == "redis" and self.unsynced:
            sources.append(self.unsynced.variables)
        with inherited(sources):
            yield

    # -- servers and services

    def server(self, name: str) -> EmbeddedServer:
        """Redis or PostgreSQL."""
        return self.servers.redis if name == "redis" else self.servers.postgres

    def start_server(self, name: str) -> None:
        """Starts it on the data that it has.

        Raises:
            StartError: it does not start.
        """
        self._started_at[name] = time.monotonic()
        with self._inherited(name):
            asyncio.run(self.server(name).start())

    def start_service(self, name: str) -> None:
        """Starts a service, and does not wait for it. `engine-2` is a second engine, on the link of the first one."""
        self._started_at[name] = time.monotonic()
        folder, servers = self._link_folder(name), self.settings
        redis_url = servers.redis_url
        if self._links_to_redis():
            redis_url = redis_url.replace(quote(str(self._redis_socket())), quote(str(folder / "redis.sock")))
        database_url = servers.database_url
        if name.partition("-")[0] in READERS:
            database_url = database_url.replace(quote(str(self._postgres_folder())), quote(str(folder)))
        with self._inherited(name):
            self._services[name] = self.servers.service(name, redis_url=redis_url, database_url=database_url)

    def kill(self, name: str) -> None:
        """Ends a server or service without a warning, unless it has ended already."""
        if name not in self._services:
            if self.server(name).pid is not None:
                asyncio.run(crash(self.server(name)))
            return
        service = self._services.pop(name)
        if not service.process.ended():
            os.kill(service.pid, signal.SIGKILL)
        service.wait()

    def end_service(self, name: str) -> None:
        """Asks a service to end, and kills it where it does not."""
        service = self._services.pop(name)
        if not asyncio.run(service.process.stop(seconds=self.settings.stop_seconds)):
            self.notes.append(f"{name} did not end after SIGTERM, and was killed")

    def start_again(self, name: str) -> None:
        """Starts a server or service that a fault has kept down."""
        self.held.discard(name)
        if name.partition("-")[0] in SERVICES:
            self.start_service(name)
        else:
            self.start_server(name)

    def pids(self, name: str) -> list[int]:
        """The processes of a server or service; none if it has ended."""
        if name in self._services:
            return [] if self._services[name].process.ended() else [self._services[name].pid]
        server = self.server(name)
        return [] if server.pid is None else all_of(server)

    def supervise(self) -> None:
        """Starts again what has ended and may run."""
        for name in self.supervised_servers:
            if name not in self.held and self.server(name).pid is None and self._may_start(name):
                self.notes.append(f"{name} ended by itself")
                try:
                    self.start_server(name)
                except StartError as error:
                    self.notes.append(f"{name} did not start: {error}")
        for name, service in [*self._services.items()]:
            if name not in self.held and service.process.ended() and self._may_start(name):
                self.ended[name] += 1
                self.start_service(name)

    def _may_start(self, name: str) -> bool:
        return time.monotonic() - self._started_at.get(name, 0.0) > RESTART_SECONDS

    # -- waiting

    def run_until(self, at: float) -> None:
        """Supervises until this time of the monotonic clock.

        Raises:
            Stopped: somebody has stopped the run.
        """
        while True:
            self.supervise()
            left = at - time.monotonic()
            if left <= 0:
                return
            if self._stopping.wait(min(POLL_SECONDS, left)):
                raise Stopped

    def wait_until(self, holds: Callable[[], bool], why: str, *, seconds: float) -> None:
        """Supervises until this holds.

        Raises:
            NotInTime: it does not within `seconds`.
            Stopped: somebody has stopped the run.
        """
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise NotInTime(f"not within {seconds:.0f} s: {why}")
            self.run_until(time.monotonic() + POLL_SECONDS)

    # -- questions

    def is_healthy(self) -> bool:
        """Whether `/health` answers 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2.0)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def sequences(self) -> dict[str, int] | None:
        """The last sequence of each card; None while Redis does not answer."""
        try:
            return sequences_of(self.redis, self.settings.cards)
        except UNANSWERED:
            return None

    def archived(self) -> dict[str, int]:
        """The last archived command of each card."""
        return self.servers.archived()

    def is_archived(self, goal: Mapping[str, int]) -> bool:
        """Whether everything up to these sequences is matched and archived."""
        try:
            if any(matched_of(self.redis, card) < sequence for card, sequence in goal.items()):
                return False
            archived = self.archived()
        except UNANSWERED:
            return False
        return all(archived.get(card, 0) >= sequence for card, sequence in goal.items())

    def limit_memory(self, maximum: int) -> None:
        """Sets the memory of Redis in bytes; 0 is all that there is.

        Raises:
            NotInTime: Redis does not answer within `RECOVERY_SECONDS`.
        """
        self._insist("Redis", lambda: self.redis.config_set("maxmemory", maximum))

    def rewrite_aof(self) -> None:
        """Makes Redis begin a rewrite of its AOF.

        Raises:
            NotInTime: Redis does not answer within `RECOVERY_SECONDS`.
        """
        self._insist("Redis", self.redis.bgrewriteaof)

    def end_database_connections(self) -> None:
        """Ends all connections of PostgreSQL but this one.

        Raises:
            NotInTime: PostgreSQL does not answer within `RECOVERY_SECONDS`.
        """
        self._insist("PostgreSQL", lambda: fetch(self.settings.database_url, END_CONNECTIONS))

    def _insist(self, server: str, call: Callable[[], object]) -> None:
        """Makes a call until the server answers: it may be on its way back from a fault."""

        def is_done() -> bool:
            try:
                call()
            except UNANSWERED:
                return False
            return True

        self.wait_until(is_done, f"{server} does not answer", seconds=RECOVERY_SECONDS)

    def recover(self) -> None:
        """Returns when every part works, and the archive has all that was in the log at that moment.

        Raises:
            NotInTime: it takes longer than `RECOVERY_SECONDS`.
        """
        self.wait_until(self.is_healthy, "/health does not answer 200", seconds=RECOVERY_SECONDS)
        self.archive()

    def archive(self) -> None:
        """Returns when the archive has all that is in the log now.

        Raises:
            NotInTime: it takes longer than `RECOVERY_SECONDS`.
        """
        goal: dict[str, int] = {}

        def has_goal() -> bool:
            goal.update(self.sequences() or {})
            return bool(goal)

        self.wait_until(has_goal, "Redis does not answer", seconds=RECOVERY_SECONDS)
        self.wait_until(lambda: self.is_archived(goal), f"the archive does not reach {goal}", seconds=RECOVERY_SECONDS)

    def tracebacks(self) -> list[str]:
        """Output files of services that have a traceback, with its last error."""
        found = []
        for path in sorted(self.data_dir.glob("*.output")):
            text = path.read_text(errors="replace")
            if "Traceback" in text:
                errors = ERROR_LINE.findall(text.partition("Traceback")[2])
                found.append(f"{path.stem}: {errors[-1] if errors else 'without the name of an error'}")
        return found


def bound(*, shared: bool) -> socket.socket:
    """A socket on a free port of 127.0.0.1, which no other run gets while it is open."""
    made = socket.socket()
    if shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", 0))
    return made


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
