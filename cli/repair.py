"""`tcgx repair`: cuts bytes from the end of a Redis log that no server reads."""

import argparse
import fcntl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli import aof, configuration, datadir
from cli.aof import Damage
from cli.progress import Progress
from core.errors import StartError
from core.settings import Settings

NAMES_MAX = 5


async def run(arguments: argparse.Namespace, configured: Settings) -> int:
    """Shows the damage of a data directory, and cuts it with --yes; the exit code is 1 if damage stays.

    Raises:
        StartError: the exchange runs, the files are missing, or the damage is not at the end of the log.
    """
    return _repair(Path(configured.data_dir), configured, is_agreed=arguments.yes)


def _repair(data_dir: Path, configured: Settings, *, is_agreed: bool) -> int:
    if not data_dir.is_dir():
        raise StartError(configuration.not_running_text(configured))
    with datadir.lock(data_dir), _redis_stopped(data_dir):
        damage = _damage(aof.files(data_dir))
        if damage is None:
            print("the log of Redis ends with a whole command: there is nothing to repair")
            return 0
        print("\n".join(described(damage)))
        if not is_agreed:
            print("nothing was changed; `tcgx repair --yes` cuts these bytes, and keeps them in a file beside")
            return 1
        beside = aof.cut(damage)
        print(f"cut {damage.path} to {damage.end:,} bytes; what was cut is in {beside}")
        print("`tcgx up` compares log and archive: if acknowledged orders were cut, it refuses orders and says so")
    return 0


def _damage(files: list[Path]) -> Damage | None:
    """The damage of the last file. Earlier ones must be whole."""
    progress = Progress("check", sum(path.stat().st_size for path in files))
    try:
        found = [aof.damage_of(path, progress.add) for path in files]
    finally:
        progress.end()
    for damage in found[:-1]:
        if damage is not None:
            raise StartError(
                f"{damage.path} is damaged at byte {damage.end:,}, and {files[-1].name} follows it: nothing can be "
                "cut; restore a backup"
            )
    return found[-1] if found else None


def described(damage: Damage) -> list[str]:
    """What is wrong with a file, and what a cut would lose."""
    kind = "zeros" if damage.is_zeros else "bytes that are no command"
    kind = "a transaction" if damage.open_commands else kind
    lines = [
        f"{damage.path}: {damage.commands:,} commands end at byte {damage.end:,}",
        f"  {damage.bytes:,} bytes would be cut; they begin with {kind}",
    ]
    if damage.open_commands:
        lines.append(f"  {damage.open_commands:,} commands of a transaction without its end are among them")
    if damage.behind:
        named = Counter(damage.behind).most_common(NAMES_MAX)
        lines.append(
            f"  {len(damage.behind):,} whole commands behind the damage would be lost: "
            + ", ".join(f"{count:,} {name}" for name, count in named)
        )
    else:
        lines.append("  no whole command is behind them")
    return lines


@contextmanager
def _redis_stopped(data_dir: Path) -> Iterator[None]:
    """Holds the lock of the server, which a server of a killed `tcgx up` may still have."""
    path = data_dir / "redis.lock"
    with path.open("ab") as file:
        if not datadir.try_lock(file.fileno()):
            raise StartError(f"a Redis still runs in {data_dir} (`fuser {path}` names it): stop it first")
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
