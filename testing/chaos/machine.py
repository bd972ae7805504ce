"""What some faults need of the machine: libfaketime for the clock of Redis, and a small disk that root may mount."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_BYTES = 64_000_000
BLOCK_BYTES = 65_536
LIBRARIES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")
CACHE_SECONDS = 1
"""How long libfaketime may take to see a step."""


def libfaketime() -> Path | None:
    """The library of the system."""
    for pattern in LIBRARIES:
        for path in Path("/").glob(pattern.removeprefix("/")):
            return path
    return None


class Clock:
    """The clock of processes that were started with it. It is this machine's clock and the seconds of its last step."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self._variables = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": str(CACHE_SECONDS),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.step(0)

    def step(self, seconds: int) -> None:
        """Sets it so many seconds ahead of this machine's clock, or behind it."""
        self._file.write_text(f"{seconds:+d}\n")

    @contextmanager
    def inherited(self) -> Iterator[None]:
        """Processes that are started now and inherit the environment have this clock."""
        before = {name: os.environ.get(name) for name in self._variables}
        os.environ.update(self._variables)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


class SmallDisk:
    """A file system in memory, mounted at a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ballast = folder / "ballast"

    def mount(self) -> None:
        """Mounts it.

        Raises:
            OSError: this user may not mount.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        options = f"size={DISK_BYTES},mode=0700"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", self._folder], capture_output=True, check=False
        )
        if done.returncode != 0:
            raise OSError(done.stderr.decode(errors="replace").strip())

    def unmount(self) -> None:
        """Ends it, with all that is on it."""
        subprocess.run(["umount", self._folder], check=True)

    def fill(self) -> None:
        """Leaves no byte free."""
        with self._ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(BLOCK_BYTES))
            except OSError:
                return

    def free(self) -> None:
        """Gives back what `fill` took."""
        self._ballast.unlink()


def may_mount(folder: Path) -> bool:
    """Whether a small disk can be mounted by this user."""
    if os.geteuid() != 0:
        return False
    disk = SmallDisk(folder)
    try:
        disk.mount()
    except OSError:
        return False
    disk.unmount()
    return True
