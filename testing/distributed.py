"""An exchange on sixteen hosts, of which one after the other loses its power, or its cable, under load.

`python -m testing.distributed` makes two hosts each of API, engine and archiver, nine of one Redis Cluster (three
primaries with two replicas each) and one of PostgreSQL: network namespaces on one bridge (`testing.hosts`, root on
Linux). Clients go to both APIs, as a load balancer would. Each round takes every kind of host in turn:

- power: the cable is pulled out, then all processes are killed, so that nobody is told. It comes back later.
- cable: the cable is pulled out for a while; the processes go on and know nothing of it.
- rack: an API, an engine, an archiver and a third of the Redis servers reach no other host for a while, the primary of
  the first card among them. Clients reach both sides.

Afterwards every acknowledged order must be in log, books and archive, once.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import msgspec

from cli import datadir
from cli.datadir import Secrets
from cli.embedded_postgres import DATABASE, POSTGRES_PORT, PostgresServer
from core.settings import Settings
from testing.chaos.checker import check
from testing.chaos.evidence import gather
from testing.chaos.load import Door, Load
from testing.cluster_servers import ClusterNode, RedisCluster, slot_of
from testing.faults import crash
from testing.hosts import NETWORK, Host, Network, SeparateHost, cut_apart, network, why_not
from testing.oracle.judge import settle
from testing.replication import InPlaceOfRedis
from testing.servers import KEEP_ALL, Servers, fetch
from testing.services import Service
from testing.waiting import until

CANT = 3
API_PORT = 8000
ACKS = 1
PRIMARIES, REPLICAS = 3, 2
SERVICES = ("engine", "archiver", "api")
EACH = 2
"""How many hosts each service has."""
BUSY_SECONDS = 1.5
"""The load goes on for so long between two faults."""
OUT_SECONDS = 5.0
"""A host is out of reach at least so long."""
WORKS_SECONDS = 90.0
OUTPUT_BYTES = 4_000
HOLDER = """
SELECT DISTINCT host(client_addr) AS address FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted
"""
KINDS = ("power", "cable", "rack")
ROLES = ("api", "engine", "archiver", "primary", "replica", "postgres")
COLUMNS = ("fault", "rounds", "orders of every card after", "archived after")


class PostgresOnHost(PostgresServer):
    """A PostgreSQL that listens on the address of its host."""

    def __init__(self, settings: Settings, loaded: Secrets, host: Host) -> None:
        super().__init__(settings, loaded)
        self._host = host
        self._secret = loaded.postgres_password
        with (Path(settings.data_dir) / "postgres/pg_hba.conf").open("a") as file:
            file.write(f"host all all {NETWORK}.0/24 scram-sha-256\n")

    @property
    def url(self) -> str:
        """The URL for other hosts."""
        return f"postgresql://{DATABASE}:{self._secret}@{self._host.address}:{POSTGRES_PORT}/{DATABASE}"

    async def start(self) -> None:
        """Starts it on its host."""
        with self._host.inside():
            await super().start()

    def _options(self) -> dict[str, str]:
        return super()._options() | {"listen_addresses": self._host.address}


class Flows(msgspec.Struct, frozen=True):
    """Seconds from a fault until orders of every card were acknowledged that were sent after it, and archived."""

    orders: float
    archive: float


class Deployment:
    """The exchange on its hosts."""

    def __init__(self, network: Network, data_dir: Path) -> None:
        self.hosts = network.hosts
        where = data_dir / "cluster"
        where.mkdir()
        redis = [network.add(f"redis-{number}") for number in range(1, PRIMARIES * (1 + REPLICAS) + 1)]
        self.cluster = RedisCluster(where, size=PRIMARIES, replicas=REPLICAS, hosts=redis)
        self.servers = Servers(
            data_dir, redis=InPlaceOfRedis(self.cluster), replica_acks=ACKS, log_retention=KEEP_ALL, port=API_PORT
        )
        loaded = datadir.load_secrets(data_dir)
        self.servers.postgres = PostgresOnHost(self.servers.base, loaded, network.add("postgres"))
        self.services: dict[str, Service] = {}
        self.names = [f"{service}-{number}" for service in SERVICES for number in range(1, EACH + 1)]
        for name in self.names:
            network.add(name)

    def start(self) -> None:
        """Starts everything; every part works when this returns."""
        self.cluster.start()
        asyncio.run(self.servers.start())
        for name in self.names:
            self.start_service(name)
        self.works()

    def start_service(self, name: str) -> None:
        """Starts a service on the host of its name."""
        host = self.hosts[name]
        with host.inside():
            self.services[name] = self.servers.service(name, host=host.address)

    def stop(self) -> None:
        """Stops everything that runs."""
        try:
            for service in reversed(self.services.values()):
                service.stop()
        finally:
            try:
                asyncio.run(self.servers.stop())
            finally:
                self.cluster.stop()

    def door(self) -> Door:
        """Where clients reach the two APIs."""
        hosts = [self.hosts[name].address for name in self.names if name.startswith("api")]
        return Door(API_PORT, self.servers.settings.jwt_secret, self.servers.settings.cards, hosts)

    def works(self) -> None:
        """Returns when every part works, as each API sees it, and all replicas are in step."""
        for host in self.door().hosts:
            until(lambda host=host: self._is_healthy(host), f"a part is missing at {host}", seconds=WORKS_SECONDS)  # type: ignore[misc]
        until(self.cluster.is_in_step, "the replicas are not in step", seconds=WORKS_SECONDS)

    def _is_healthy(self, host: str) -> bool:
        ended = [name for name, service in self.services.items() if service.process.ended()]
        assert not ended, f"{ended} ended by themselves"
        with suppress(httpx.TransportError):
            answer = httpx.get(f"http://{host}:{API_PORT}/health", timeout=5, trust_env=False)
            assert "history" not in answer.json()["missing"], answer.text  # a replica without all of it was promoted
            return answer.status_code == 200
        return False

    def output(self) -> str:
        """The last lines of all services."""
        outputs = sorted(self.servers.data_dir.glob("*.output"))
        return "\n".join(f"-- {path.name}\n{path.read_text()[-OUTPUT_BYTES:]}" for path in outputs)

    # -- hosts by what they do now

    def host_of(self, role: str) -> SeparateHost:
        """The host with this role: a primary is that of the first card, an archiver the one that archives."""
        if role == "postgres":
            return self.hosts[role]
        if role in SERVICES:
            return self.hosts[f"{role}-1" if role != "archiver" else self._archives()]
        node = self._primary()
        if role == "replica":
            node = self.cluster.replicas_of(node)[0]
        return self._host_of(node)

    def _primary(self) -> ClusterNode:
        return self.cluster.primary_of(slot_of(self.servers.settings.cards[0]))

    def _host_of(self, node: ClusterNode) -> SeparateHost:
        return next(host for host in self.hosts.values() if host is node.host)

    def _archives(self) -> str:
        """The archiver that has the lock; the other one waits for it."""
        (row,) = fetch(self.servers.settings.database_url, HOLDER)
        return next(name for name in self.names if self.hosts[name].address == row["address"])

    def rack(self) -> list[SeparateHost]:
        """An API, an engine, the archiver that works, the primary of the first card, and a replica of each other."""
        first = self._primary()
        others = [node for node in self.cluster.primaries() if node is not first]
        nodes = [first, *(self.cluster.replicas_of(node)[0] for node in others)]
        return [*(self.host_of(service) for service in SERVICES), *(self._host_of(node) for node in nodes)]

    # -- faults

    @contextmanager
    def without_power(self, host: SeparateHost) -> Iterator[None]:
        """The host is off inside. Nobody is told: its cable is pulled out first."""
        host.unplug()
        start_again = self._kill(host)
        try:
            yield
        finally:
            host.plug_in()
        start_again()

    def _kill(self, host: SeparateHost) -> Callable[[], object]:
        """Kills what runs on a host. Returns what starts it again."""
        for node in self.cluster.servers:
            if node.host is host:
                node.kill()
                return node.start
        if host.name == "postgres":
            asyncio.run(crash(self.servers.postgres))
            return lambda: asyncio.run(self.servers.postgres.start())
        self.services.pop(host.name).kill()
        return lambda: self.start_service(host.name)

    @contextmanager
    def without_cable(self, host: SeparateHost) -> Iterator[None]:
        """The host is out of reach inside."""
        host.unplug()
        try:
            yield
        finally:
            host.plug_in()

    @contextmanager
    def without_rack(self) -> Iterator[None]:
        """A rack and the other hosts do not reach each other inside."""
        rack = self.rack()
        with cut_apart(rack, [host for host in self.hosts.values() if host not in rack]):
            yield


def flow(deployment: Deployment, load: Load, began: float, *, archives: bool = True) -> Flows:
    """Waits until orders of every card flow, and the archive has them if `archives`."""
    cards = deployment.servers.settings.cards
    firsts: dict[str, tuple[int, float]] = {}

    def have_firsts() -> bool:
        for placed in list(load.ledger.placed):
            if placed.sent_at > began and placed.answered_at is not None:
                firsts.setdefault(placed.command.card, (placed.sequences[0], placed.answered_at))
        return len(firsts) == len(cards)

    until(have_firsts, f"orders of {sorted({*cards} - {*firsts})} do not flow", seconds=WORKS_SECONDS)
    orders = max(at for _, at in firsts.values()) - began
    if not archives:
        return Flows(orders, 0.0)

    def has_all() -> bool:
        archived = deployment.servers.archived()
        return all(archived.get(card, 0) >= sequence for card, (sequence, _) in firsts.items())

    until(has_all, "the archive does not go on", seconds=WORKS_SECONDS)
    return Flows(orders, time.monotonic() - began)


class Trial(msgspec.Struct, frozen=True):
    """What came of all faults: the seconds of each, by its name."""

    flows: dict[str, list[Flows]]
    sent: int
    acknowledged: int
    repeats: int
    trades: int
    violations: list[str]


def faults_of(kinds: Sequence[str], roles: Sequence[str]) -> list[tuple[str, str]]:
    """Kind and role of the faults of a round."""
    found = [(kind, role) for kind in kinds if kind != "rack" for role in roles]
    return found + [("rack", "")] * ("rack" in kinds)


def run(rounds: int, seed: int, faults: Sequence[tuple[str, str]]) -> Trial:
    """A trial on hosts of its own."""
    with network() as hosts, datadir.ephemeral() as data_dir:
        deployment = Deployment(hosts, data_dir)
        try:
            deployment.start()
            print(f"an exchange works on {len(hosts.hosts)} hosts", flush=True)
            return _broken(deployment, rounds, seed, faults)
        except BaseException:
            print(deployment.output())
            raise
        finally:
            deployment.stop()


def _broken(deployment: Deployment, rounds: int, seed: int, faults: Sequence[tuple[str, str]]) -> Trial:
    flows: dict[str, list[Flows]] = {}
    load = Load(deployment.door(), seed)
    try:
        load.start()
        flow(deployment, load, time.monotonic())
        for kind, role in [*faults] * rounds:
            name = f"{kind} of {role}" if role else kind
            found = _break(deployment, load, kind, role)
            flows.setdefault(name, []).append(found)
            print(
                f"{name}: orders of every card after {found.orders:.1f} s, archived after {found.archive:.1f} s",
                flush=True,
            )
        load.stop()
        until(lambda: not load.works(), "clients get no answers", seconds=WORKS_SECONDS)
    finally:
        load.abandon()
    settings = deployment.servers.settings
    settle(settings.redis_url, settings.database_url, settings.cards)
    evidence = gather(settings)
    return Trial(
        flows=flows,
        sent=len(load.ledger.placed),
        acknowledged=load.ledger.acknowledged,
        repeats=load.ledger.repeats,
        trades=sum(len(card.trades) for card in evidence.values()),
        violations=[str(found) for found in check(load.ledger, evidence)],
    )


def _break(deployment: Deployment, load: Load, kind: str, role: str) -> Flows:
    """One fault. The host is back, and every part works, when this returns."""
    deployment.works()
    time.sleep(BUSY_SECONDS)  # the load of this time, not a wait for something
    if kind == "rack":
        fault = deployment.without_rack()
    else:
        host = deployment.host_of(role)
        fault = deployment.without_power(host) if kind == "power" else deployment.without_cable(host)
    reaches_archive = role != "postgres"
    with fault:
        began = time.monotonic()
        found = flow(deployment, load, began, archives=reaches_archive)
        time.sleep(max(0.0, began + OUT_SECONDS - time.monotonic()))  # the time that the host is away
    if not reaches_archive:
        found = msgspec.structs.replace(found, archive=flow(deployment, load, began).archive)
    deployment.works()
    return found


def _row(name: str, flows: Sequence[Flows]) -> str:
    cells = [name, str(len(flows))]
    for seconds in ([one.orders for one in flows], [one.archive for one in flows]):
        cells.append(f"{statistics.median(seconds):.1f} s, {max(seconds):.1f} s")
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """The command; the exit code is 0 if nothing was lost, 1 if something was, and 3 if there can be no hosts here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="how often each fault comes (1)")
    parser.add_argument("--seed", type=int, default=1, help="the seed of the load (1)")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"some of {','.join(KINDS)} (all)")
    parser.add_argument("--roles", default=",".join(ROLES), help=f"some of {','.join(ROLES)} (all)")
    parser.add_argument("--json", type=Path, help="a file that gets the result")
    given = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"distributed: there can be no hosts here: {reason}", file=sys.stderr)
        return CANT
    trial = run(given.rounds, given.seed, faults_of(given.kinds.split(","), given.roles.split(",")))
    if given.json:
        given.json.write_bytes(msgspec.json.encode(trial))
    print(f"| {' | '.join(COLUMNS)} |\n|---|---|---|---|")
    for name, flows in trial.flows.items():
        print(_row(name, flows))
    print(
        f"{trial.sent} orders sent, {trial.repeats} requests repeated, {trial.acknowledged} orders acknowledged, "
        f"{trial.trades} trades; {len(trial.violations)} violations"
    )
    for violation in trial.violations:
        print(f"FAULT  {violation}")
    return 1 if trial.violations else 0


if __name__ == "__main__":
    sys.exit(main())
