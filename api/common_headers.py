"""Headers that every answer has, whatever gives it: Date, X-Content-Type-Options, and X-Request-Id."""

import itertools
import re
import secrets
from email.utils import formatdate
from time import time

NOSNIFF = (b"x-content-type-options", b"nosniff")
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_PROCESS = secrets.token_hex(6)
_numbers = itertools.count(1)


def request_id(given: bytes | None) -> str:
    """The `X-Request-Id` of a request; a new one where it has none, or one that could do harm in a log."""
    if given is not None and REQUEST_ID.fullmatch(given):
        return given.decode()
    return f"{_PROCESS}-{next(_numbers):x}"


def common_headers(request_id: str) -> tuple[tuple[bytes, bytes], ...]:
    """These headers, for the answer to a request."""
    return (NOSNIFF, (b"date", _date_header.now()), (b"x-request-id", request_id.encode()))


def common_header_lines(request_id: str) -> bytes:
    """The same as they are sent."""
    return b"%b%b\r\n" % (_date_header.lines(), request_id.encode())


class _DateHeader:
    """The time as HTTP writes it (RFC 9110, 5.6.7), and the lines around it; written out once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = self._lines = b""

    def now(self) -> bytes:
        """The value of `Date`."""
        self.lines()
        return self._text

    def lines(self) -> bytes:
        """All that comes before the value of `X-Request-Id`."""
        second = int(time())
        if second != self._second:
            self._second = second
            self._text = formatdate(second, usegmt=True).encode()
            self._lines = b"%b: %b\r\ndate: %b\r\nx-request-id: " % (*NOSNIFF, self._text)
        return self._lines


_date_header = _DateHeader()
