"""The health of an exchange, part by part: what the answers of the servers mean.

The functions judge answers and ask nothing themselves. `/health`, `/health/ready` and `tcgx doctor` use them alike.
"""

from collections.abc import Mapping, Sequence

import msgspec

from archiver import archiver
from archiver.lag import Lag
from engine.book_reader import LogPosition
from engine.heartbeat import Heartbeat
from engine.server_state import ServerState

PARTS = ("redis", "functions", "engine", "postgresql", "archiver", "history", "backlog")
"""The parts of an exchange, in the order of a report."""

NEEDED_BY_ORDERS = frozenset({"redis", "functions", "history", "backlog"})
"""The parts without which no order can be appended. Without the others, orders wait in the log."""

OK, WARNING, UNKNOWN = "ok", "warning", "unknown"
MISSING, HUNG, SLOW, WAITING, STUCK = "missing", "hung", "slow", "waiting", "stuck"
FULL, REFUSED, CONFLICT = "full", "refused", "conflict"
STATUSES: Mapping[str, str] = {
    OK: "it works",
    WARNING: "it works, and needs attention soon",
    MISSING: "it does not answer, or no process does this work",
    HUNG: "a process or server is there, and does not move",
    SLOW: "it works, and is far behind",
    WAITING: "it waits for a server",
    STUCK: "it runs, and its work does not proceed",
    FULL: "it has no room for orders",
    REFUSED: "the server answers, and orders cannot be written safely",
    CONFLICT: "log and archive do not belong together",
    UNKNOWN: "Redis, which knows it, does not answer",
}
"""The statuses of a part, and what they mean."""

WORKING = frozenset({OK, WARNING})

HEARTBEAT_SECONDS_MAX = 3.0
"""The age of a heartbeat from which its process counts as hung."""

ACTIVITY_SECONDS_MAX = 20.0
"""The age of an activity from which its process counts as stuck. A read that blocks takes 10 s if nothing comes."""

STILL_SECONDS_MAX = 3.0
"""The time without progress from which the matching of waiting commands counts as stuck."""

WRITE_SECONDS_MAX = 5.0
"""The time from which an archiver that writes counts as waiting for PostgreSQL."""

LAG_SECONDS_MAX = 60
"""The lag of the archive from which the archiver counts as slow."""

NEARLY_FULL = 0.9
"""The share of the memory bound from which Redis has the status `warning`."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a part. `reason`: a sentence that explains another status than `ok`.

    `cause`: the text of an error, for an operator alone, since it may name addresses.
    """

    status: str = OK
    reason: str = ""
    cause: str = ""

    @property
    def works(self) -> bool:
        """Whether the part does its work."""
        return self.status in WORKING


class RedisPart(Part, frozen=True, kw_only=True):
    """Redis. A value is None if Redis did not answer, and a text is empty if it does not say it."""

    answered_ms: float | None = None
    role: str = ""
    aof: str = ""
    memory_used_bytes: int | None = None
    memory_max_bytes: int | None = None


class PostgresqlPart(Part, frozen=True, kw_only=True):
    """PostgreSQL."""

    answered_ms: float | None = None


class EnginePart(Part, frozen=True, kw_only=True):
    """The engines. `still_seconds`: for how long at least no waiting command of some card was matched."""

    heartbeat_seconds: float | None = None
    waiting_commands: int | None = None
    still_seconds: float | None = None


