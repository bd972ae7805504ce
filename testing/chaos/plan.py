"""The plan of a round: which faults happen, to which part, and when. The same seed gives the same plan."""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

SERVERS = ("redis", "postgres")
SERVICES = ("engine", "archiver", "api")
PARTS = (*SERVERS, *SERVICES)
READERS = ("archiver", "api")
"""The services that speak PostgreSQL."""
CLOCKS = ("redis", "api", "archiver")
API_PROCESSES = (1, 1, 2)
"""A third of the rounds has two API processes on one port."""
FAULTS_MAX = 4
ALONE = 0.4
"""The share of rounds with one fault."""
FIRST_SECONDS = (0.3, 2.5)
"""A fault begins within this time after the load, or after the fault before it on the same part."""
MATCH_BATCHES = (10, 1_000)
ARCHIVE_BATCH_BYTES = (10_000, 4_000_000)
"""Small values give many calls and many transactions, so that a kill is likely to meet one under way."""


Need = Literal["", "clock", "disk", "fsync"]


class Kind(NamedTuple):
    """A kind of fault: the parts that it occupies, the shortest and the longest time, and its needs of the machine.

    `supervised`: it is a fault of `tcgx up`. All other kinds need services that were started one by one, but for
    those of `both`.
    """

    name: str
    parts: tuple[str, ...]
    seconds: tuple[float, float]
    needs: Need = ""
    supervised: bool = False
    both: bool = False


def _kind(name: str, part: str, seconds: tuple[float, float], needs: Need = "") -> Kind:
    return Kind(name, (part,), seconds, needs)


KINDS: Sequence[Kind] = (
    *(_kind(f"kill {part}", part, (0.0, 0.5)) for part in PARTS),
    *(_kind(f"pause {part}", part, (0.5, 3.0)) for part in PARTS),
    *(_kind(f"restart {service}", service, (0.0, 0.5)) for service in SERVICES),
    _kind("restart api in a batch", "api", (0.0, 0.5)),
    _kind("kill redis in a batch", "redis", (0.0, 0.5)),
    Kind("kill everything and start at once", PARTS, (0.0, 0.1)),
    _kind("second engine", "engine-2", (1.0, 3.0)),
    _kind("second archiver", "archiver-2", (1.0, 3.0)),
    _kind("second api", "api-3", (1.0, 3.0)),
    Kind("cut requests of clients", ("link of clients",), (0.5, 2.0), both=True),
    Kind("cut answers to clients", ("link of clients",), (0.5, 2.0), both=True),
    *(_kind(f"cut requests of {service}", f"link of {service}", (0.5, 2.0)) for service in SERVICES),
    *(_kind(f"cut answers to {service}", f"link of {service}", (0.5, 2.0)) for service in SERVICES),
    *(_kind(f"mute link of {service} to redis", f"link of {service}", (0.5, 2.0)) for service in SERVICES),
    *(
        _kind(f"{what} {service} {direction} postgres", f"link of {service} to postgres", (0.5, 2.0))
        for service in READERS
        for what, direction in (("cut requests of", "to"), ("cut answers to", "of"))
    ),
    *(
        _kind(f"{what} link of {service} to postgres", f"link of {service} to postgres", seconds)
        for service in READERS
        for what, seconds in (("mute", (1.0, 3.0)), ("slow", (1.0, 3.0)))
    ),
    _kind("postgres away", "postgres", (11.0, 13.0)),
    _kind("postgres hung", "postgres", (11.0, 13.0)),
    _kind("redis away", "redis", (6.0, 8.0)),
    _kind("redis hung", "redis", (6.0, 8.0)),
    _kind("kill redis while it rewrites its AOF", "redis", (0.0, 0.5)),
    _kind("postgres ends all connections", "postgres", (0.0, 0.2)),
    _kind("memory full", "redis", (1.0, 3.0)),
    _kind("zeros at the end of the AOF", "redis", (0.0, 0.2)),
    _kind("garbage at the end of the AOF", "redis", (0.0, 0.2)),
    *(_kind(f"clock step of {name}", f"clock of {name}", (1.0, 3.0), "clock") for name in CLOCKS),
    _kind("disk of redis full", "redis", (1.0, 3.0), "disk"),
    _kind("disk of postgres full", "postgres", (1.0, 3.0), "disk"),
    Kind("both disks full", SERVERS, (1.0, 3.0), "disk"),
    _kind("AOF can't be synced", "redis", (0.5, 2.0), "fsync"),
    Kind("second tcgx up is refused", ("tcgx up",), (0.0, 0.5), supervised=True),
    Kind("kill tcgx up and start another", ("tcgx up",), (0.0, 0.5), supervised=True),
    Kind("kill tcgx up with all of its processes", ("tcgx up",), (0.0, 0.1), supervised=True),
)
"""The long ones outlast the bounds of the services: 5 s for a Redis command, 10 s for the archiver's heartbeat."""


