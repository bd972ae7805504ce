"""An exchange whose Redis is several servers, in a round of chaos: what set-ups with sentinels and clusters share.

Faults of `redis` meet the primary of that moment. A killed server returns as a replica of the one that is primary then.
"""

import re
import threading
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from core.settings import Settings
from testing.chaos.exchange import Exchange
from testing.chaos.plan import Plan
from testing.processes import module
from testing.replication import InPlaceOfRedis, RedisProcess, SeveralServers

HEAL_SECONDS = 0.5
"""The interval at which the round looks for a history conflict, once all faults are over."""
HEALTH_SECONDS = 3.0
ACK_MS = 600
BEGUN = re.compile(r"^(\w+): history \w+ begins after command \d+$", re.MULTILINE)
SERVER = "redis"


class OnSeveralServers(Exchange):
    """The exchange on several servers. From a history conflict the round recovers as an operator does."""

    supervised_servers = ("postgres",)
    acks = 0
    """Replicas that confirm a batch."""

    def __init__(
        self,
        servers: SeveralServers,
        data_dir: Path,
        plan: Plan,
        *,
        programs: Settings,
        stopping: threading.Event,
    ) -> None:
        self._several = servers
        self._down: dict[str, RedisProcess] = {}
        self._heals_from: float | None = None
        super().__init__(data_dir, plan, programs=programs, stopping=stopping)

    @abstractmethod
    def primary(self) -> RedisProcess:
        """The server that faults of `redis` meet now."""

    @abstractmethod
    def replicas(self) -> Sequence[RedisProcess]:
        """The running replicas of that server."""

    @abstractmethod
    def take_back(self, server: RedisProcess) -> None:
        """Starts a killed server: as a replica, if there is another primary."""

    def start(self) -> None:
        """Starts everything; the exchange is ready when this returns."""
        self._several.start()
        super().start()

    def stop(self) -> None:
        """Stops everything, in whatever state it is."""
        try:
            super().stop()
        finally:
            self._several.stop()

    def _server_options(self) -> dict[str, Any]:
        return {"redis": InPlaceOfRedis(self._several), "replica_acks": self.acks, "replica_ack_ms": ACK_MS}

    def _links_to_redis(self) -> bool:
        return False

    # -- what faults do

    def kill(self, name: str) -> None:
        """Ends the primary without a warning, or a service."""
        if name != SERVER:
            super().kill(name)
            return
        killed = self.primary()
        if killed.is_running:
            killed.kill()
            self._down[name] = killed

    def start_server(self, name: str) -> None:
        """Starts the killed server, or PostgreSQL."""
        if name != SERVER:
            super().start_server(name)
        elif name in self._down:
            self.take_back(self._down.pop(name))

    def pids(self, name: str) -> list[int]:
        """The process of the primary, or of a service."""
        if name != SERVER:
            return super().pids(name)
        primary = self.primary()
        return [primary.pid] if primary.is_running else []

    @contextmanager
    def replica_down(self, value: float) -> Iterator[None]:
        """A replica is killed inside, and returns. `value`: from 0 to 1, which one."""
        choice = self.replicas()
        if not choice:
            self.notes.append("there was no replica to kill")
            yield
            return
        server = choice[int(value * len(choice))]
        server.kill()
        yield
        self.take_back(server)

    # -- recovery

    def recover(self) -> None:
        """Returns when every part works. From history conflicts it recovers as an operator does.

        Raises:
            NotInTime: it takes too long.
        """
        self._heals_from = time.monotonic()
        super().recover()

    def supervise(self) -> None:
        """Starts again what has ended. Once the faults are over, conflicts are recovered from, too."""
        super().supervise()
        if self._heals_from is None or time.monotonic() < self._heals_from:
            return
        if self._has_conflict():
            self._recover_from_conflict()
        self._heals_from = time.monotonic() + HEAL_SECONDS

    def _has_conflict(self) -> bool:
        with suppress(httpx.TransportError):
            answer = httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=HEALTH_SECONDS, trust_env=False)
            return "history" in answer.json().get("missing", [])
        return False

    def _recover_from_conflict(self) -> None:
        done = module("tcgx", "recover", "--yes", local=self.settings)
        cards = BEGUN.findall(done.stdout)
        self.conflicts.update(cards)
        self.notes.append(f"`tcgx recover` ended with {done.returncode}, for {', '.join(cards) or 'no card'}")
        if done.returncode:
            self.notes.append(done.stderr.strip()[-500:])
