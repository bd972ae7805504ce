"""The plan of a round: which faults happen, to which part, and when. The same seed gives the same plan."""

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

SERVERS = ("redis", "postgres")
SERVICES = ("engine", "archiver", "api")
PARTS = (*SERVERS, *SERVICES)
FAULTS_MAX = 4
ALONE = 0.4
"""The share of rounds with one fault."""
FIRST_SECONDS = (0.3, 2.5)
"""A fault begins within this time after the load, or after the fault before it on the same part."""
MATCH_BATCHES = (10, 1_000)
ARCHIVE_BATCH_BYTES = (10_000, 4_000_000)
"""Small values give many calls and many transactions, so that a kill is likely to meet one under way."""


class Kind(NamedTuple):
    """A kind of fault: the part that it occupies, the shortest and the longest time, and what the machine must have."""

    name: str
    part: str
    seconds: tuple[float, float]
    needs: str = ""


KINDS: Sequence[Kind] = (
    *(Kind(f"kill {part}", part, (0.0, 0.5)) for part in PARTS),
    *(Kind(f"pause {part}", part, (0.5, 3.0)) for part in PARTS),
    *(Kind(f"restart {service}", service, (0.0, 0.5)) for service in SERVICES),
    Kind("second engine", "engine-2", (1.0, 3.0)),
    Kind("second archiver", "archiver-2", (1.0, 3.0)),
    Kind("cut requests of clients", "link of clients", (0.5, 2.0)),
    Kind("cut answers to clients", "link of clients", (0.5, 2.0)),
    *(Kind(f"cut requests of {service}", f"link of {service}", (0.5, 2.0)) for service in SERVICES),
    *(Kind(f"cut answers to {service}", f"link of {service}", (0.5, 2.0)) for service in SERVICES),
    Kind("postgres away", "postgres", (11.0, 13.0)),
    Kind("postgres hung", "postgres", (11.0, 13.0)),
    Kind("redis away", "redis", (6.0, 8.0)),
    Kind("redis hung", "redis", (6.0, 8.0)),
    Kind("kill redis while it rewrites its AOF", "redis", (0.0, 0.5)),
    Kind("postgres ends all connections", "postgres", (0.0, 0.2)),
    Kind("memory full", "redis", (1.0, 3.0)),
    Kind("zeros at the end of the AOF", "redis", (0.0, 0.2)),
    Kind("garbage at the end of the AOF", "redis", (0.0, 0.2)),
    Kind("clock step of redis", "clock", (1.0, 3.0), needs="clock"),
    Kind("disk full", "redis", (1.0, 3.0), needs="disk"),
)
"""The long ones outlast the bounds of the services: 5 s for a Redis command, 10 s for the archiver's heartbeat."""


class Fault(msgspec.Struct, frozen=True):
    """A fault of a plan. Times are seconds after the load has begun; `value` from 0 to 1 decides its details."""

    kind: str
    begins: float
    ends: float
    value: float


class Plan(msgspec.Struct, frozen=True):
    """What happens in a round, and two settings of its services."""

    seed: int
    faults: tuple[Fault, ...]
    match_batch: int
    archive_batch_bytes: int

    def without(self, kinds: Iterable[str]) -> "Plan":
        """The plan without faults that this machine can't make."""
        left_out = {*kinds}
        return msgspec.structs.replace(self, faults=tuple(one for one in self.faults if one.kind not in left_out))


def plan(seed: int) -> Plan:
    """The plan of a seed. Seeds that follow one another go through all kinds; each may meet up to three others."""
    choose = random.Random(f"chaos {seed}")
    kinds = [KINDS[seed % len(KINDS)]]
    if choose.random() >= ALONE:
        kinds += choose.choices(KINDS, k=choose.randint(1, FAULTS_MAX - 1))
    free: dict[str, float] = {}
    faults = []
    for kind in kinds:
        begins = free.get(kind.part, 0.0) + choose.uniform(*FIRST_SECONDS)
        ends = begins + choose.uniform(*kind.seconds)
        free[kind.part] = ends
        faults.append(Fault(kind.name, round(begins, 3), round(ends, 3), choose.random()))
    return Plan(seed, tuple(faults), choose.choice(MATCH_BATCHES), choose.choice(ARCHIVE_BATCH_BYTES))


def kind_of(name: str) -> Kind:
    """A kind by its name."""
    return next(kind for kind in KINDS if kind.name == name)