FOR_ONE_REDIS = (
    *("kill everything and start at once", "kill redis while it rewrites its AOF", "memory full"),
    *("zeros at the end of the AOF", "garbage at the end of the AOF"),
    *(f"{what} {service}" for service in SERVICES for what in ("cut requests of", "cut answers to")),
    *(f"mute link of {service} to redis" for service in SERVICES),
)
"""Kinds that a set-up with several servers of Redis does not have. Its services have no links to Redis."""

OF_SEVERAL_SERVERS: Sequence[Kind] = [
    kind for kind in KINDS if not kind.needs and not kind.supervised and kind.name not in FOR_ONE_REDIS
]
KILLED_REPLICA = _kind("kill a replica", "redis", (0.5, 3.0))

OF_SENTINELS: Sequence[Kind] = (
    *OF_SEVERAL_SERVERS,
    _kind("cut replicas off and kill redis", "redis", (0.5, 2.0)),
    _kind("cut replicas off", "redis", (0.5, 3.0)),
    KILLED_REPLICA,
    _kind("kill a sentinel", "sentinel", (0.5, 3.0)),
)

OF_CLUSTERS: Sequence[Kind] = (
    *OF_SEVERAL_SERVERS,
    _kind("kill redis until a replica is promoted", "redis", (0.5, 2.0)),
    KILLED_REPLICA,
    _kind("move a slot key by key", "redis", (0.2, 1.5)),
    _kind("move a slot at once", "redis", (0.2, 0.5)),
)

KINDS_OF: Mapping[str, Sequence[Kind]] = {
    "single": KINDS,
    "sentinel": OF_SENTINELS,
    "sentinel-acks": OF_SENTINELS,
    "cluster": OF_CLUSTERS,
}
"""The kinds of each set-up (testing/chaos/setups.py)."""

ALL_KINDS = (*dict.fromkeys(kind for kinds in KINDS_OF.values() for kind in kinds),)


class Fault(msgspec.Struct, frozen=True):
    """A fault of a plan. Times are seconds after the load has begun; `value` from 0 to 1 decides its details."""

    kind: str
    begins: float
    ends: float
    value: float


class Plan(msgspec.Struct, frozen=True):
    """What happens in a round, and some settings of its services.

    `supervised`: `tcgx up` runs the exchange. `setup`: a key of `KINDS_OF`.
    """

    seed: int
    faults: tuple[Fault, ...]
    match_batch: int
    archive_batch_bytes: int
    api_processes: int
    supervised: bool
    setup: str = "single"

    @property
    def kinds(self) -> set[str]:
        """The names of its kinds."""
        return {fault.kind for fault in self.faults}

    def without(self, kinds: Iterable[str]) -> "Plan":
        """The plan without faults that this machine can't make."""
        left_out = {*kinds}
        return msgspec.structs.replace(self, faults=tuple(one for one in self.faults if one.kind not in left_out))


def plan(seed: int, setup: str = "single") -> Plan:
    """The plan of a seed. Seeds that follow one another go through all kinds; each may meet up to three others."""
    choose = random.Random(f"chaos {seed}")
    all_kinds = KINDS_OF[setup]
    kinds = [all_kinds[seed % len(all_kinds)]]
    if choose.random() >= ALONE:
        possible = [kind for kind in all_kinds if kind.both or kind.supervised == kinds[0].supervised]
        kinds += choose.choices(possible, k=choose.randint(1, FAULTS_MAX - 1))
    free: dict[str, float] = {}
    faults = []
    for kind in kinds:
        begins = max(free.get(part, 0.0) for part in kind.parts) + choose.uniform(*FIRST_SECONDS)
        ends = begins + choose.uniform(*kind.seconds)
        free |= dict.fromkeys(kind.parts, ends)
        faults.append(Fault(kind.name, round(begins, 3), round(ends, 3), choose.random()))
    return Plan(
        seed=seed,
        faults=tuple(faults),
        match_batch=choose.choice(MATCH_BATCHES),
        archive_batch_bytes=choose.choice(ARCHIVE_BATCH_BYTES),
        api_processes=choose.choice(API_PROCESSES),
        supervised=kinds[0].supervised,
        setup=setup,
    )


def kind_of(name: str) -> Kind:
    """A kind by its name."""
    return next(kind for kind in ALL_KINDS if kind.name == name)
