"""The file of a backup: a tar archive with a manifest, and a SHA-256 of each member.

The manifest is the last member but one, and the last one has its SHA-256. A file gets its name only when all of it is
on disk.
"""

import contextlib
import gzip
import hashlib
import io
import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from core.errors import StartError

FORMAT = 1
"""The format of the file that this version writes and reads."""

MANIFEST = "manifest.json"
MANIFEST_DIGEST = "manifest.json.sha256"
MANIFEST_BYTES_MAX = 64 * 1024 * 1024
PART_BYTES = 16 * 1024 * 1024
"""The size at which the data of a table or a card continue in another member."""

COMPRESSION_LEVEL = 1
SUFFIX = ".gz"


class Member(msgspec.Struct, frozen=True):
    """A member of the file: its size, the SHA-256 of its bytes as they are stored, and the size of its content."""

    name: str
    bytes: int
    sha256: str
    content_bytes: int


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of a table in the text format of COPY, in order of the members. `card`: empty for rows of all cards."""

    name: str
    card: str
    columns: list[str]
    rows: int
    members: list[str]


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A card: its history, the last appended, matched and archived sequence, and the members with its keys.

    `parts`: the number of `KeyCopy` in the members.
    """

    card: str
    history_id: str
    base: int
    sequence: int
    matched: int
    archived: int
    parts: int
    members: list[str]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a backup. `data_format`: the format of keys and log entries (engine/history.py)."""

    format: int
    version: str
    taken_at: str
    data_format: int
    migrations: list[str]
    redis_version: str
    postgres_version: str
    cards: list[Card]
    tables: list[Table]
    members: list[Member]


class BackupWriter:
    """Writes members. `compresses`: with gzip. A member that can't be written raises `StartError`."""

    def __init__(self, path: Path, file: IO[bytes], *, compresses: bool) -> None:
        self._path = path
        self._tar = tarfile.TarFile(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)
        self._compresses = compresses
        self.members: list[Member] = []

    def add(self, name: str, content: bytes) -> str:
        """Adds a member and returns its name."""
        stored = gzip.compress(content, COMPRESSION_LEVEL, mtime=0) if self._compresses else content
        full_name = name + SUFFIX if self._compresses else name
        self._add(full_name, stored)
        self.members.append(Member(full_name, len(stored), hashlib.sha256(stored).hexdigest(), len(content)))
        return full_name

    def finish(self, manifest: Manifest) -> None:
        """Adds the manifest, and ends the archive."""
        text = msgspec.json.format(msgspec.json.encode(manifest))
        self._add(MANIFEST, text)
        self._add(MANIFEST_DIGEST, f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n".encode())
        self._tar.close()

    def _add(self, name: str, content: bytes) -> None:
        about = tarfile.TarInfo(name)
        about.size, about.mode = len(content), 0o600
        try:
            self._tar.addfile(about, io.BytesIO(content))
        except OSError as error:
            raise StartError(f"{self._path} can't be written: {error.strerror}") from error


@contextmanager
def created(path: Path, *, compresses: bool) -> Iterator[BackupWriter]:
    """A writer whose file gets its name at the end. After an error nothing is left.

    Raises:
        StartError: the file exists.
    """
    if path.exists():
        raise StartError(f"{path} exists: a backup is never written over another file")
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield BackupWriter(path, file, compresses=compresses)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # fails if somebody has made the file meanwhile
        _sync_folder(path.parent)
    except OSError as error:
        raise StartError(f"{path} can't be written: {error.strerror}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class BackupReader:
    """Reads a file that `opened` has opened."""

    def __init__(self, path: Path, tar: tarfile.TarFile) -> None:
        self._path = path
        self._tar = tar
        self._places = {about.name: about for about in _readable(tar)}
        self.manifest = self._manifest()
        self._digests = {member.name: member for member in self.manifest.members}

    def check(self, on_bytes: Callable[[int], None]) -> None:
        """Checks the SHA-256 of every member.

        Raises:
            StartError: a member is damaged or missing; the message names it.
        """
        for member in self.manifest.members:
            self._stored(member.name)
            on_bytes(member.bytes)

    def read(self, name: str) -> bytes:
        """The content of a member.

        Raises:
            StartError: the member is damaged or missing.
        """
        stored = self._stored(name)
        if not name.endswith(SUFFIX):
            return stored
        try:
            return gzip.decompress(stored)
        except (OSError, EOFError, zlib.error) as error:
            raise self._damaged(name, str(error)) from error

    def _stored(self, name: str) -> bytes:
        member = self._digests.get(name)
        if member is None:
            raise self._damaged(name, "the manifest does not name it")
        stored = self._bytes(name, member.bytes)
        if hashlib.sha256(stored).hexdigest() != member.sha256:
            raise self._damaged(name, "its SHA-256 is another than the manifest has")
        return stored

    def _bytes(self, name: str, size_max: int) -> bytes:
        about = self._places.get(name)
        if about is None:
            last = next(reversed(self._places), "its beginning")
            raise StartError(f"{self._path} is cut off or damaged after {last}: it has no {name}")
        file = self._tar.extractfile(about) if about.size <= size_max else None
        content = file.read() if file else b""
        if len(content) != about.size:
            raise self._damaged(name, "its size is wrong")
        return content

    def _manifest(self) -> Manifest:
        digest = self._bytes(MANIFEST_DIGEST, MANIFEST_BYTES_MAX).decode(errors="replace")
        text = self._bytes(MANIFEST, MANIFEST_BYTES_MAX)
        if hashlib.sha256(text).hexdigest() != digest.partition(" ")[0]:
            raise self._damaged(MANIFEST, f"its SHA-256 is another than {MANIFEST_DIGEST} has")
        try:
            format_ = msgspec.json.decode(text, type=_Format).format
            if format_ != FORMAT:
                raise StartError(f"{self._path} has format {format_}, and this version of tcgx reads format {FORMAT}")
            return msgspec.json.decode(text, type=Manifest)
        except msgspec.DecodeError as error:
            raise self._damaged(MANIFEST, str(error)) from error

    def _damaged(self, name: str, reason: str) -> StartError:
        return StartError(f"{self._path} is damaged in {name}: {reason}")


def _readable(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members up to the place where the archive ends or is damaged."""
    with contextlib.suppress(tarfile.TarError):
        while about := tar.next():
            yield about


class _Format(msgspec.Struct):
    format: int


@contextmanager
def opened(path: Path) -> Iterator[BackupReader]:
    """A reader of a file.

    Raises:
        StartError: the file is missing, is no backup, has another format, or is damaged.
    """
    try:
        with tarfile.open(path, mode="r:") as tar:
            yield BackupReader(path, tar)
    except tarfile.TarError as error:
        raise StartError(f"{path} is no backup, or its beginning is damaged: {error}") from error
    except FileNotFoundError:
        raise StartError(f"there is no file {path}") from None


class Parts:
    """Collects bytes and adds them to a file as members of about `PART_BYTES`."""

    def __init__(self, writer: BackupWriter, name: str) -> None:
        self._writer = writer
        self._name = name
        self._pending: list[bytes] = []
        self._size = 0
        self.members: list[str] = []

    def add(self, content: bytes) -> None:
        """Adds bytes behind those of before."""
        self._pending.append(content)
        self._size += len(content)
        if self._size >= PART_BYTES:
            self.flush()

    def flush(self) -> None:
        """Makes a member of what has been added since the last one."""
        if self._pending:
            name = f"{self._name}.{len(self.members) + 1:05}"
            self.members.append(self._writer.add(name, b"".join(self._pending)))
            self._pending, self._size = [], 0


def rows_of(tables: Sequence[Table]) -> int:
    """The number of rows of these tables."""
    return sum(table.rows for table in tables)
