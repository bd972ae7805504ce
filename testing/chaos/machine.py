"""What some faults need of the machine: libfaketime for clocks, small disks that root may mount, and a C compiler."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

REDIS_DISK_BYTES = 64_000_000
POSTGRES_DISK_BYTES = 256_000_000
BLOCK_BYTES = 65_536
LIBRARIES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")
COMPILERS = ("cc", "gcc", "clang")
CACHE_SECONDS = 1
"""How long libfaketime may take to see a step."""
PRELOAD = "LD_PRELOAD"
UNSYNCED_FILE = "TESTING_UNSYNCED_FILE"
UNSYNCED_SOURCE = f"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int synced(const char *name, int descriptor) {{
    const char *file = getenv("{UNSYNCED_FILE}");
    if (file && access(file, F_OK) == 0) {{
        errno = EIO;
        return -1;
    }}
    return ((int (*)(int))dlsym(RTLD_NEXT, name))(descriptor);
}}

int fsync(int descriptor) {{ return synced("fsync", descriptor); }}
int fdatasync(int descriptor) {{ return synced("fdatasync", descriptor); }}
"""
"""A library in which every sync fails with EIO while a file exists."""


def libfaketime() -> Path | None:
    """The library of the system."""
    for pattern in LIBRARIES:
        for path in Path("/").glob(pattern.removeprefix("/")):
            return path
    return None


def compiler() -> str | None:
    """The C compiler of the system."""
    return next((found for name in COMPILERS if (found := shutil.which(name))), None)


class Clock:
    """The clock of processes that were started with it. It is this machine's clock and the seconds of its last step."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.variables = {
            PRELOAD: str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": str(CACHE_SECONDS),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.step(0)

    def step(self, seconds: int) -> None:
        """Sets it so many seconds ahead of this machine's clock, or behind it."""
        self._file.write_text(f"{seconds:+d}\n")


class Unsynced:
    """A disk that can't be synced, for processes that were started with it."""

    def __init__(self, folder: Path, program: str) -> None:
        """`program`: a C compiler.

        Raises:
            subprocess.CalledProcessError: it does not make the library.
        """
        library, self._file = folder / "unsynced.so", folder / "unsynced"
        command: list[str | Path] = [program, "-shared", "-fPIC", "-O1", "-o", library, "-x", "c", "-", "-ldl"]
        subprocess.run(command, input=UNSYNCED_SOURCE.encode(), capture_output=True, check=True)
        self.variables = {PRELOAD: str(library), UNSYNCED_FILE: str(self._file)}

    def begin(self) -> None:
        """Every sync fails from now on."""
        self._file.touch()

    def end(self) -> None:
        """Syncs work again."""
        self._file.unlink()


@contextmanager
def inherited(sources: Sequence[Mapping[str, str]]) -> Iterator[None]:
    """Processes that are started now, and inherit the environment, have these variables. Libraries add up."""
    libraries = [source[PRELOAD] for source in sources if PRELOAD in source]
    variables = {name: value for source in sources for name, value in source.items()}
    if libraries:
        variables[PRELOAD] = ":".join(libraries)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class SmallDisk:
    """A file system in memory, mounted at a folder. What the folder has is copied to it."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._size = size
        self._ballast = folder / "ballast"

    def mount(self) -> None:
        """Mounts it.

        Raises:
            OSError: this user may not mount.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        about = self._folder.stat()
        options = f"size={self._size},mode=0700,uid={about.st_uid},gid={about.st_gid}"
        kept = self._folder.with_name(f"{self._folder.name}.kept")
        self._folder.rename(kept)
        self._folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", self._folder], capture_output=True, check=False
        )
        if done.returncode != 0:
            raise OSError(done.stderr.decode(errors="replace").strip())
        subprocess.run(["cp", "-a", f"{kept}/.", self._folder], check=True)
        shutil.rmtree(kept)

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
    disk = SmallDisk(folder / "disk", REDIS_DISK_BYTES)
    try:
        disk.mount()
    except OSError:
        return False
    disk.unmount()
    return True
