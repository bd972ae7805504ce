"""`tcgx backup`: log, books and archive in one file, while orders flow."""

import argparse
from pathlib import Path

from archiver import backup, backup_file
from archiver.backup_file import Manifest
from cli import configuration, paths
from cli.database import open_database
from cli.progress import Progress
from cli.servers import reached
from core.errors import StartError
from core.settings import Settings, variable
from engine import connection


async def run(arguments: argparse.Namespace, configured: Settings) -> int:
    """Writes a backup of the running exchange, or of the data directory of one that is stopped.

    Raises:
        StartError: the file can't be written, or there is nothing to back up.
        Unavailable: a server does not answer.
    """
    path: Path = arguments.file
    paths.check_file(path)
    _check_data_dir(arguments, configured)
    with backup_file.created(path, compresses=not arguments.no_compress) as file:
        async with (
            reached(arguments, configured) as local,
            open_database(local) as database,
            connection.connect(local.redis_url) as redis,
        ):
            cards = await backup.traded_cards(database, local.cards)
            progress = Progress("backup", await backup.estimate_bytes(redis, database, cards))
            try:
                manifest = await backup.take(redis, database, cards, file, progress.add)
            finally:
                progress.end()
    print("\n".join(described(manifest)))
    size = sum(member.bytes for member in manifest.members)
    print(f"wrote {path}: {size:,} bytes, {backup_file.rows_of(manifest.tables):,} rows")
    return 0


def _check_data_dir(arguments: argparse.Namespace, configured: Settings) -> None:
    addresses = {variable("redis_url"), variable("database_url")}
    if not addresses <= set(arguments.sources) and not Path(configured.data_dir).is_dir():
        raise StartError(configuration.not_running_text(configured))


def described(manifest: Manifest) -> list[str]:
    """A line for each card of a backup."""
    return [
        f"{one.card:<12} commands to {one.sequence:,} (matched {one.matched:,}, archived {one.archived:,})"
        for one in manifest.cards
    ]
