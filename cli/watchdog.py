"""The watchdog of a service: it kills the process if its heartbeats end (core/heartbeat.py).

All times are of the monotonic clock, so a change of the date has no effect. A pause of this process itself, or of the
whole machine, counts for no service.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from core.heartbeat import DESCRIPTOR_VARIABLE

CHECK_SECONDS = 0.25
OWN_PAUSE_SECONDS = 1.0
"""A check that comes later than this shows that this process stood still; all services then begin anew."""
FIRST_BEAT_SECONDS = 60.0
"""How long a process may take from its start to its first heartbeat: it imports its modules meanwhile."""
READ_BYTES = 65_536

log = structlog.get_logger()


class Watchdog:
    """The pipe of a service, and the time of its last heartbeat."""

    def __init__(self, name: str, *, hung_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._hung_seconds = hung_seconds
        self._clock = clock
        self._is_heard = False
        self._read_end = -1

    @contextmanager
    def pipe(self) -> Iterator[tuple[dict[str, str], int]]:
        """Makes the pipe. A process that is started in the context inherits its writing end.

        Yields the variables for the environment of the process, and the file descriptor.
        """
        self._read_end, write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        try:
            yield {DESCRIPTOR_VARIABLE: str(write_end)}, write_end
        finally:
            os.close(write_end)

    def close(self) -> None:
        """Closes the pipe."""
        if self._read_end >= 0:
            os.close(self._read_end)
        self._read_end = -1

    async def watch(self, kill: Callable[[], None]) -> None:
        """Returns after `kill` was called, because the heartbeat stood still for too long."""
        last_beat = checked_at = self._clock()
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            now = self._clock()
            if self._has_beaten():
                self._is_heard, last_beat = True, now
            if now - checked_at > CHECK_SECONDS + OWN_PAUSE_SECONDS:
                last_beat = now
            checked_at = now
            bound = self._hung_seconds if self._is_heard else max(self._hung_seconds, FIRST_BEAT_SECONDS)
            if now - last_beat > bound:
                log.error(
                    "killed, because its heartbeat stands still (TCGX_HUNG_SECONDS)",
                    service=self._name,
                    heartbeat_seconds=round(now - last_beat, 1),
                )
                kill()
                return

    def _has_beaten(self) -> bool:
        try:
            return bool(os.read(self._read_end, READ_BYTES))
        except BlockingIOError:
            return False
