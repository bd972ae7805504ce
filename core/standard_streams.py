"""Standard input, output and error of a process, whatever it was started with."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TextIO

CLOSED_PIPE = 141
"""The exit code of a program that SIGPIPE ended."""


def open_missing() -> None:
    """Opens /dev/null as those of the descriptors 0 to 2 that are closed.

    A socket or a file would get these numbers otherwise, and libuv aborts the process then.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - a descriptor, until the end


def replace_unencodable() -> None:
    """Characters that a stream's encoding lacks are written as `?`."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a test may have put another object there
        if reconfigure:
            reconfigure(errors="replace")


def flushed(code: int) -> int:
    """Writes what is still buffered; the exit code is `code`, or 1 or 141 when standard output takes no more."""
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
    """What is buffered goes to /dev/null, so that the interpreter's last flush does not fail."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


class LogStream:
    """Standard error for log lines. A line that can't be written is lost: a closed terminal must not end a service."""

    def write(self, text: str) -> int:
        """Writes text, if that is possible."""
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Nothing stays buffered, if that is possible."""
        with suppress(OSError):
            sys.stderr.flush()


def wants_color(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether colours are wanted: https://no-color.org, https://force-color.org, https://bixense.com/clicolors."""
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR") or environment.get("CLICOLOR_FORCE", "") not in ("", "0"):
        return True
    return stream.isatty() and environment.get("TERM") != "dumb" and environment.get("CLICOLOR") != "0"
