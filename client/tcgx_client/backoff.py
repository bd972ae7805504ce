"""Times between tries: at random, so that clients which failed together do not come back together."""

from collections.abc import Callable

RETRY_SECONDS, RETRY_SECONDS_MAX = 0.2, 5.0
RETRY_AFTER_SPREAD = 0.2
RECONNECT_SECONDS, RECONNECT_SECONDS_MAX = 0.5, 30.0

Random = Callable[[], float]
"""A number from 0 up to 1."""


def retry_seconds(retries: int, retry_after: float | None, random: Random) -> float:
    """The pause before a request is sent again. `retries`: how many there were. `Retry-After` is obeyed."""
    if retry_after is not None:
        return retry_after + RETRY_AFTER_SPREAD * random()
    return random() * min(RETRY_SECONDS_MAX, RETRY_SECONDS * 2.0**retries)


def reconnect_seconds(failures: int, at_least: float, random: Random) -> float:
    """The pause before a stream connects again, after so many failures in a row."""
    ceiling = min(RECONNECT_SECONDS_MAX, RECONNECT_SECONDS * 2.0 ** min(failures, 10))
    return max(at_least, RECONNECT_SECONDS + random() * max(0.0, ceiling - RECONNECT_SECONDS))
