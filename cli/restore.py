"""`tcgx restore`: a backup into empty servers."""

import argparse
import sys

from archiver import backup, backup_file
from archiver.backup_file import BackupReader
from cli.backup import described
from cli.database import open_database
from cli.progress import Progress
from cli.servers import reached
from core.settings import Settings
from engine import connection


async def run(arguments: argparse.Namespace, configured: Settings) -> int:
    """Checks a backup, and restores it unless that is all that was asked for.

    Raises:
        StartError: the backup is damaged or of another version, or the servers are not empty.
        Unavailable: a server does not answer.
    """
    with backup_file.opened(arguments.file) as file:
        size = sum(member.bytes for member in file.manifest.members)
        progress = Progress("check", size)
        try:
            file.check(progress.add)
        finally:
            progress.end()
        backup.check_version(file.manifest)
        print(f"backup of {file.manifest.taken_at}, made by tcgx {file.manifest.version}")
        print("\n".join(described(file.manifest)))
        if arguments.check:
            print(f"all {len(file.manifest.members):,} members are as they were written")
            return 0
        await _restore(arguments, configured, file)
    return 0


async def _restore(arguments: argparse.Namespace, configured: Settings, file: BackupReader) -> None:
    async with (
        reached(arguments, configured) as local,
        open_database(local) as database,
        connection.connect(local.redis_url) as redis,
    ):
        await connection.check(redis, durability=local.durability)
        await backup.check_target(redis, database, overwrites=arguments.overwrite)
        untraded = {one.card for one in file.manifest.cards} - set(local.cards)
        progress = Progress("restore", sum(member.content_bytes for member in file.manifest.members))
        try:
            restored = await backup.restore(
                redis, database, file, keeps_history=arguments.keep_history, on_bytes=progress.add
            )
        finally:
            progress.end()
    for one in restored:
        print(
            f"{one.card:<12} state hash {one.state_hash} at command {one.sequence}; next is {one.card}-{one.base + 1}"
        )
    if untraded:
        print(f"tcgx: TCGX_CARDS lacks {', '.join(sorted(untraded))}, which the backup has", file=sys.stderr)
