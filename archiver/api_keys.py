"""API keys in PostgreSQL: created, listed, rotated and revoked. Only their SHA-256 is stored.

All functions raise `Unavailable` if PostgreSQL does not answer.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg
import msgspec

from archiver.postgres import postgres_errors
from core.errors import KeyNotFound, TooManyKeys, TraderNotFound
from exchange.tokens import API_KEY_ID_DIGITS, hash_api_key

KEY_BYTES = 32
PREFIX_CHARACTERS = 6
LIVE_KEYS_MAX = 20
"""Keys of a trader that are not revoked, at most."""
LISTED_MAX = 1_000
TOKEN_DAYS_MAX = 366
"""No access token lives longer, so a key that was revoked earlier needs no entry in a process."""
OVERLAP_SECONDS = 60
"""A revocation is visible at its commit, which may be this long after its time."""

Database = asyncpg.Connection | asyncpg.Pool


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key without its secret. `prefix` is empty for keys of earlier versions.

    `revoked_at`: None while the key is valid for good; it may lie in the future.
    """

    key_id: str
    trader_id: int
    prefix: str
    label: str
    created_at: datetime
    revoked_at: datetime | None


class NewKey(NamedTuple):
    """A key that was created just now, and its secret, which is stored nowhere."""

    key: ApiKey
    secret: str


def new_row(trader_id: int) -> tuple[str, tuple[Any, ...]]:
    """A random secret, and the row of its key: key_id, trader_id, key_sha256, prefix."""
    secret = secrets.token_urlsafe(KEY_BYTES)
    return secret, (new_id(), trader_id, hash_api_key(secret), secret[:PREFIX_CHARACTERS])


def new_id() -> str:
    """A random id of a key. Ids are random, so none is given twice even after a restore."""
    return secrets.token_hex(API_KEY_ID_DIGITS // 2)


async def create(connection: asyncpg.Connection, trader_id: int, label: str) -> NewKey:
    """Creates a key for a trader, within the transaction of the caller.

    Raises:
        TraderNotFound: there is no such trader.
        TooManyKeys: the trader has as many keys as it may have.
    """
    with postgres_errors():
        # The lock makes two creations wait for each other, so both count right.
        found = await connection.fetchval("SELECT 1 FROM traders WHERE trader_id = $1 FOR UPDATE", trader_id)
        live = await connection.fetchval(
            "SELECT count(*) FROM api_keys WHERE trader_id = $1 AND (revoked_at IS NULL OR revoked_at > now())",
            trader_id,
        )
    if not found:
        raise TraderNotFound(trader_id)
    if live >= LIVE_KEYS_MAX:
        raise TooManyKeys(trader_id, LIVE_KEYS_MAX)
    secret, row = new_row(trader_id)
    with postgres_errors():
        made = await connection.fetchrow(
            "INSERT INTO api_keys (key_id, trader_id, key_sha256, prefix, label) VALUES ($1, $2, $3, $4, $5) "
            f"RETURNING {_COLUMNS}",
            *row,
            label,
        )
    assert made is not None  # noqa: S101 - INSERT … RETURNING has a row
    return NewKey(_key(made), secret)


async def of_trader(database: Database, trader_id: int) -> list[ApiKey]:
    """The newest keys of a trader, newest first, revoked ones too.

    Raises:
        TraderNotFound: there is no such trader.
    """
    with postgres_errors():
        rows = await database.fetch(
            f"SELECT {_COLUMNS} FROM api_keys WHERE trader_id = $1 ORDER BY created_at DESC, key_id LIMIT $2",
            trader_id,
            LISTED_MAX,
        )
        exists = rows or await database.fetchval("SELECT 1 FROM traders WHERE trader_id = $1", trader_id)
    if not exists:
        raise TraderNotFound(trader_id)
    return [_key(row) for row in rows]


async def revoke(connection: asyncpg.Connection, key_id: str, *, grace_seconds: int = 0) -> ApiKey:
    """Revokes a key after `grace_seconds`. A key that is revoked earlier already keeps its earlier time.

    Raises:
        KeyNotFound: there is no such key.
    """
    with postgres_errors():
        row = await connection.fetchrow(
            "UPDATE api_keys SET revoked_at = least(revoked_at, clock_timestamp() + make_interval(secs => $2)) "
            f"WHERE key_id = $1 RETURNING {_COLUMNS}",
            key_id,
            float(grace_seconds),
        )
    if row is None:
        raise KeyNotFound(key_id)
    return _key(row)


async def rotate(connection: asyncpg.Connection, key_id: str, *, grace_seconds: int) -> NewKey:
    """Creates a key for the trader of a key, with its label, and revokes the old one after `grace_seconds`.

    Raises:
        KeyNotFound: there is no such key, or it is revoked.
        TooManyKeys: the trader has as many keys as it may have.
    """
    with postgres_errors():
        old = await connection.fetchrow(
            "SELECT trader_id, label FROM api_keys WHERE key_id = $1 AND (revoked_at IS NULL OR revoked_at > now()) "
            "FOR UPDATE",
            key_id,
        )
    if old is None:
        raise KeyNotFound(key_id)
    made = await create(connection, old["trader_id"], old["label"])
    await revoke(connection, key_id, grace_seconds=grace_seconds)
    return made


async def valid_hashes(database: Database, trader_id: int) -> tuple[str, Sequence[tuple[str, bytes]]] | None:
    """The role of a trader, and id and SHA-256 of each of its valid keys. None if there is no such trader."""
    with postgres_errors():
        rows = await database.fetch(
            "SELECT t.role, k.key_id, k.key_sha256 FROM traders t LEFT JOIN api_keys k ON k.trader_id = t.trader_id "
            "AND (k.revoked_at IS NULL OR k.revoked_at > now()) WHERE t.trader_id = $1 LIMIT $2",
            trader_id,
            LISTED_MAX,
        )
    if not rows:
        return None
    return rows[0]["role"], [(row["key_id"], row["key_sha256"]) for row in rows if row["key_id"]]


async def revoked(database: Database, since: datetime | None) -> tuple[list[str], datetime]:
    """The keys that were revoked since a time, and the time of the database, for the next call.

    `since`: None for all keys whose tokens may still live.
    """
    with postgres_errors():
        rows = await database.fetch(
            "SELECT key_id, now() AS at FROM api_keys WHERE revoked_at <= now() AND revoked_at >= "
            "coalesce($1::timestamptz - make_interval(secs => $2), now() - make_interval(days => $3)) "
            "UNION ALL SELECT NULL, now()",
            since,
            float(OVERLAP_SECONDS),
            TOKEN_DAYS_MAX,
        )
    return [row["key_id"] for row in rows if row["key_id"]], rows[-1]["at"]


_COLUMNS = "key_id, trader_id, prefix, label, created_at, revoked_at"


def _key(row: asyncpg.Record) -> ApiKey:
    return ApiKey(**dict(row))
