"""API keys in the database: conversion, several a trader, rotation and revocation."""

import asyncio
import csv
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from archiver import api_keys, postgres, schema, traders
from core.errors import KeyNotFound, TooManyKeys, TraderNotFound
from exchange.tokens import hash_api_key
from testing.flows import CARDS
from testing.servers import Servers

pytestmark = pytest.mark.server

BEFORE_KEYS = "0005_api_keys"


def on(pair: Servers, work: Callable[[asyncpg.Connection], Awaitable[Any]]) -> Any:
    """What some work on the database of a pair gives."""

    async def connected() -> Any:
        database = await postgres.connect(pair.settings.database_url)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(connected())


async def seeded(database: asyncpg.Connection, count: int = 3) -> None:
    await traders.seed(database, count, None)


async def as_before(database: asyncpg.Connection) -> None:
    """The database of the version that had one key a trader, with two traders, one of them an admin."""
    await database.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await database.execute(
        "CREATE TABLE schema_migrations (name TEXT PRIMARY KEY, applied_at TIMESTAMPTZ DEFAULT now())"
    )
    for name, sql in schema.migrations():
        if name >= BEFORE_KEYS:
            break
        await database.execute(sql)
        await database.execute("INSERT INTO schema_migrations (name) VALUES ($1)", name)
    for trader_id, role in ((1, "trader"), (2, "admin")):
        await database.execute(
            "INSERT INTO traders (trader_id, api_key_sha256, role) VALUES ($1, $2, $3)",
            trader_id,
            hash_api_key(f"of-{trader_id}"),
            role,
        )


def test_the_key_of_an_earlier_version_becomes_the_first_of_several(pair: Servers) -> None:
    async def work(database: asyncpg.Connection) -> None:
        await as_before(database)
        before = await database.fetch("SELECT trader_id, api_key_sha256, role, created_at FROM traders ORDER BY 1")

        await schema.migrate(database, CARDS)

        for trader_id, hashed, role, created_at in before:
            found_role, keys = await api_keys.valid_hashes(database, trader_id) or ("", ())
            (listed,) = await api_keys.of_trader(database, trader_id)
            assert (found_role, [key[1] for key in keys]) == (role, [hashed])
            assert (listed.created_at, listed.prefix, listed.revoked_at) == (created_at, "", None)
        # A process of the earlier version reads no key at all, instead of a key that may be revoked.
        with pytest.raises(asyncpg.UndefinedColumnError):
            await database.fetch("SELECT api_key_sha256, role FROM traders WHERE trader_id = 1")

    on(pair, work)


