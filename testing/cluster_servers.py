"""A Redis Cluster: primaries that share the slots, with replicas if asked for, on free ports in a temporary folder."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count, cycle
from pathlib import Path
from typing import Any

import redis.exceptions
from redis.crc import key_slot

from engine import keys
from testing.certificates import Certificate
from testing.exchange import ExchangeServer, exchange_server
from testing.hosts import THIS_HOST, Host
from testing.replication import PASSWORD, InPlaceOfRedis, RedisProcess
from testing.servers import KEEP_ALL, folder, free_port
from testing.waiting import until

SLOTS = 16_384
NODE_TIMEOUT_MS = 2_000
READY_SECONDS = 40.0
MIGRATE_MS = 10_000
KEYS_AT_ONCE = 3


def slot_of(card: str) -> int:
    """The slot of a card."""
    return key_slot(keys.tag(card).encode())


class ClusterNode(RedisProcess):
    """A server of a cluster."""

    def __init__(self, where: Path, *lines: str, tls: Certificate | None = None, host: Host | None = None) -> None:
        self.bus_port = free_port()  # the usual one, 10,000 above the other, may be no port
        super().__init__(where, free_port(), *lines, f"cluster-port {self.bus_port}", tls=tls, host=host)

    def call(self, *command: str | int | bytes) -> Any:
        """The reply to a command."""
        with self.client() as client:
            return client.execute_command(*command)

    def id(self) -> str:
        """The id that the servers of the cluster know it by."""
        return _text(self.call("CLUSTER", "MYID"))

    def info(self) -> dict[str, str]:
        """What it says about the cluster."""
        reply = self.call("CLUSTER", "INFO")
        if isinstance(reply, dict):
            return {str(name): str(value) for name, value in reply.items()}
        return dict(line.split(":", 1) for line in _text(reply).split())


class RedisCluster:
    """The servers of a cluster. The n-th primary has the n-th part of the slots at first.

    Every server writes each command to disk before its answer.
    """

    def __init__(
        self,
        where: Path,
        *,
        size: int = 3,
        replicas: int = 0,
        lines: Sequence[str] = (),
        tls: Certificate | None = None,
        hosts: Sequence[Host] = (),
    ) -> None:
        """`size`: how many primaries. `replicas`: of each of them. `lines`: further configuration of the servers.

        `tls`: the certificate of all of them. They take no connections without TLS then, not even of each other.
        `hosts`: where they run, one after the other, primaries first; all of them here without any.
        """
        shared = (
            *("appendonly yes", "appendfsync always", 'save ""', "maxmemory-policy noeviction"),
            *(f"requirepass {PASSWORD}", f"masterauth {PASSWORD}", "repl-diskless-sync-delay 0", "repl-timeout 5"),
            *("repl-ping-replica-period 1", "cluster-enabled yes", f"cluster-node-timeout {NODE_TIMEOUT_MS}"),
            *("cluster-replica-validity-factor 0", "cluster-require-full-coverage no", *lines),
            *(["tls-cluster yes"] if tls else []),
        )
        self._tls = tls
        self._where, self._shared, self._numbers = where, shared, count(1)
        self._hosts = cycle(hosts or [THIS_HOST])
        self._size, self._replicas = size, replicas
        self.servers = [self._made() for _ in range(size * (1 + replicas))]

    def _made(self) -> ClusterNode:
        host = next(self._hosts)
        lines = [f"bind {host.address}", *self._shared]
        return ClusterNode(self._where / f"node-{next(self._numbers)}", *lines, tls=self._tls, host=host)

    @property
    def url(self) -> str:
        """The address of the cluster."""
        hosts = ",".join(f"{server.host.address}:{server.port}" for server in self.servers)
        options = f"/0?ssl_ca_certs={self._tls.cert}" if self._tls else ""
        return f"redis{'s' if self._tls else ''}+cluster://:{PASSWORD}@{hosts}{options}"

    def start(self) -> None:
        """Starts all of them. They agree on the slots, and replicas are in step, when this returns."""
        for server in self.servers:
            server.start()
        for place, server in enumerate(self.servers[: self._size]):
            first, end = place * SLOTS // self._size, (place + 1) * SLOTS // self._size
            server.call("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            server.call("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
        for server in self.servers[1:]:
            self._meet(server)
        until(self._agrees, "the servers do not agree on the slots", seconds=READY_SECONDS)
        for place, server in enumerate(self.servers[self._size :]):
            server.call("CLUSTER", "REPLICATE", self.servers[place % self._size].id())
        if self._replicas:
            until(self.is_in_step, "the replicas are not in step", seconds=READY_SECONDS)

    def _meet(self, server: ClusterNode) -> None:
        first = next(each for each in self.servers if each is not server and each.is_running)
        server.call("CLUSTER", "MEET", first.host.address, first.port, first.bus_port)

    def add(self) -> ClusterNode:
        """Adds a primary without slots."""
        server = self._made()
        server.start()
        self.servers.append(server)
        self._meet(server)
        until(self._agrees, "the servers do not agree on the slots", seconds=READY_SECONDS)
        return server

    def _agrees(self) -> bool:
        running = [server for server in self.servers if server.is_running]
        states = [server.info() for server in running]
        return all(
            state["cluster_state"] == "ok" and int(state["cluster_known_nodes"]) >= len(self.servers)
            for state in states
        )

    def is_in_step(self) -> bool:
        """Whether every primary with slots has all its running replicas in step, with their AOF."""
        with suppress(redis.exceptions.RedisError):
            for server in self.servers:
                if not server.is_running:
                    continue
                with server.client() as client:
                    about: Any = client.info()
                if about.get("aof_rewrite_in_progress") or about.get("aof_rewrite_scheduled"):
                    return False
                if about["role"] == "slave" and about["master_link_status"] != "up":
                    return False
                if about["role"] == "master" and self._replicas and int(server.info()["cluster_slots_assigned"]):
                    expected = self._replicas if self._has_slots(server) else 0
                    if about["connected_slaves"] < expected:
                        return False
            return self._agrees()
        return False

    def _has_slots(self, server: ClusterNode) -> bool:
        return any(server.port == port for _, _, port in self.ranges())

    def ranges(self) -> list[tuple[int, int, int]]:
        """First and last slot of each range, and the port of its primary, as a running server knows them."""
        server = next(each for each in self.servers if each.is_running)
        return [(int(row[0]), int(row[1]), int(row[2][1])) for row in server.call("CLUSTER", "SLOTS")]

    def primary_of(self, slot: int) -> ClusterNode:
        """The running server that has a slot."""
        found = self._primary_of(slot)
        assert found, f"no running server has slot {slot}"
        return found

    def has_primary(self, slot: int) -> bool:
        """Whether a running server has a slot."""
        return self._primary_of(slot) is not None

    def _primary_of(self, slot: int) -> ClusterNode | None:
        return next((server for server in self.primaries() if self._is_at(slot, server)), None)

    def other_than(self, server: ClusterNode) -> ClusterNode:
        """The primary after another one."""
        primaries = self.primaries()
        return primaries[(primaries.index(server) + 1) % len(primaries)]

    def primaries(self) -> list[ClusterNode]:
        """The running primaries."""
        return [server for server in self.servers if server.is_running and server.role() == "master"]

    def replicas_of(self, primary: ClusterNode) -> list[ClusterNode]:
        """The running replicas of a primary."""
        ports = {int(about["port"]) for about in _replicas(primary)[1]}
        return [server for server in self.servers if server.is_running and server.port in ports]

    def end_of(self, primary: ClusterNode) -> int:
        """The end of what a primary has written."""
        return _replicas(primary)[0]

    def has_confirmed(self, primary: ClusterNode, end: int) -> bool:
        """Whether the replicas of a primary have all up to an end."""
        replicas = _replicas(primary)[1]
        return len(replicas) >= self._replicas and all(int(about["offset"]) >= end for about in replicas)

    def move_slot(self, slot: int, target: ClusterNode, *, pause_seconds: float = 0.0) -> None:
        """Moves a slot as redis-cli does: some keys at a time, then the slot. `pause_seconds`: after some keys."""
        source = self.primary_of(slot)
        self.begin_move(slot, target)
        while self.move_some_keys(slot, source, target):
            time.sleep(pause_seconds)
        self.end_move(slot, source, target)

    def begin_move(self, slot: int, target: ClusterNode) -> None:
        """The first step of a move."""
        source = self.primary_of(slot)
        assert source is not target
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id())
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id())

    def move_some_keys(self, slot: int, source: ClusterNode, target: ClusterNode) -> bool:
        """The step that is repeated. Whether there were keys."""
        names = source.call("CLUSTER", "GETKEYSINSLOT", slot, KEYS_AT_ONCE)
        if names:
            source.call(
                "MIGRATE", target.host.address, target.port, "", 0, MIGRATE_MS, "AUTH", PASSWORD, "KEYS", *names
            )
        return bool(names)

    def end_move(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """The last step."""
        for server in (target, source, *self.primaries()):
            server.call("CLUSTER", "SETSLOT", slot, "NODE", target.id())

    def moves_at_once(self) -> bool:
        """Whether the servers can move a slot at once (Valkey 9)."""
        return b"MIGRATESLOTS" in b"".join(self.servers[0].call("CLUSTER", "HELP"))

    def move_slot_at_once(self, slot: int, target: ClusterNode) -> None:
        """Moves a slot without a moment at which two servers have keys of it."""
        source = self.primary_of(slot)
        source.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.id())
        until(lambda: self._is_at(slot, target), "the slot is not moved")

    def _is_at(self, slot: int, target: ClusterNode) -> bool:
        rows = target.call("CLUSTER", "SLOTS")
        return any(int(row[0]) <= slot <= int(row[1]) and int(row[2][1]) == target.port for row in rows)

    def stop(self) -> None:
        """Stops all that runs."""
        for server in self.servers:
            if server.is_running:
                server.kill()


@contextmanager
def redis_cluster(**options: Any) -> Iterator[RedisCluster]:
    """A running cluster, gone at the end."""
    with folder() as where:
        made = RedisCluster(where, **options)
        try:
            made.start()
            yield made
        finally:
            made.stop()


def _replicas(primary: ClusterNode) -> tuple[int, list[dict[str, Any]]]:
    """The end of what a primary has, and what it says about its replicas."""
    with primary.client() as client:
        known: Any = client.info("replication")
    replicas = [about for name, about in known.items() if re.fullmatch(r"slave\d+", name)]
    return int(known["master_repl_offset"]), replicas


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@contextmanager
def cluster_exchange(cluster: RedisCluster, **changes: Any) -> Iterator[ExchangeServer]:
    """A running exchange on a cluster."""
    with exchange_server(redis=InPlaceOfRedis(cluster), log_retention=KEEP_ALL, **changes) as exchange:
        yield exchange
