"""How long a caller waits for the match: the header `Prefer: wait=N` (RFC 7240), or a field of another door."""

import re

from core.errors import InvalidRequest, Violation

WAIT_SECONDS_MAX = 10
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([^\s,;\"]*)\"?", re.IGNORECASE)


def check_wait(seconds: float, field: str) -> float:
    """Returns the seconds that a caller wants to wait, as a door without headers gives them.

    Raises:
        InvalidRequest: they are not from 0 to `WAIT_SECONDS_MAX`.
    """
    if not 0 <= seconds <= WAIT_SECONDS_MAX:
        rule = f"must be a number of seconds from 0 to {WAIT_SECONDS_MAX}"
        raise InvalidRequest([Violation(field, f"invalid_{field}", rule, str(seconds))])
    return seconds


def wait_seconds(header: str | None) -> float:
    """Returns the seconds that a caller wants to wait; 0 without `wait`. Other preferences are ignored.

    Raises:
        InvalidRequest: `wait` is no number of seconds from 0 to `WAIT_SECONDS_MAX`.
    """
    if header is None:
        return 0.0
    found = _WAIT.search(header)
    if found is None:
        return 0.0
    text = found.group(1)
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", text) or float(text) > WAIT_SECONDS_MAX:
        rule = f"wait must be a number of seconds from 0 to {WAIT_SECONDS_MAX}"
        raise InvalidRequest([Violation("Prefer", "invalid_prefer", rule, text)])
    return float(text)