def test_a_seeded_trader_has_the_key_of_the_file(pair: Servers, tmp_path: Path) -> None:
    async def work(database: asyncpg.Connection) -> None:
        await traders.seed(database, 2, tmp_path / "traders.csv")
        with (tmp_path / "traders.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                _, keys = await api_keys.valid_hashes(database, int(row["trader_id"])) or ("", ())
                (listed,) = await api_keys.of_trader(database, int(row["trader_id"]))
                assert keys == [(listed.key_id, hash_api_key(row["api_key"]))]
                assert row["api_key"].startswith(listed.prefix)
                assert len(listed.prefix) == api_keys.PREFIX_CHARACTERS

    on(pair, work)


def test_a_trader_has_several_keys_and_one_is_revoked(pair: Servers) -> None:
    async def work(database: asyncpg.Connection) -> None:
        await seeded(database)
        first, second = [await api_keys.create(database, 2, label) for label in ("bot", "desk")]

        revoked = await api_keys.revoke(database, first.key.key_id)
        again = await api_keys.revoke(database, first.key.key_id)

        _, keys = await api_keys.valid_hashes(database, 2) or ("", ())
        assert len(keys) == 2
        assert (second.key.key_id, hash_api_key(second.secret)) in keys
        assert hash_api_key(first.secret) not in [hashed for _, hashed in keys]
        assert isinstance(revoked.revoked_at, datetime)
        assert again.revoked_at == revoked.revoked_at
        labels = {key.key_id: key.label for key in await api_keys.of_trader(database, 2)}
        assert labels[first.key.key_id] == "bot"
        assert len(labels) == 3

    on(pair, work)


def test_no_secret_is_stored(pair: Servers) -> None:
    async def work(database: asyncpg.Connection) -> None:
        await seeded(database)
        made = await api_keys.create(database, 1, "")
        rows = await database.fetch("SELECT * FROM api_keys")
        assert made.secret not in repr(rows)
        assert made.secret[api_keys.PREFIX_CHARACTERS :] not in repr(rows)

    on(pair, work)


def test_a_rotation_keeps_the_old_key_for_its_grace(pair: Servers) -> None:
    async def work(database: asyncpg.Connection) -> None:
        await seeded(database)
        old = await api_keys.create(database, 3, "bot")

        new = await api_keys.rotate(database, old.key.key_id, grace_seconds=3_600)

        _, keys = await api_keys.valid_hashes(database, 3) or ("", ())
        assert {old.key.key_id, new.key.key_id} <= {key_id for key_id, _ in keys}
        assert new.key.label == "bot"
        assert (await api_keys.revoked(database, None))[0] == []

        # Revoked at once, the earlier time counts; and a revoked key is rotated no more.
        await api_keys.revoke(database, old.key.key_id)
        assert (await api_keys.revoked(database, None))[0] == [old.key.key_id]
        with pytest.raises(KeyNotFound):
            await api_keys.rotate(database, old.key.key_id, grace_seconds=0)

    on(pair, work)


def test_a_scheduled_revocation_is_reported_when_it_is_due_and_not_before(pair: Servers) -> None:
    async def work(database: asyncpg.Connection) -> None:
        await seeded(database)
        key = (await api_keys.create(database, 1, "")).key
        await api_keys.revoke(database, key.key_id, grace_seconds=1)
        found, since = await api_keys.revoked(database, None)
        assert found == []
        await database.execute("SELECT pg_sleep(1.1)")

        assert (await api_keys.revoked(database, since))[0] == [key.key_id]
        assert key.key_id not in [key_id for key_id, _ in (await api_keys.valid_hashes(database, 1) or ("", ()))[1]]

    on(pair, work)


def test_a_trader_has_only_so_many_valid_keys(pair: Servers) -> None:
    async def work(database: asyncpg.Connection) -> None:
        await seeded(database)
        for _ in range(api_keys.LIVE_KEYS_MAX - 1):
            made = await api_keys.create(database, 1, "")
        with pytest.raises(TooManyKeys):
            await api_keys.create(database, 1, "")
        await api_keys.revoke(database, made.key.key_id)
        await api_keys.create(database, 1, "")

    on(pair, work)


def test_unknown_traders_and_keys_are_named(pair: Servers) -> None:
    async def work(database: asyncpg.Connection) -> None:
        for call in (api_keys.create(database, 9, ""), api_keys.of_trader(database, 9)):
            with pytest.raises(TraderNotFound):
                await call
        with pytest.raises(KeyNotFound):
            await api_keys.revoke(database, "0" * 16)
        assert await api_keys.valid_hashes(database, 9) is None

    on(pair, work)


def test_a_trader_that_is_no_admin_any_more_loses_its_keys(pair: Servers) -> None:
    async def work(database: asyncpg.Connection) -> None:
        await seeded(database)
        assert await traders.set_role(database, 2, "admin") == []
        role, keys = await api_keys.valid_hashes(database, 2) or ("", ())
        assert (role, len(keys)) == ("admin", 1)

        assert await traders.set_role(database, 2, "trader") == [keys[0][0]]
        assert await api_keys.valid_hashes(database, 2) == ("trader", [])

    on(pair, work)
