"""An exchange on a Redis primary, replicas and three sentinels, in a round of chaos.

Faults of `redis` meet the primary of that moment. A killed server returns as a replica of the one that is primary then.
"""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
from redis import Redis, RedisError

from core.settings import Settings
from testing.chaos.exchange import Exchange
from testing.chaos.plan import Plan
from testing.processes import module
from testing.replication import GroupServer, RedisGroup, RedisProcess, allow_replication, cut_off, plain_url
from testing.servers import client_of

HEAL_SECONDS = 0.5
"""The interval at which the round looks for a history conflict, once all faults are over."""
HEALTH_SECONDS = 3.0
ACK_MS = 600
BEGUN = re.compile(r"^(\w+): history \w+ begins after command \d+$", re.MULTILINE)
SERVER = "redis"


class OnSentinels(Exchange):
    """The exchange without acknowledgements of replicas. From the history conflict of a loss the round recovers."""

    supervised_servers = ("postgres",)
    acks = 0

    def __init__(self, data_dir: Path, plan: Plan, *, programs: Settings, stopping: threading.Event) -> None:
        group = data_dir / "group"
        group.mkdir()
        self.group = RedisGroup(group, replicas=self.acks + 1)
        self._down: dict[str, RedisProcess] = {}
        self._heals_from: float | None = None
        super().__init__(data_dir, plan, programs=programs, stopping=stopping)

    def _server_options(self) -> dict[str, Any]:
        return {"redis": GroupServer(self.group), "replica_acks": self.acks, "replica_ack_ms": ACK_MS}

    def _links_to_redis(self) -> bool:
        return False

    @property
    def judged_settings(self) -> Settings:
        """The settings with the address of the primary alone."""
        return msgspec.structs.replace(self.settings, redis_url=plain_url(self.group.named()))

    @property
    def redis(self) -> Redis:
        """A client of the server that the sentinels name."""
        url = plain_url(self.group.named())
        if self._redis is None or self._redis_url != url:
            if self._redis is not None:
                self._redis.close()
            self._redis, self._redis_url = client_of(url), url
        return self._redis

    def start(self) -> None:
        """Starts everything; the exchange is ready when this returns."""
        self.group.start()
        super().start()

    def stop(self) -> None:
        """Stops everything, in whatever state it is."""
        try:
            super().stop()
        finally:
            self.group.stop()

    # -- what faults do

    def kill(self, name: str) -> None:
        """Ends the primary without a warning, or a service."""
        if name != SERVER:
            super().kill(name)
            return
        killed = self.group.named()
        if killed.is_running:
            killed.kill()
            self._down[name] = killed

    def start_server(self, name: str) -> None:
        """Starts the killed server: as a replica, if the sentinels name another primary."""
        if name != SERVER:
            super().start_server(name)
        elif name in self._down:
            self._return(self._down.pop(name))

    def pids(self, name: str) -> list[int]:
        """The process of the primary, or of a service."""
        if name != SERVER:
            return super().pids(name)
        primary = self.group.named()
        return [primary.pid] if primary.is_running else []

    def _return(self, server: RedisProcess) -> None:
        named = self.group.named()
        server.start(*([] if named is server else [f"replicaof 127.0.0.1 {named.port}"]))

    @contextmanager
    def replicas_cut_off(self) -> Iterator[None]:
        """No replica gets anything from the primary inside."""
        primary, replicas = self.group.named(), [each for each in self.group.servers if each.is_running]
        replicas = [each for each in replicas if each is not primary and each.role() == "slave"]
        try:
            cut_off(primary, *replicas)
            yield
        finally:
            allow_replication(*replicas)

    @contextmanager
    def one_down(self, *, sentinel: bool, value: float) -> Iterator[None]:
        """A replica or a sentinel is killed inside, and returns."""
        named = self.group.named()
        if sentinel:
            watcher = self.group.sentinels[1 + int(value * 2)]  # rounds ask the first one
            watcher.kill()
            yield
            watcher.start_again()
            return
        choice = [each for each in self.group.servers if each.is_running and each is not named]
        if not choice:
            self.notes.append("there was no replica to kill")
            yield
            return
        server = choice[int(value * len(choice))]
        server.kill()
        yield
        self._return(server)

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

    def sequences(self) -> dict[str, int] | None:
        """The last sequence of each card; None while Redis does not answer."""
        try:
            return super().sequences()
        except RedisError:  # of the sentinel
            return None


class OnSentinelsWithAcks(OnSentinels):
    """The exchange with `TCGX_REPLICA_ACKS=1` and two replicas, so that one that confirms is left after a kill."""

    acks = 1
