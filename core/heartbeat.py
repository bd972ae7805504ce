"""Heartbeats of a service: a byte on a pipe for each half second in which its event loop turns.

The parent process (cli/watchdog.py) has the other end of the pipe. A pipe needs no server and no disk, so a hung Redis
or a full disk stops no heartbeat. A service without a supervisor has no pipe, and sends nothing.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping

from core.errors import SettingError

DESCRIPTOR_VARIABLE = "HEARTBEAT_DESCRIPTOR"
"""The environment variable with the file descriptor of the pipe."""

BEAT_SECONDS = 0.5

STALLED_SECONDS = 120.0
"""The longest activity of a service. Each one has a shorter timeout, so a longer one will not end by itself."""


class Progress:
    """The present activity of a service, and its age.

    The service calls `begin` with each step of its work. The event loop may turn while the work stands still, so
    heartbeats alone do not show progress. The API has no such steps, and never calls it.
    """

    def __init__(self) -> None:
        self.activity = "starting"
        self.is_ready = False
        """Whether the service works, as it has told its service manager."""
        self._began_at: float | None = None

    def begin(self, activity: str) -> None:
        """Ends the present activity and begins another one, or the same one again."""
        self.activity = activity
        self._began_at = time.monotonic()

    @property
    def seconds(self) -> float:
        """The age of the present activity; 0 before the first one."""
        return 0.0 if self._began_at is None else time.monotonic() - self._began_at

    @property
    def stands_still(self) -> bool:
        """Whether the present activity takes longer than any may."""
        return self.seconds >= STALLED_SECONDS


@contextlib.asynccontextmanager
async def sent_to_parent(environment: Mapping[str, str], progress: Progress) -> AsyncIterator[None]:
    """Sends heartbeats to the parent process during the context, unless an activity exceeds `STALLED_SECONDS`."""
    if DESCRIPTOR_VARIABLE not in environment:
        yield
        return
    descriptor = _descriptor(environment[DESCRIPTOR_VARIABLE])
    beating = asyncio.create_task(_beat(descriptor, progress), name="heartbeats")
    try:
        yield
    finally:
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating


def _descriptor(text: str) -> int:
    try:
        descriptor = int(text)
        os.set_blocking(descriptor, False)
        os.set_inheritable(descriptor, False)
    except (ValueError, OSError) as error:
        raise SettingError(f"{DESCRIPTOR_VARIABLE}={text!r} must be an open file descriptor") from error
    return descriptor


async def _beat(descriptor: int, progress: Progress) -> None:
    while True:
        if not progress.stands_still:
            try:
                os.write(descriptor, b".")
            except BlockingIOError:
                pass  # the parent stands still: the pipe is full of heartbeats that it has not read
            except BrokenPipeError:
                return  # the parent has ended
        await asyncio.sleep(BEAT_SECONDS)
