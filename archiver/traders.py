"""Traders and their API keys in PostgreSQL."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import asyncpg

from archiver import api_keys
from archiver.postgres import postgres_errors
from core.errors import StartError, TraderNotFound


async def seed(connection: asyncpg.Connection, count: int, out: Path | None) -> int:
    """Creates those of the traders 1 to `count` that do not exist, with random API keys. Returns their number.

    `out`: a new file, of mode 0600, with a line `trader_id,api_key` for each. The keys are stored nowhere else.

    Raises:
        StartError: the file already exists or cannot be written; no trader was created.
        Unavailable: PostgreSQL does not answer.
    """
    async with connection.transaction():
        with postgres_errors():
            await connection.execute("LOCK TABLE traders IN SHARE ROW EXCLUSIVE MODE")
            existing = {row["trader_id"] for row in await connection.fetch("SELECT trader_id FROM traders")}
        made = [api_keys.new_row(trader_id) for trader_id in range(1, count + 1) if trader_id not in existing]
        created = [(row[1], secret) for secret, row in made]
        with postgres_errors():
            await connection.copy_records_to_table(
                "traders", records=[(trader_id,) for trader_id, _ in created], columns=("trader_id",)
            )
            await connection.copy_records_to_table(
                "api_keys",
                records=[row for _, row in made],
                columns=("key_id", "trader_id", "key_sha256", "prefix"),
            )
        if out is not None and created:
            _write(out, created)
    return len(created)


async def count(connection: asyncpg.Connection) -> int:
    """The number of traders."""
    with postgres_errors():
        return int(await connection.fetchval("SELECT count(*) FROM traders"))


async def set_role(connection: asyncpg.Connection, trader_id: int, role: str) -> list[str]:
    """Gives a trader a role, within the transaction of the caller. Returns the keys that were revoked.

    Tokens carry the role, so a trader that is no admin any more loses its keys, and with them its tokens.

    Raises:
        TraderNotFound: there is no such trader.
    """
    with postgres_errors():
        before = await connection.fetchval("SELECT role FROM traders WHERE trader_id = $1 FOR UPDATE", trader_id)
        if before is None:
            raise TraderNotFound(trader_id)
        await connection.execute("UPDATE traders SET role = $2 WHERE trader_id = $1", trader_id, role)
        if role in (before, "admin"):
            return []
        rows = await connection.fetch(
            "UPDATE api_keys SET revoked_at = now() WHERE trader_id = $1 "
            "AND (revoked_at IS NULL OR revoked_at > now()) RETURNING key_id",
            trader_id,
        )
    return [row["key_id"] for row in rows]


async def missing(connection: asyncpg.Connection, ids: Sequence[int]) -> list[int]:
    """The ids in `ids` that belong to no trader."""
    with postgres_errors():
        rows = await connection.fetch("SELECT trader_id FROM traders WHERE trader_id = ANY($1)", list(ids))
    existing = {row["trader_id"] for row in rows}
    return [trader_id for trader_id in ids if trader_id not in existing]


def _write(out: Path, created: Sequence[tuple[int, str]]) -> None:
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise StartError(f"{out} can't be written ({error.strerror}); no trader was created") from error
    try:
        with os.fdopen(descriptor, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("trader_id", "api_key"))
            writer.writerows(created)
    except OSError as error:
        out.unlink()
        raise StartError(f"{out} can't be written ({error.strerror}); no trader was created") from error
