"""Readiness: asks every part of an exchange for its health, with a bound on the time and on the number of questions."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from redis.asyncio import Redis

from archiver import lag, postgres
from archiver.lag import Lag
from archiver.queries import Archive
from core.errors import TcgxError, Unavailable
from core.service import cancel_and_wait
from core.settings import Settings
from engine import connection
from engine.book_reader import LogPosition
from engine.server_state import ServerState, read_server_state
from exchange import health_report
from exchange.health_report import ArchiverPart, EnginePart, Part, PostgresqlPart, RedisPart, Report

T = TypeVar("T")

ANSWER_SECONDS = 0.8
"""How long a report waits for the servers. It is made in less than 1 s, whatever hangs."""

GIVE_UP_SECONDS = 2.0
"""How long a question goes on, so that a server that is only slow is heard by the next report."""

CACHE_SECONDS = 0.15
"""The age up to which a report is given again. So a flood of probes costs seven checks a second."""


class Histories(Protocol):
    """The histories of the cards, as the process of a door knows them (archiver/history.py)."""

    faults: dict[str, str]

    def obstacles(self) -> Mapping[str, str]:
        """For each card why its orders are refused although its history has no fault; empty if they are not."""


class Sessions(Protocol):
    """What judges the tokens of callers (exchange/revocations.py)."""

    @property
    def obstacle(self) -> str:
        """Why no token can be judged; empty if tokens can."""


class _Late(Unavailable):
    """A server that has not refused a connection, and does not answer in time."""


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """An answer, and how many milliseconds it took."""

    value: T
    ms: float


class Question(Generic[T]):
    """A question to a server, asked at most once at a time. A report that waits in vain leaves it to the next one."""

    def __init__(self, ask: Callable[[], Awaitable[T]], server: str) -> None:
        self._ask = ask
        self._server = server
        self._asking: asyncio.Task[Answer[T]] | None = None

    def begin(self) -> "asyncio.Task[Answer[T]]":
        """The question that is under way, or else a new one."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._timed(), name=f"question to {self._server}")
            self._asking.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._asking

    async def _timed(self) -> Answer[T]:
        began = time.monotonic()
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS):
                value = await self._ask()
        except TimeoutError as error:
            raise _Late(f"{self._server} does not answer in time") from error
        return Answer(value, round((time.monotonic() - began) * 1_000, 1))

    def result(self, asked: "asyncio.Task[Answer[T]]") -> Answer[T] | TcgxError:
        """The answer, or the error in its place."""
        if not asked.done():
            return _Late(f"{self._server} does not answer in time")
        try:
            return asked.result()
        except TcgxError as error:
            return error

    async def close(self) -> None:
        """Ends the question that is under way."""
        if self._asking is not None:
            await cancel_and_wait(self._asking)


class Archived(msgspec.Struct, frozen=True):
    """The lag of the archive, and whether a connection holds the lock of the archiver."""

    lags: Sequence[Lag]
    has_lock: bool


