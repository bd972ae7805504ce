"""Log lines as JSON in a folder, a file for each service, for a log shipper and for /operate.

A file that has grown to `BYTES_MAX` becomes `<service>.1.jsonl`, in place of the one before. Processes of a service
share a file: a line is one write to the end of it.
"""

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import orjson

from core.errors import StartError

BYTES_MAX = 20_000_000
LINES_A_LOOK = 100
"""After so many lines a process looks whether the file is full, or another process has replaced it."""

SUFFIX = ".jsonl"


def encoded(line: MutableMapping[str, Any]) -> bytes:
    """A log line as JSON. Values that JSON does not know are written as texts."""
    return orjson.dumps(dict(line), default=str)


class LogFile:
    """A processor of structlog that also writes each line to a file. A disk that fails costs lines alone."""

    def __init__(self, folder: Path, service: str) -> None:
        """Raises:
        StartError: the file cannot be written.
        """
        self._path = folder / f"{service}{SUFFIX}"
        self._before = folder / f"{service}.1{SUFFIX}"
        self._lines = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
        except OSError as error:
            raise StartError(f"TCGX_LOG_DIR={folder} cannot be written to: {error.strerror}") from error

    def __call__(self, _: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Writes a line, and passes it on."""
        try:
            self._lines += 1
            if self._lines % LINES_A_LOOK == 0:
                self._look()
            os.write(self._file, encoded(line) + b"\n")
        except OSError:
            self._lines = LINES_A_LOOK - 1  # the next line opens the file again
        return line

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _look(self) -> None:
        """Begins another file if this one is full or was replaced."""
        mine = os.fstat(self._file)
        try:
            is_current = os.path.samestat(mine, self._path.stat())
        except FileNotFoundError:
            is_current = False
        if is_current and mine.st_size < BYTES_MAX:
            return
        if is_current:
            self._path.replace(self._before)
        os.close(self._file)
        self._file = self._open()
