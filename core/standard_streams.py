"""Standard input, output and error of a process, also if its parent closed some of them."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TextIO

CLOSED_PIPE = 141
"""The exit code of a program that SIGPIPE ended."""


def open_missing() -> None:
    """Opens /dev/null in place of each closed descriptor from 0 to 2.

    Otherwise a socket or a file would get such a number, and libuv would abort the process.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is `number`
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - stays open until the process ends


def replace_unencodable() -> None:
    """Makes standard output and error write `?` for a character that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # the stream of a test may have no such method
        if reconfigure:
            reconfigure(errors="replace")


def flush_output(code: int) -> int:
    """Flushes both streams. The exit code is `code`, or 1 or 141 if standard output cannot be written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = CLOSED_PIPE
        _discard(sys.stdout)
    except OSError as error:
        code = code or 1
        _discard(sys.stdout)
        with suppress(OSError):
            sys.stderr.write(f"tcgx: standard output can't be written: {error.strerror}\n")
    try:
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)
    return code


def _discard(stream: TextIO) -> None:
    """Sends buffered text to /dev/null, so that the last flush of the interpreter does not fail."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


class LogStream:
    """Standard error for log lines. Failed writes are ignored, so that a closed terminal does not end a service."""

    def write(self, text: str) -> int:
        """Writes text, and drops it on an error."""
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes standard error, and ignores an error."""
        with suppress(OSError):
            sys.stderr.flush()


def wants_color(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether a stream gets colours, by the conventions https://no-color.org, https://force-color.org, https://bixense.com/clicolors."""
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR") or environment.get("CLICOLOR_FORCE", "") not in ("", "0"):
        return True
    return stream.isatty() and environment.get("TERM") != "dumb" and environment.get("CLICOLOR") != "0"
