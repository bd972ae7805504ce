"""The headers of every answer, on both ways: Date, X-Content-Type-Options, X-Request-Id, and with TLS HSTS."""

import itertools
import re
import secrets
from email.utils import formatdate
from time import time

NOSNIFF = (b"x-content-type-options", b"nosniff")
HSTS = (b"strict-transport-security", b"max-age=31536000")
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_PROCESS = secrets.token_hex(6)
_numbers = itertools.count(1)


def request_id(given: bytes | None) -> str:
    """Returns the `X-Request-Id` of a request, or a new id if it has none or one that could harm a log."""
    if given is not None and REQUEST_ID.fullmatch(given):
        return given.decode()
    return f"{_PROCESS}-{next(_numbers):x}"


def set_tls(*, enabled: bool) -> None:
    """Adds Strict-Transport-Security to every answer of this process, or leaves it out. Called before the first one."""
    _date_header.fixed = (NOSNIFF, HSTS) if enabled else (NOSNIFF,)


def common_headers(request_id: str) -> tuple[tuple[bytes, bytes], ...]:
    """The common headers as ASGI has them."""
    return (*_date_header.fixed, (b"date", _date_header.now()), (b"x-request-id", request_id.encode()))


def common_header_lines(request_id: str) -> bytes:
    """The common headers as bytes of HTTP/1.1."""
    return b"%b%b\r\n" % (_date_header.lines(), request_id.encode())


class _DateHeader:
    """The header `Date` (RFC 9110, 5.6.7) and the lines around it, formatted once a second."""

    def __init__(self) -> None:
        self.fixed: tuple[tuple[bytes, bytes], ...] = (NOSNIFF,)
        self._second = 0
        self._text = self._lines = b""

    def now(self) -> bytes:
        """The value of `Date`."""
        self.lines()
        return self._text

    def lines(self) -> bytes:
        """The common headers up to the value of `X-Request-Id`."""
        second = int(time())
        if second != self._second:
            self._second = second
            self._text = formatdate(second, usegmt=True).encode()
            fixed = b"".join(b"%b: %b\r\n" % header for header in self.fixed)
            self._lines = b"%bdate: %b\r\nx-request-id: " % (fixed, self._text)
        return self._lines


_date_header = _DateHeader()
