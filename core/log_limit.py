"""Log lines that a lasting failure would write hundreds of times a second: one a second, with their number."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

WINDOW_SECONDS = 1.0


class LimitedLog:
    """Writes the first line of an event at once. Those that follow within a second are one line at its end: the last of
    them, and in `times` how many it stands for. Events are constants of the code, so there are few."""

    def __init__(
        self, log: Any, *, seconds: float = WINDOW_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`log`: a logger of structlog."""
        self._log = log
        self._seconds = seconds
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    def warning(self, event: str, **fields: Any) -> None:
        """A line of this level, now or at the end of the second."""
        now = self._clock()
        window = self._windows.setdefault(event, _Window())
        window.count += 1
        window.fields = fields
        if now >= window.ends_at:
            self._write(event)
        elif window.timer is None:
            window.timer = _call_later(window.ends_at - now, lambda: self._write(event))

    def _write(self, event: str) -> None:
        window = self._windows[event]
        if window.timer is not None:
            window.timer.cancel()
            window.timer = None
        times = {} if window.count == 1 else {"times": window.count}
        window.count = 0
        window.ends_at = self._clock() + self._seconds
        self._log.warning(event, **window.fields, **times)


class _Window:
    """What came of one event since its last line."""

    def __init__(self) -> None:
        self.ends_at = 0.0
        self.count = 0
        self.fields: dict[str, Any] = {}
        self.timer: asyncio.TimerHandle | None = None


def _call_later(seconds: float, write: Callable[[], None]) -> asyncio.TimerHandle | None:
    """Without a loop nothing is called: the next line of the event says how many there were."""
    try:
        return asyncio.get_running_loop().call_later(seconds, write)
    except RuntimeError:
        return None
