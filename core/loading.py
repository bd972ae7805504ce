"""The progress of something that loads, and when to give it up: once nothing has moved for a while."""

import structlog

from core.errors import StartError

log = structlog.get_logger()

REPORT_SECONDS = 5.0
"""The interval of the log lines."""

STALL_SECONDS = 60.0
"""A load is given up when nothing has moved for this long."""

MEGABYTE = 1_000_000


class LoadProgress:
    """Follows one load. A position is anything that changes while the load goes on."""

    def __init__(self, name: str, now: float) -> None:
        self._name = name
        self._position: object = None
        self._line = ""
        self._began_at = self._moved_at = now
        self._reported_at = now
        self._first_bytes = 0

    def at_position(self, position: object, now: float, **details: object) -> None:
        """Takes the present position, and logs it from time to time.

        Raises:
            StartError: nothing has moved for `STALL_SECONDS`.
        """
        if position != self._position:
            self._position, self._moved_at = position, now
            self._line = str(details.get("line", ""))
        self.check(now)
        if now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            log.info(f"{self._name} reads its data", seconds=round(now - self._began_at), **details)

    def at_bytes(self, done: int, total: int, now: float) -> None:
        """Takes the present position in bytes; the log lines have a percentage, the rate and the time left.

        Raises:
            StartError: nothing has moved for `STALL_SECONDS`.
        """
        if not total:  # the server did not say
            self.check(now)
            return
        if self._position is None:
            self._first_bytes = done
        rate = (done - self._first_bytes) / (now - self._began_at) if now > self._began_at else 0.0
        self.at_position(
            done,
            now,
            percent=round(100 * done / total),
            megabytes=round(total / MEGABYTE),
            megabytes_per_second=round(rate / MEGABYTE, 1),
            seconds_left=round(max(total - done, 0) / rate) if rate else "unknown",
        )

    def check(self, now: float) -> None:
        """Checks that something has moved lately.

        Raises:
            StartError: nothing has moved for `STALL_SECONDS`.
        """
        if now - self._moved_at >= STALL_SECONDS:
            where = f" after {self._position} bytes" if isinstance(self._position, int) else ""
            where += f" since {self._line!r}" if self._line else ""
            raise StartError(
                f"{self._name} reads its data, and nothing has moved for {STALL_SECONDS:g} s{where}: it is given up"
            )
