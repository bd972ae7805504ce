"""The latest lines of the files of TCGX_LOG_DIR that match a search, for /operate."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from core.log_files import SUFFIX

BYTES_READ_MAX = 4_000_000
"""Of the end of each file. Older lines are in the log store, if there is one."""
LINES_MAX = 500
LEVELS = ("debug", "info", "warning", "error")


def latest(folder: Path, *, text: str = "", level: str = "debug", limit: int = 200) -> list[dict[str, Any]]:
    """The latest lines of all services, newest first. `text`: what a line must have; `level`: the least of it."""
    wanted = text.encode()
    levels = set(LEVELS[LEVELS.index(level) :])
    found = [
        line
        for path in sorted(folder.glob(f"*{SUFFIX}"))
        for raw in _end_of(path)
        if wanted in raw and (line := _line(raw)) is not None and line.get("level") in levels
    ]
    found.sort(key=lambda line: str(line.get("timestamp", "")), reverse=True)
    return found[: min(limit, LINES_MAX)]


def _end_of(path: Path) -> Iterator[bytes]:
    """The whole lines at the end of a file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - BYTES_READ_MAX)
            file.seek(start)
            if start:
                file.readline()
            yield from file
    except FileNotFoundError:
        return  # replaced by a full one just now


def _line(raw: bytes) -> dict[str, Any] | None:
    """A line; None for one that is no JSON object, such as the half of one."""
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return line if isinstance(line, dict) else None