class Readiness:
    """Reports the health of an exchange.

    Reports that are asked for at the same time are one. The connections are its own: busy ones of the exchange do not
    delay it.
    """

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        archive: Archive,
        histories: Histories | None,
        sessions: Sessions | None = None,
        *,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        """`histories`, `sessions`: None in a process that is no door. `answer_seconds`: how long a report waits."""
        self._settings = settings
        self._redis = redis
        self._archive = archive
        self._histories = histories
        self._sessions = sessions
        self._memory_share_max = settings.redis_memory_percent / 100
        self._answer_seconds = answer_seconds
        self._server = Question(self._ask_redis, "Redis")
        self._database = Question(archive.answers, "PostgreSQL")
        self._archived = Question(self._ask_archived, "PostgreSQL")
        self._reporting: asyncio.Task[Report] | None = None
        self._reported_at = 0.0
        self._still: dict[str, tuple[int, float]] = {}

    async def report(self) -> Report:
        """The health of every part, at most `CACHE_SECONDS` old. It takes at most about `ANSWER_SECONDS`."""
        if self._reporting is None or (self._reporting.done() and self._is_outdated()):
            self._reporting = asyncio.create_task(self._report(), name="health report")
        return await asyncio.shield(self._reporting)

    async def close(self) -> None:
        """Ends all questions. Nobody waits for a report any more."""
        await cancel_and_wait(*([self._reporting] if self._reporting else []))
        for question in (self._server, self._database, self._archived):
            await question.close()

    def _is_outdated(self) -> bool:
        return time.monotonic() - self._reported_at > CACHE_SECONDS

    async def _report(self) -> Report:
        asked = self._server.begin(), self._database.begin(), self._archived.begin()
        await asyncio.wait(asked, timeout=self._answer_seconds)
        server, database = self._server.result(asked[0]), self._database.result(asked[1])
        report = self._judge(server, database, self._archived.result(asked[2]))
        self._reported_at = time.monotonic()
        return report

    def _judge(
        self,
        server: Answer[ServerState] | TcgxError,
        database: Answer[bool] | TcgxError,
        archived: Answer[Archived] | TcgxError,
    ) -> Report:
        if isinstance(database, TcgxError):
            postgresql = PostgresqlPart(**_fault(database))
        else:
            postgresql = PostgresqlPart(answered_ms=database.ms)
        conflicts = self._histories.faults if self._histories else {}
        obstacles = self._obstacles()
        history = health_report.history_part(conflicts, obstacles)
        sentences = list(conflicts.values())
        if isinstance(server, TcgxError):
            unknown: dict[str, Any] = {"status": health_report.UNKNOWN}
            return Report(
                redis=RedisPart(**_fault(server)),
                functions=Part(**unknown),
                engine=EnginePart(**unknown),
                postgresql=postgresql,
                archiver=ArchiverPart(**unknown),
                history=history,
                backlog=Part(**unknown),
                sentences=sentences,
            )
        state = server.value
        lags, has_lock = (
            ((), False) if isinstance(archived, TcgxError) else (archived.value.lags, archived.value.has_lock)
        )
        return Report(
            redis=health_report.redis_part(state, server.ms, memory_share_max=self._memory_share_max),
            functions=_functions_part(state),
            engine=health_report.engine_part(state, self._still_seconds(state.positions)),
            postgresql=postgresql,
            archiver=health_report.archiver_part(state.heartbeats, lags, has_lock=has_lock, answers=postgresql.works),
            history=history,
            backlog=health_report.backlog_part(state.positions, self._settings.backlog_max),
            sentences=sentences,
        )

    def _obstacles(self) -> Mapping[str, str]:
        """For each card why its orders are refused."""
        if self._sessions and (obstacle := self._sessions.obstacle):
            return dict.fromkeys(self._settings.cards, obstacle)
        return self._histories.obstacles() if self._histories else {}

    def _still_seconds(self, positions: Mapping[str, LogPosition]) -> float:
        """For how long commands of some card have waited at each report, while none of the card was matched."""
        now, still = time.monotonic(), {}
        for card, place in positions.items():
            if place.appended > place.matched:
                before = self._still.get(card)
                still[card] = before if before and before[0] == place.matched else (place.matched, now)
        self._still = still
        return max((now - since for _, since in still.values()), default=0.0)

    async def _ask_redis(self) -> ServerState:
        settings = self._settings
        return await read_server_state(self._redis, settings.cards, durability=settings.durability)

    async def _ask_archived(self) -> Archived:
        cursors = await self._archive.cursors(self._settings.cards)
        return Archived(await lag.lag(self._redis, cursors), await self._archive.has_archiver())


def _functions_part(state: ServerState) -> Part:
    if state.has_functions:
        return Part()
    if state.has_other_library:  # calls work with it, and load this version's where they miss a function
        return Part(status=health_report.WARNING, reason="Redis has the Lua library of another version")
    return Part(status=health_report.MISSING, reason="Redis has no Lua library; the next call loads it")


def _fault(error: TcgxError) -> dict[str, Any]:
    """Status, reason and cause of a server that does not answer. The reason ends where addresses may begin."""
    status = health_report.HUNG if isinstance(error, _Late) else health_report.MISSING
    return {"status": status, "reason": str(error).partition(":")[0], "cause": str(error)}


@asynccontextmanager
async def connect(
    settings: Settings,
    histories: Histories | None,
    sessions: Sessions | None = None,
    *,
    answer_seconds: float = ANSWER_SECONDS,
) -> AsyncIterator[Readiness]:
    """Readiness with connections of its own."""
    async with (
        connection.connect(settings.redis_url) as redis,
        postgres.pool(settings.database_url, size=2) as pool,
    ):
        readiness = Readiness(settings, redis, Archive(pool), histories, sessions, answer_seconds=answer_seconds)
        try:
            yield readiness
        finally:
            await readiness.close()
