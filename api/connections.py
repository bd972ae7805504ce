"""The connections of an API process: how many there are at most, in all and from one address.

A process that is full closes a connection that keeps it waiting, and takes the new one. So clients that hold
connections without sending requests can't shut out the others.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from heapq import nsmallest
from typing import NamedTuple, Protocol

import structlog

from api.problems import Problem
from core.file_limit import open_files_max
from core.log_limit import RateLimitedLog
from core.settings import Settings
from exchange.login_limit import network_of

CONNECTIONS_MAX = 20_000
"""The derived bound is at most this. Idle connections of that number take about 110 MB."""
RESERVED_FILES = 64
RESERVED_SHARE = 8
"""The derived bound leaves this number of files, or this part of all, to Redis, PostgreSQL, logs and refusals."""
REFUSED_MAX = 32
"""Refused connections that may wait for their request, so that the answer reaches the client."""
GRACE_SECONDS = 1.0
"""A client may be silent for so long before its connection counts as one that keeps the process waiting."""
PACKET_SECONDS = 0.1
"""Time that the packets of one head or body may take in any case."""
RESCAN_FACTOR = 20
"""A scan that finds few connections is repeated after this many times the time that it took."""
MANY = 16
RESCAN_FACTOR_OF_MANY = 4
"""The same for a scan that finds many: those found may send again before they are needed."""
WATCH_SECONDS = 1.0

log = structlog.get_logger()
rate_limited_log = RateLimitedLog(log)

IDLE, HEAD, BODY = 0, 1, 2


class Wait(NamedTuple):
    """What a connection waits for, and since when: the first byte of a request, the rest of a head, or of a body."""

    part: int
    since: float


class Connection(Protocol):
    """One connection, as its bounds see it."""

    def waits(self) -> Wait | None:
        """What it waits for; None while a request is answered."""

    def give_way(self) -> None:
        """Closes it for another one."""


class Refused(NamedTuple):
    """The answer to a connection beyond a bound. `waits`: whether its request is awaited first."""

    problem: Problem
    waits: bool


class Connections:
    """The connections of a process.

    A connection that enters costs an entry in a set; a request costs nothing. Only a full process looks at all of its
    connections. It keeps the order that it finds, so that each look serves many new connections.
    """

    def __init__(
        self,
        total_max: int = CONNECTIONS_MAX,
        address_max: int = 0,
        *,
        files_max: int = 2**30,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`files_max`: a file of this number or above means that files run short. `clock`: that of the event loop."""
        self._total_max = total_max
        self._address_max = address_max
        self._files_max = files_max
        self._clock = clock
        self._open: set[Connection] = set()
        self._refused: set[Connection] = set()
        self._network_of: dict[Connection, str] = {}
        self._count_of: dict[str, int] = {}  # by network with connections
        self._candidates: list[tuple[Wait, Connection]] = []  # the next one to close is the last
        self._next_scan_at = 0.0

    @classmethod
    def of(cls, settings: Settings) -> "Connections":
        """The bounds of these settings and of the limit of open files."""
        files = open_files_max()
        reserve = min(max(RESERVED_FILES, files // RESERVED_SHARE), files // 2)
        possible = max(1, files - reserve)
        total_max = settings.connections_max or min(possible, CONNECTIONS_MAX)
        if total_max > possible:
            log.warning(
                "TCGX_CONNECTIONS_MAX is above what the limit of open files allows (ulimit -Hn, LimitNOFILE)",
                connections_max=total_max,
                files=files,
                used=possible,
            )
            total_max = possible
        log.debug("bounds of connections", connections_max=total_max, files=files)
        return cls(total_max, settings.address_connections_max, files_max=files - reserve // 2)

    @property
    def open_count(self) -> int:
        """The number of open connections, without refused ones."""
        return len(self._open)

    def enter(self, connection: Connection, address: str | None, file_number: int) -> Refused | None:
        """Takes a new connection, or returns its refusal. `address`: the peer's; None for a Unix socket.

        A full process first closes the connection that has kept it waiting longest.
        """
        network = network_of(address) if self._address_max and address else None
        if network is not None and self._count_of.get(network, 0) >= self._address_max:
            rate_limited_log.warning(
                "an address has too many connections: a new one was refused", address=address, bound=self._address_max
            )
            return self._refuse(connection, _address_problem(self._address_max))
        is_short_of_files = file_number >= self._files_max
        if (is_short_of_files or len(self._open) >= self._total_max) and not self._make_room(is_short_of_files):
            rate_limited_log.warning(
                "too many connections: a new one was refused", open=len(self._open), bound=self._total_max
            )
            return self._refuse(connection, FULL)
        self._open.add(connection)
        if network is not None:
            self._network_of[connection] = network
            self._count_of[network] = self._count_of.get(network, 0) + 1
        return None

    def leave(self, connection: Connection) -> None:
        """Forgets a connection that is closed."""
        self._open.discard(connection)
        self._refused.discard(connection)
        network = self._network_of.pop(connection, None)
        if network is None:
            return
        self._count_of[network] -= 1
        if not self._count_of[network]:
            del self._count_of[network]

    def watch(self) -> asyncio.TimerHandle:
        """Looks once a second whether a file can be opened. The event loop accepts and closes connections without it,
        and says nothing."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            rate_limited_log.warning(
                "no file can be opened: new connections are closed", reason=error.strerror, open=len(self._open)
            )
        return asyncio.get_running_loop().call_later(WATCH_SECONDS, self.watch)

    def _refuse(self, connection: Connection, problem: Problem) -> Refused:
        waits = len(self._refused) < REFUSED_MAX
        if waits:
            self._refused.add(connection)
        return Refused(problem, waits)

    def _make_room(self, is_short_of_files: bool) -> bool:
        """Closes a connection for a new one. Returns whether there was one to close."""
        connection = self._next_candidate()
        if connection is None:
            return False
        rate_limited_log.warning(
            "files run short: the connection that waited longest was closed"
            if is_short_of_files
            else "too many connections: the one that waited longest was closed",
            open=len(self._open),
            bound=self._total_max,
        )
        self.leave(connection)
        connection.give_way()
        return True

    def _next_candidate(self) -> Connection | None:
        """The next connection to close: one that waits as it did when it was found."""
        for _ in range(2):
            while self._candidates:
                wait, connection = self._candidates.pop()
                if connection in self._open and connection.waits() == wait:
                    return connection
            if self._clock() < self._next_scan_at:
                return None
            self._scan()
        return None

    def _scan(self) -> None:
        """Finds the next connections to close: a part of all, so that a scan costs each new connection little."""
        now = self._clock()
        waits = [(wait, connection) for connection in self._open if (wait := connection.waits()) is not None]
        found = _most_expendable(waits, now, count=max(MANY, len(waits) // MANY))
        self._candidates = found[::-1]
        factor = RESCAN_FACTOR if len(found) < MANY else RESCAN_FACTOR_OF_MANY
        self._next_scan_at = now + factor * (self._clock() - now)


def _most_expendable(
    waits: Iterable[tuple[Wait, Connection]], now: float, *, count: int
) -> list[tuple[Wait, Connection]]:
    """Up to `count` connections by these kinds, and of a kind the longest wait first.

    A client that was silent for less than `GRACE_SECONDS` is mostly between two requests; its connection comes later.
    A head or a body may always take `PACKET_SECONDS`.
    """
    old, packet = now - GRACE_SECONDS, now - PACKET_SECONDS
    kinds = ((IDLE, old), (HEAD, old), (BODY, old), (IDLE, now), (HEAD, packet), (BODY, packet))
    chosen: list[tuple[Wait, Connection]] = []
    for place, (part, until) in enumerate(kinds):
        after = kinds[place - 3][1] if place > 2 else -1.0  # the two kinds of a part are disjoint
        found = [each for each in waits if each[0].part == part and after < each[0].since <= until]
        chosen += nsmallest(count - len(chosen), found, key=lambda each: each[0].since)
        if len(chosen) >= count:
            break
    return chosen


FULL = Problem(
    503,
    "too_many_connections",
    "Too many connections",
    "nothing was accepted: this API process has as many connections as it takes; repeat the request later",
)


def _address_problem(bound: int) -> Problem:
    detail = f"nothing was accepted: {bound} connections may be open from an address; close some"
    return Problem(429, "too_many_connections", "Too many connections", detail, retry_after=1, limit=bound, reset=1)
