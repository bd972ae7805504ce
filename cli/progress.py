"""A line that shows how far a command is, at which rate, and how long the rest takes."""

import sys
import time

WIDTH = 30
REDRAW_SECONDS = 0.1
MEGABYTE = 1_000_000


class Progress:
    """A line on standard error, if that is a terminal. `total`: what is expected, as far as known.

    Counts are bytes if the unit is MB.
    """

    def __init__(self, label: str, total: int, *, unit: str = "MB") -> None:
        self._label = label
        self._unit = unit
        self._scale = MEGABYTE if unit == "MB" else 1
        self._total = total
        self._done = 0
        self._began_at = time.monotonic()
        self._drawn_at = 0.0
        self._is_shown = sys.stderr.isatty()

    def add(self, count: int) -> None:
        """Adds what is done."""
        self._done += count
        now = time.monotonic()
        if self._is_shown and now - self._drawn_at >= REDRAW_SECONDS:
            self._drawn_at = now
            print(f"\r{self.line(now - self._began_at)}\x1b[K", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Removes the line."""
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """The line after so many seconds."""
        share = min(self._done / self._total, 0.99) if self._total else 0.0
        rate = self._done / seconds if seconds > 0 else 0.0
        left = (self._total - self._done) / rate if rate else 0.0
        bar = "#" * int(share * WIDTH)
        return (
            f"{self._label} [{bar:<{WIDTH}}] {share:4.0%}  {self._done / self._scale:,.0f} {self._unit}  "
            f"{rate / self._scale:,.0f} {self._unit}/s  {max(int(left), 0)} s left"
        )
