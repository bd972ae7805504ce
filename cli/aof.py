"""The append-only file of an embedded Redis: where its last whole command ends.

The file has commands as clients send them: `*3`, then `$<length>` and the value of each argument. Lines that begin with
`#` are annotations. The effects of a function are one transaction, from MULTI to EXEC. A server starts on a file that
ends within a command or a transaction, but not on one that ends with other bytes.
"""

import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from core.errors import StartError

MANIFEST = Path("redis") / "appendonlydir" / "appendonly.aof.manifest"
DIGITS_MAX = 20
LINE_MAX = 1_024
REPORT_COMMANDS = 10_000
END = b"\r\n"

OnBytes = Callable[[int], None]


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a file that no server reads. `end`: where the last whole command or transaction ends.

    `commands`: the number of commands before. `open_commands`: whole commands of a transaction without its end.
    `behind`: the names of whole commands behind the damage. `is_zeros`: only zeros follow.
    """

    path: Path
    size: int
    end: int
    commands: int
    open_commands: int
    behind: tuple[str, ...]
    is_zeros: bool

    @property
    def bytes(self) -> int:
        """The number of bytes to cut."""
        return self.size - self.end


def files(data_dir: Path) -> list[Path]:
    """The incremental files of a data directory, oldest first.

    Raises:
        StartError: there is no manifest, or a file that it names is missing.
    """
    manifest = data_dir / MANIFEST
    try:
        lines = manifest.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        raise StartError(f"there is no {manifest}: no Redis of `tcgx up` has written there") from None
    except OSError as error:
        raise StartError(f"{manifest} can't be read: {error.strerror}") from error
    words = [line.split() for line in lines]
    found = [manifest.parent / line[1] for line in words if len(line) >= 6 and line[0] == "file" and line[5] == "i"]
    for path in found:
        if not path.is_file():
            raise StartError(f"{manifest} names {path.name}, which is missing: restore a backup, or that file")
    return found


def damage_of(path: Path, on_bytes: OnBytes) -> Damage | None:
    """The damage at the end of a file. None if the file ends with a whole command or transaction."""
    size = path.stat().st_size
    if not size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _damage(path, data, on_bytes)


def _damage(path: Path, data: mmap.mmap, on_bytes: OnBytes) -> Damage | None:
    end = safe_end = commands = safe_commands = reported = 0
    in_transaction = False
    for end, name in _commands(data, 0):
        commands += 1
        in_transaction = (in_transaction or name == "MULTI") and name != "EXEC"
        if not in_transaction:
            safe_end, safe_commands = end, commands
        if commands % REPORT_COMMANDS == 0:
            on_bytes(end - reported)
            reported = end
    if safe_end == len(data):
        return None
    return Damage(
        path=path,
        size=len(data),
        end=safe_end,
        commands=safe_commands,
        open_commands=commands - safe_commands,
        behind=tuple(_behind(data, end)),
        is_zeros=not data[end:].strip(b"\0"),
    )


def _commands(data: mmap.mmap, start: int) -> Iterator[tuple[int, str]]:
    """Where each whole command from a position ends, and its name. Stops at the first bytes that are none."""
    while start < len(data):
        if data[start : start + 1] == b"#":
            line_end = data.find(END, start, start + LINE_MAX)
            if line_end < 0:
                return
            start = line_end + len(END)
            continue
        found = _command(data, start)
        if found is None:
            return
        yield found
        start = found[0]


def _command(data: mmap.mmap, start: int) -> tuple[int, str] | None:
    count = _number(data, start, b"*")
    if count is None or count[1] < 1:
        return None
    position, arguments = count
    name = ""
    for place in range(arguments):
        length = _number(data, position, b"$")
        if length is None:
            return None
        begin, size = length
        position = begin + size + len(END)
        if position > len(data) or data[begin + size : position] != END:
            return None
        if place == 0:
            name = data[begin : begin + min(size, DIGITS_MAX)].decode(errors="replace").upper()
    return position, name


def _number(data: mmap.mmap, start: int, mark: bytes) -> tuple[int, int] | None:
    """The position behind a line such as `*3`, and its number."""
    if data[start : start + 1] != mark:
        return None
    line_end = data.find(END, start, start + DIGITS_MAX + len(END))
    digits = data[start + 1 : line_end] if line_end > 0 else b""
    return (line_end + len(END), int(digits)) if digits.isdigit() else None


def _behind(data: mmap.mmap, start: int) -> Iterator[str]:
    """The names of whole commands behind the damage."""
    position = data.find(b"*", start)
    while position >= 0:
        end = position + 1
        for command_end, name in _commands(data, position):
            end = command_end
            yield name
        position = data.find(b"*", end)


def cut(damage: Damage) -> Path:
    """Cuts a file behind its last whole command. Returns the file beside it that gets the bytes.

    Raises:
        StartError: a file can't be written, or that file exists.
    """
    beside = damage.path.with_name(f"{damage.path.name}.cut-at-{damage.end}")
    try:
        with damage.path.open("r+b") as file:
            file.seek(damage.end)
            with beside.open("xb") as kept:
                while piece := file.read(1024 * 1024):
                    kept.write(piece)
                kept.flush()
                os.fsync(kept.fileno())
            file.truncate(damage.end)
            os.fsync(file.fileno())
    except OSError as error:
        raise StartError(f"{error.filename or damage.path} can't be written: {error.strerror}") from error
    return beside