class ArchiverPart(Part, frozen=True, kw_only=True):
    """The archiver that has the lock, or the one that would have it."""

    heartbeat_seconds: float | None = None
    activity: str = ""
    activity_seconds: float | None = None
    lag_seconds: float | None = None
    lag_commands: int | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The state of each part at one moment."""

    redis: RedisPart
    functions: Part
    engine: EnginePart
    postgresql: PostgresqlPart
    archiver: ArchiverPart
    history: Part
    backlog: Part
    sentences: Sequence[str] = ()
    """A sentence for each card whose history is in conflict."""

    def parts(self) -> dict[str, Part]:
        """The parts by name, in the order of `PARTS`."""
        return {name: getattr(self, name) for name in PARTS}

    @property
    def missing(self) -> list[str]:
        """The parts that do not do their work. One that is not known is not named: the server that knows it is."""
        return [name for name, part in self.parts().items() if not part.works and part.status != UNKNOWN]

    @property
    def takes_orders(self) -> bool:
        """Whether an order can be appended."""
        return NEEDED_BY_ORDERS.isdisjoint(self.missing)

    @property
    def reasons(self) -> list[str]:
        """A sentence for each fault or warning."""
        found: list[str] = []
        for name, part in self.parts().items():
            found += self.sentences if name == "history" and self.sentences else [part.reason] if part.reason else []
        return found


def redis_part(state: ServerState, ms: float, *, memory_share_max: float) -> RedisPart:
    """Redis that answers. `memory_share_max`: the share of its memory from which orders are refused."""
    status, reason, cause = OK, "", ""
    bound = max(1, int(state.memory_max_bytes * memory_share_max)) if state.memory_max_bytes else 0
    used = f"{_mb(state.memory_used_bytes)} of {_mb(bound)} MB are used"
    if state.role == "replica":  # the fault names the address of its primary
        status, cause = REFUSED, state.fault
        reason = "Redis is a replica, which takes no orders; TCGX_REDIS_URL must name the primary"
    elif state.fault:
        status, reason = REFUSED, state.fault
    elif bound and state.memory_used_bytes >= bound:
        status = FULL
        reason = f"Redis is out of memory: {used}; raise maxmemory"
    elif bound and state.memory_used_bytes >= NEARLY_FULL * bound:
        status = WARNING
        reason = f"Redis is nearly out of memory: {used}; raise maxmemory"
    elif state.warning:
        status, cause = WARNING, state.warning
        reason = "a part of the cluster does not take orders"
    return RedisPart(
        status=status,
        reason=reason,
        cause=cause,
        answered_ms=ms,
        role=state.role,
        aof=state.aof,
        memory_used_bytes=state.memory_used_bytes,
        memory_max_bytes=state.memory_max_bytes,
    )


def backlog_part(positions: Mapping[str, LogPosition], backlog_max: int) -> Part:
    """The room for commands that wait to be matched. It is full when no card has room: one card must not stop all."""
    full = [card for card, place in positions.items() if place.appended - place.matched >= backlog_max]
    if not full:
        return Part()
    reason = f"{backlog_max} commands wait to be matched of {', '.join(full)}: its orders are refused until then"
    return Part(status=FULL if len(full) == len(positions) else WARNING, reason=reason)


def history_part(conflicts: Mapping[str, str], obstacles: Mapping[str, str]) -> Part:
    """The histories. `conflicts`, `obstacles`: a sentence for each card. One conflict stops all: a server is another.

    An obstacle stops one card, so all cards must have one.
    """
    if conflicts:
        return Part(status=CONFLICT, reason=next(iter(conflicts.values())))
    found = [sentence for sentence in obstacles.values() if sentence]
    if not found:
        return Part()
    return Part(status=WAITING if len(found) == len(obstacles) else WARNING, reason=found[0])


def engine_part(state: ServerState, still_seconds: float) -> EnginePart:
    """The engines, by their heartbeats and by the positions of the cards."""
    beats = [beat for beat in state.heartbeats or () if beat.service == "engine"]
    best = min(beats, key=lambda beat: (beat.seconds > HEARTBEAT_SECONDS_MAX, beat.activity_seconds), default=None)
    status, reason = OK, ""
    if best is not None:
        status, reason = _engine_status(best, beats, still_seconds)
    elif state.heartbeats is not None:
        status, reason = MISSING, "no engine is connected to Redis: orders wait in the log"
    return EnginePart(
        status=status,
        reason=reason,
        cause=best.process if best and status != OK else "",
        heartbeat_seconds=best.seconds if best else None,
        waiting_commands=sum(max(0, place.appended - place.matched) for place in state.positions.values()),
        still_seconds=round(still_seconds, 1),
    )


def _engine_status(beat: Heartbeat, beats: Sequence[Heartbeat], still_seconds: float) -> tuple[str, str]:
    hung = len([other for other in beats if other.seconds > HEARTBEAT_SECONDS_MAX])
    return _first(
        (hung == len(beats), HUNG, f"the engine hangs: its last heartbeat is {beat.seconds:.0f} s old"),
        (
            beat.activity_seconds > ACTIVITY_SECONDS_MAX,
            STUCK,
            f"the engine stands still: its last round began {beat.activity_seconds:.0f} s ago",
        ),
        (
            still_seconds > STILL_SECONDS_MAX,
            STUCK,
            f"commands of a card wait, and none was matched for {still_seconds:.0f} s: the log of the engine says why",
        ),
        (hung > 0, WARNING, f"{hung} of {len(beats)} engines hang; another one matches"),
    )


def _first(*verdicts: tuple[bool, str, str]) -> tuple[str, str]:
    """Status and reason of the first verdict that holds."""
    return next(((status, reason) for holds, status, reason in verdicts if holds), (OK, ""))


def archiver_part(
    heartbeats: Sequence[Heartbeat] | None, lags: Sequence[Lag], *, has_lock: bool, answers: bool
) -> ArchiverPart:
    """The archivers, by their heartbeats and by the lag. `heartbeats`: None if Redis forbids `CLIENT LIST`.

    `has_lock`: whether some connection holds the lock. `answers`: whether PostgreSQL answers.
    """
    beats = [beat for beat in heartbeats or () if beat.service == "archiver"]
    best = min(beats, key=_rank, default=None)
    status, reason = _archiver_status(best, answers=answers)
    if heartbeats is None:
        status, reason = _first(
            (not answers, WAITING, "the archiver waits for PostgreSQL"),
            (not has_lock, MISSING, "no archiver holds the lock: Redis keeps the events"),
        )
    worst = max((one.seconds for one in lags), default=None)
    if status == OK and worst is not None and worst >= LAG_SECONDS_MAX:
        status, reason = SLOW, f"the archive is {worst:.0f} s behind the engine: look at the load of PostgreSQL"
    return ArchiverPart(
        status=status,
        reason=reason,
        cause=best.process if best and status != OK else "",
        heartbeat_seconds=best.seconds if best else None,
        activity=best.activity if best else "",
        activity_seconds=round(best.activity_seconds, 1) if best else None,
        lag_seconds=worst,
        lag_commands=sum(one.commands for one in lags) if lags else None,
    )


def _rank(beat: Heartbeat) -> tuple[bool, bool, float]:
    """The order of archivers: one that archives first, and one that hangs last."""
    return beat.activity not in archiver.ARCHIVING, beat.seconds > HEARTBEAT_SECONDS_MAX, beat.seconds


def _archiver_status(beat: Heartbeat | None, *, answers: bool) -> tuple[str, str]:
    if beat is None:
        return MISSING, "no archiver is connected to Redis: Redis keeps the events, so watch its memory"
    age, is_retrying = beat.activity_seconds, beat.activity == archiver.RETRYING
    waits = beat.activity == archiver.WRITING and age > WRITE_SECONDS_MAX
    return _first(
        (
            beat.seconds > HEARTBEAT_SECONDS_MAX,
            HUNG,
            f"the archiver hangs: its last heartbeat is {beat.seconds:.0f} s old",
        ),
        (waits, WAITING, f"the archiver has waited for PostgreSQL for {age:.0f} s"),
        (not answers, WAITING, "the archiver waits for PostgreSQL"),
        (is_retrying, WAITING, "the archiver failed and tries again: its log says why"),
        (
            beat.activity == archiver.STANDBY,
            MISSING,
            "no archiver works: another connection to PostgreSQL holds the lock, for which this one waits",
        ),
        (age > ACTIVITY_SECONDS_MAX, STUCK, f"the archiver stands still: it began {beat.activity!r} {age:.0f} s ago"),
        (beat.activity not in archiver.ARCHIVING, WAITING, "the archiver is starting"),
    )


def _mb(count: int) -> str:
    return f"{count / 1_000_000:,.1f}"
