"""`python -m testing.limited_api`: an API process with few files, which tells how long its event loop was held.

`FILES` is the hard limit of open files. On SIGUSR1 the process writes the longest holds since the last time into the
file `HOLD_FILE`, in milliseconds: by the clock, and by the processor time of the loop's thread. The second one leaves
out the time in which other processes had the processor.
"""

import asyncio
import os
import resource
import signal
import sys
import time
from pathlib import Path

from api.app import create_app
from api.server import serve
from core import service
from core.heartbeat import Progress
from core.settings import Settings

PROBE_SECONDS = 0.001


class HoldProbe:
    """Measures by how much a timer of the event loop is late."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._longest = self._longest_busy = 0.0

    async def run(self) -> None:
        """Measures until it is canceled."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._write)
        while True:
            due, busy = time.perf_counter() + PROBE_SECONDS, time.thread_time()
            await asyncio.sleep(PROBE_SECONDS)
            self._longest = max(self._longest, time.perf_counter() - due)
            self._longest_busy = max(self._longest_busy, time.thread_time() - busy)

    def _write(self) -> None:
        part = self._path.with_suffix(".part")
        part.write_text(f"{self._longest * 1000:.1f} {self._longest_busy * 1000:.1f}")
        part.rename(self._path)
        self._longest = self._longest_busy = 0.0


async def work(settings: Settings, stopping: asyncio.Event, _: Progress) -> None:
    """The API service with a probe."""
    probe = asyncio.create_task(HoldProbe(Path(os.environ["HOLD_FILE"])).run())
    try:
        await serve(settings, stopping, create_app)
    finally:
        await service.cancel_and_wait(probe)


if __name__ == "__main__":
    files = int(os.environ["FILES"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(files, 256), files))
    sys.exit(service.run("api", work, dict(os.environ)))
