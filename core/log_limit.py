"""A rate limit for log lines, since a lasting failure would write hundreds of lines a second."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

WINDOW_SECONDS = 1.0


class RateLimitedLog:
    """Writes at most one line a second for each event.

    The first line of an event is written at once. Lines that follow within a second are merged into one at its end.
    The merged line has the fields of the last one, and their number as `times`. Events are constants of the code, so
    the number of windows is bounded.
    """

    def __init__(
        self, log: Any, *, seconds: float = WINDOW_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`log`: a logger of structlog."""
        self._log = log
        self._seconds = seconds
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    def warning(self, event: str, **fields: Any) -> None:
        """Writes a warning, now or at the end of the second."""
        self._add(self._log.warning, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Writes a line of information, now or at the end of the second."""
        self._add(self._log.info, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Writes an error, now or at the end of the second."""
        self._add(self._log.error, event, fields)

    def _add(self, write: Callable[..., Any], event: str, fields: dict[str, Any]) -> None:
        now = self._clock()
        window = self._windows.setdefault(event, _Window())
        window.count += 1
        window.write, window.fields = write, fields
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
        window.write(event, **window.fields, **times)


class _Window:
    """The lines of one event that were held back since its last written line."""

    def __init__(self) -> None:
        self.ends_at = 0.0
        self.count = 0
        self.write: Callable[..., Any] = _nothing
        self.fields: dict[str, Any] = {}
        self.timer: asyncio.TimerHandle | None = None


def _nothing(*_: Any, **__: Any) -> None:
    """Stands for the method of the logger until the first line."""


def _call_later(seconds: float, write: Callable[[], None]) -> asyncio.TimerHandle | None:
    """Schedules a call. Without a running loop there is no timer; the next line of the event then has the count."""
    try:
        return asyncio.get_running_loop().call_later(seconds, write)
    except RuntimeError:
        return None
