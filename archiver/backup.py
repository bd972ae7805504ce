"""Backup and restore: log, books and archive of each card at one moment, while orders flow.

Backup. Cards are independent, so each card is copied at a moment of its own. A snapshot of PostgreSQL is taken first,
then all keys of the card in one MULTI. So Redis has at least what the archive has, and the events between both are in
the copy of Redis. `archiver.history.judge` proves that: the first event after the archive cursor must follow it without
a gap. If the archiver has trimmed that event in between, both are taken again.

Restore. Orders that were placed after the backup are unknown, and their ids must not be given twice. So a restored card
gets a new history like a card after a loss (archiver/recovery.py), after all of its events have been archived. The
archive is committed before a card gets its history in Redis; until then its keys are marked. A restore that was killed
leaves a fault, never an exchange that works with half of the data.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import asyncpg
import msgspec
from redis.asyncio import Redis

from archiver import backup_file, queries, recovery, schema, writer
from archiver.backup_file import BackupReader, BackupWriter, Manifest, Parts, Table
from archiver.history import Fault, judge, start_cursor
from archiver.postgres import RECOVER_SECONDS, postgres_errors
from archiver.queries import ArchiveState
from core.errors import StartError
from engine import card_copy, history, keys, library
from engine.book_reader import BookReader
from engine.card_copy import CardCopy, KeyCopy
from engine.cluster import servers_of
from engine.connection import redis_errors

TRIES_MAX = 5
CARD_TABLES = ("orders", "trades")
SHARED_TABLES = ("archive_cursor", "histories", "candles")
"""Tables of which each card has rows of its own."""

TRADERS = "traders"
API_KEYS, AUDIT = "api_keys", "admin_audit"
TABLES = (*CARD_TABLES, *SHARED_TABLES, API_KEYS, TRADERS)

OnBytes = Callable[[int], None]


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """A restored card: the last sequence of the copy, its state hash, and the sequence before the next order."""

    card: str
    sequence: int
    state_hash: str
    base: int


# -- backup


async def estimate_bytes(redis: Redis, database: asyncpg.Connection, cards: Sequence[str]) -> int:
    """About how many bytes a backup reads: the size of the tables, and the memory of Redis."""
    with postgres_errors():
        sizes = await database.fetch(
            "SELECT pg_relation_size(to_regclass(name)) AS bytes FROM unnest($1::text[]) AS name",
            [*(f"{table}_{card}" for card in cards for table in CARD_TABLES), TRADERS],
        )
    with redis_errors():
        memories: list[Any] = [await server.info("memory") for server in await servers_of(redis)]
    used = sum(int(memory.get("used_memory_dataset", 0)) for memory in memories)
    return sum(row["bytes"] or 0 for row in sizes) + used


async def traded_cards(database: asyncpg.Connection, cards: Sequence[str]) -> list[str]:
    """The cards of the settings, and cards that are not traded any more."""
    return [*cards, *await queries.untraded_cards(database, cards)]


async def take(
    redis: Redis, database: asyncpg.Connection, cards: Sequence[str], file: BackupWriter, on_bytes: OnBytes
) -> Manifest:
    """Writes a backup of these cards and all traders. Only the library is loaded, if Redis does not have it.

    Raises:
        StartError: log and archive of a card have parted, or Redis trims events too early.
        Unavailable: a server does not answer.
    """
    await schema.check(database, cards)
    await library.load(redis)
    copied: list[backup_file.Card] = []
    tables: list[Table] = []
    for card in cards:
        async with _point(redis, database, card) as (copy, archive_state):
            members = _write_keys(file, copy, card, on_bytes)
            for table in (*CARD_TABLES, *SHARED_TABLES):
                tables.append(await _write_table(database, table, card, file, on_bytes))
        copied.append(_described(card, copy, archive_state, members))
    # Traders come last: every trader of an order above exists by now.
    tables.extend([await _write_table(database, table, "", file, on_bytes) for table in (TRADERS, API_KEYS, AUDIT)])
    manifest = await _manifest(redis, database, copied, tables, file)
    file.finish(manifest)
    return manifest


@asynccontextmanager
async def _point(redis: Redis, database: asyncpg.Connection, card: str) -> AsyncIterator[tuple[CardCopy, ArchiveState]]:
    """A snapshot of PostgreSQL as long as the context lasts, and a copy of the card that continues it.

    Raises:
        StartError: there is none.
    """
    for _ in range(TRIES_MAX):
        async with database.transaction(isolation="repeatable_read", readonly=True):
            archive_state = (await queries.archive_states(database, [card]))[card]
            copy = await card_copy.copy(redis, card, _event_id(archive_state))
            verdict = judge(card, copy.log_state, archive_state)
            if verdict.fault is None:
                yield copy, archive_state
                return
        if verdict.fault is not Fault.ARCHIVE_OLDER:
            raise StartError(f"there is no backup of two histories: {verdict.sentence}")
    raise StartError(
        f"{verdict.sentence}; if orders flow fast, events are trimmed before they are copied: raise "
        "TCGX_EVENT_RETENTION and start the archiver again"
    )


def _event_id(archive_state: ArchiveState) -> str:
    if archive_state.cursor is not None:
        return archive_state.cursor.event_id
    return f"{archive_state.base}-0"


def _described(card: str, copy: CardCopy, archive_state: ArchiveState, members: list[str]) -> backup_file.Card:
    log_state = copy.log_state
    return backup_file.Card(
        card=card,
        history_id=log_state.history_id,
        base=log_state.base,
        sequence=log_state.sequence,
        matched=log_state.matched,
        archived=start_cursor(log_state, archive_state).sequence,
        parts=len(copy.keys),
        members=members,
    )


def _write_keys(file: BackupWriter, copy: CardCopy, card: str, on_bytes: OnBytes) -> list[str]:
    members: list[str] = []
    page: list[KeyCopy] = []
    size = 0
    for one in copy.keys:
        page.append(one)
        size += one.bytes
        if size >= backup_file.PART_BYTES or one is copy.keys[-1]:
            members.append(file.add(f"redis/{card}.{len(members) + 1:05}", msgspec.msgpack.encode(page)))
            on_bytes(size)
            page, size = [], 0
    return members


async def _write_table(
    database: asyncpg.Connection, table: str, card: str, file: BackupWriter, on_bytes: OnBytes
) -> Table:
    source = f"{table}_{card}" if table in CARD_TABLES else table
    columns = await _columns(database, source)
    parts = Parts(file, f"postgresql/{table}.{card}" if card else f"postgresql/{table}")

    async def take_rows(content: bytes) -> None:
        parts.add(content)
        on_bytes(len(content))

    listed = ", ".join(columns)
    of_card = f" WHERE card = '{card}'" if table in SHARED_TABLES else ""
    with postgres_errors():
        status = await database.copy_from_query(
            f"SELECT {listed} FROM {source}{of_card}", output=take_rows, timeout=RECOVER_SECONDS
        )
    parts.flush()
    return Table(name=source, card=card, columns=columns, rows=int(status.rpartition(" ")[2]), members=parts.members)


async def _columns(database: asyncpg.Connection, table: str) -> list[str]:
    with postgres_errors():
        rows = await database.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped "
            "ORDER BY attnum",
            table,
        )
    return [row["attname"] for row in rows]


async def _manifest(
    redis: Redis, database: asyncpg.Connection, cards: list[backup_file.Card], tables: list[Table], file: BackupWriter
) -> Manifest:
    with redis_errors():
        servers = [await server.info("server") for server in await servers_of(redis)]
    return Manifest(
        format=backup_file.FORMAT,
        version=version("tcgx"),
        taken_at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        data_format=history.FORMAT,
        migrations=[name for name, _ in schema.migrations()],
        redis_version=str(servers[0].get("valkey_version") or servers[0].get("redis_version")),
        postgres_version=".".join(map(str, database.get_server_version()[:2])),
        cards=cards,
        tables=tables,
        members=file.members,
    )


# -- restore


def check_version(manifest: Manifest) -> None:
    """Checks that this version can restore a backup.

    Raises:
        StartError: the backup has keys or tables of another version.
    """
    if manifest.data_format != history.FORMAT:
        raise StartError(
            f"the backup has data of format {manifest.data_format}, and this version of tcgx works with format "
            f"{history.FORMAT}: restore it with tcgx {manifest.version}"
        )
    if manifest.migrations != [name for name, _ in schema.migrations()]:
        raise StartError(
            f"the backup has other tables than this version of tcgx: restore it with tcgx {manifest.version}, then "
            "run `tcgx migrate` of this one"
        )


async def check_target(redis: Redis, database: asyncpg.Connection, *, overwrites: bool) -> None:
    """Checks that nothing works on the servers, and that they are empty. Keeps the lock of the archiver.

    Raises:
        StartError: a service works on the servers, or they have data and `overwrites` is false.
        Unavailable: a server does not answer.
    """
    if await BookReader(redis).has_engine():
        raise StartError("an engine is connected to Redis: stop all services of the exchange first")
    if not await writer.lock_archiver(database):
        raise StartError("an archiver works on the database: stop all services of the exchange first")
    if overwrites:
        return
    with redis_errors():
        count = sum([await server.dbsize() for server in await servers_of(redis)])
    if count:
        raise StartError(f"Redis is not empty, it has {count:,} keys: {_WAY_OUT}")
    filled = await _filled_tables(database)
    if filled:
        raise StartError(f"PostgreSQL is not empty, there are rows in {', '.join(filled)}: {_WAY_OUT}")


_WAY_OUT = "name empty servers, or repeat with --overwrite, which deletes the exchange that is there"


async def _filled_tables(database: asyncpg.Connection) -> list[str]:
    with postgres_errors():
        existing = [name for name in TABLES if await database.fetchval("SELECT to_regclass($1) IS NOT NULL", name)]
        return [name for name in existing if await database.fetchval(f"SELECT EXISTS (SELECT FROM {name})")]


async def restore(
    redis: Redis, database: asyncpg.Connection, file: BackupReader, *, keeps_history: bool, on_bytes: OnBytes
) -> list[Restored]:
    """Restores a backup, after `check_version` and `check_target`. Data of the cards that exist are deleted.

    `keeps_history`: no order was accepted after the backup, so the cards continue at the next sequence.

    Raises:
        StartError: a member is damaged, or a server does not take the data.
        Unavailable: a server does not answer.
    """
    manifest = file.manifest
    cards = [one.card for one in manifest.cards]
    await schema.migrate(database, cards)
    await library.load(redis)
    with postgres_errors():
        # The tables are emptied and filled in one transaction: nobody sees half of them.
        async with database.transaction():
            known_cards = await traded_cards(database, cards)
            # Emptied tables are locked: an API process that still runs waits, and begins no history meanwhile.
            await database.execute(f"TRUNCATE {', '.join(TABLES)}")
            await _delete_keys(redis, known_cards)
            for card in cards:
                await history.mark_restoring(redis, card)
            await _fill_tables(database, file, on_bytes)
            histories = [await _restore_keys(redis, file, one, on_bytes) for one in manifest.cards]
            hashes = {card: await BookReader(redis).state_hash(card) for card in cards}
            begins = {} if keeps_history else {one.card: await _succeed(redis, database, one) for one in manifest.cards}
    for card, begin in begins.items():
        trades = await queries.trade_count(database, card)
        begun = await history.begin(
            redis, card, ended=history.RESTORING_ID, history_id=begin.history_id, base=begin.base, trades=trades
        )
        if begun != begin.history_id:
            raise StartError(f"a service began a history of {card} meanwhile: stop all services, and restore again")
    if keeps_history:
        await _put_histories_back(redis, cards, histories)
    return [
        Restored(
            card=one.card,
            sequence=one.sequence,
            state_hash=hashes[one.card],
            base=begins[one.card].base if one.card in begins else one.sequence,
        )
        for one in manifest.cards
    ]


async def _delete_keys(redis: Redis, cards: Sequence[str]) -> None:
    for card in cards:  # the keys of two cards may be at two servers
        names = [name async for name in card_copy.names(redis, card)]
        for start in range(0, len(names), card_copy.RESTORE_KEYS):
            with redis_errors():
                await redis.unlink(*names[start : start + card_copy.RESTORE_KEYS])


async def _fill_tables(database: asyncpg.Connection, file: BackupReader, on_bytes: OnBytes) -> None:
    for table in file.manifest.tables:
        if not table.members or (table.name == AUDIT and await _has_audit(database)):
            continue

        async def source(members: Sequence[str] = table.members) -> AsyncIterator[bytes]:
            for name in members:
                content = file.read(name)
                on_bytes(len(content))
                yield content

        with postgres_errors():
            status = await database.copy_to_table(
                table.name, source=source(), columns=table.columns, timeout=RECOVER_SECONDS
            )
        rows = int(status.rpartition(" ")[2])
        if rows != table.rows:
            raise StartError(f"{table.name} got {rows} rows, and the manifest has {table.rows}")
        if table.name == AUDIT:
            await _continue_audit(database)


async def _continue_audit(database: asyncpg.Connection) -> None:
    with postgres_errors():
        await database.execute(
            f"SELECT setval(pg_get_serial_sequence('{AUDIT}', 'audit_id'), (SELECT max(audit_id) FROM {AUDIT}))"
        )


async def _has_audit(database: asyncpg.Connection) -> bool:
    """Whether the database has an audit of its own. It is append-only, so nothing replaces it."""
    with postgres_errors():
        return bool(await database.fetchval(f"SELECT EXISTS (SELECT FROM {AUDIT})"))


async def _put_histories_back(redis: Redis, cards: Sequence[str], copies: Sequence[KeyCopy | None]) -> None:
    for card, one in zip(cards, copies, strict=True):
        with redis_errors():
            await redis.delete(keys.key(card, "history"))
        if one is not None:
            await card_copy.restore(redis, [one])


async def _restore_keys(redis: Redis, file: BackupReader, card: backup_file.Card, on_bytes: OnBytes) -> KeyCopy | None:
    """Restores the keys of a card without its history, which is returned. No service works with the card meanwhile.

    Commands that wait are matched. The same log always gives the same books.
    """
    history_key = keys.key(card.card, "history")
    kept: KeyCopy | None = None
    count = 0
    for name in card.members:
        copies = msgspec.msgpack.decode(file.read(name), type=list[KeyCopy])
        count += len(copies)
        kept = next((one for one in copies if one.name == history_key), kept)
        await card_copy.restore(redis, [one for one in copies if one.name != history_key])
        on_bytes(sum(one.bytes for one in copies))
    if count != card.parts:
        raise StartError(f"the backup of {card.card} has {count} parts, and the manifest has {card.parts}")
    await recovery.match_waiting(redis, card.card)
    return kept


class _Begin(msgspec.Struct, frozen=True):
    """A history that begins: its id, and the sequence before its first command."""

    history_id: str
    base: int


async def _succeed(redis: Redis, database: asyncpg.Connection, card: backup_file.Card) -> _Begin:
    """Archives what is left of a card's history, and begins another one in the archive.

    A card without any order gets one, too: its first orders may have been placed after the backup.
    """
    if card.history_id:
        await _archive_events(redis, database, card)
    archive_state = (await queries.archive_states(database, [card.card]))[card.card]
    base = recovery.base_after(max(card.sequence, archive_state.last))
    new_id = history.new_id()
    cursor = queries.Cursor(f"{base}-0", f"0-{base}")
    await writer.succeed_history(database, card.card, new_id, base=base, given=base, cursor=cursor)
    return _Begin(new_id, base)


async def _archive_events(redis: Redis, database: asyncpg.Connection, card: backup_file.Card) -> None:
    state = (await queries.archive_states(database, [card.card]))[card.card]
    if not state.history_id:
        await writer.register(database, card.card, card.history_id, base=card.base, given=card.sequence)
    is_begun = state.cursor is not None and state.cursor_history_id == card.history_id
    after = state.cursor.event_id if is_begun and state.cursor else f"{card.base}-0"
    await recovery.archive_events(redis, database, card.card, card.history_id, after=after)
