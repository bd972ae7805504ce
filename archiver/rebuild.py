"""Rebuilds the end of an archive from the log, where Redis has trimmed the events that the archive lacks.

The log alone decides: the same commands give the same trades, in any batches. So the log runs through an empty server
again. Its events after the archive cursor are archived, up to the first event that Redis still has. The archiver then
continues with that one.
"""

from collections.abc import Callable
from typing import Any

import asyncpg
import msgspec
from redis.asyncio import Redis

from archiver import writer
from archiver.history import Comparison
from archiver.reader import read_rows
from core.errors import StartError
from engine import keys
from engine.connection import redis_errors
from engine.events import EventReader

MATCH_COMMANDS = 1_000
ENTRIES_A_READ = 200
ARCHIVE_BATCH_BYTES = 4 * 1024 * 1024

OnCommands = Callable[[int], None]


class RebuildPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The commands of a card whose results the archive lacks: those after `archived`, up to `last`."""

    card: str
    comparison: Comparison
    archived: int
    last: int


def plan(card: str, comparison: Comparison) -> RebuildPlan:
    """The plan for a card whose archive is older than its log (`Fault.ARCHIVE_OLDER`)."""
    log_state, archive_state = comparison.log_state, comparison.archive_state
    is_begun = archive_state.cursor is not None and archive_state.cursor_history_id == log_state.history_id
    archived = archive_state.cursor.sequence if is_begun and archive_state.cursor else log_state.base
    last = log_state.next_first - 1 if log_state.next_first else log_state.matched
    return RebuildPlan(card=card, comparison=comparison, archived=archived, last=last)


async def check(redis: Redis, rebuild_plan: RebuildPlan) -> None:
    """Checks that the log reaches back to its first command.

    Raises:
        StartError: the log was trimmed, or follows a loss.
        Unavailable: Redis does not answer.
    """
    card, base = rebuild_plan.card, rebuild_plan.comparison.log_state.base
    if base:
        raise StartError(
            f"the archive of {card} can't be rebuilt: its history began after command {base}, with books that are not "
            "in the log; `tcgx recover` continues without these rows"
        )
    first = await _first_command(redis, card)
    if first != 1:
        raise StartError(
            f"the archive of {card} can't be rebuilt: its log begins at command {first or '?'}, since archived "
            "commands are trimmed (TCGX_LOG_RETENTION); restore a newer copy of PostgreSQL, or let `tcgx recover` "
            "continue without these rows"
        )


async def rebuild(
    redis: Redis, empty: Redis, database: asyncpg.Connection, rebuild_plan: RebuildPlan, on_commands: OnCommands
) -> None:
    """Archives what the plan names. `empty`: a server that has the library alone. Books in `redis` do not change.

    Raises:
        HistoryConflict: the archive has got another history meanwhile.
        StartError: the log leads to another state than expected.
        Unavailable: a server does not answer.
    """
    card, log_state = rebuild_plan.card, rebuild_plan.comparison.log_state
    await writer.register(database, card, log_state.history_id, base=log_state.base, given=log_state.sequence)
    await _copy_log(redis, empty, card, log_state.sequence)
    await _match_to(empty, card, rebuild_plan.archived, on_commands)
    events = EventReader(empty, card, after=await _newest_event(empty, card), batch_bytes=ARCHIVE_BATCH_BYTES)
    matched = rebuild_plan.archived
    while matched < rebuild_plan.last:
        matched = min(matched + 100 * MATCH_COMMANDS, rebuild_plan.last)
        await _match_to(empty, card, matched, on_commands)
        while rows := await read_rows(events, wait=False):
            await writer.insert(database, [rows], {card: log_state.history_id})


async def _first_command(redis: Redis, card: str) -> int:
    """The first command in a log. 0 if no entry was written by an append."""
    client: Any = redis
    after = "-"
    while True:
        with redis_errors():
            entries = await client.xrange(keys.key(card, "orders"), min=after, count=ENTRIES_A_READ)
        for entry_id, fields in entries:
            if fields.get(b"entry") == entry_id:
                return int(entry_id.partition(b"-")[2])
        if len(entries) < ENTRIES_A_READ:
            return 0
        after = f"({entries[-1][0].decode()}"


async def _copy_log(redis: Redis, empty: Redis, card: str, sequence: int) -> None:
    source: Any = redis
    target: Any = empty
    after = "-"
    while True:
        with redis_errors():
            entries = await source.xrange(keys.key(card, "orders"), min=after, count=ENTRIES_A_READ)
            commands = target.pipeline(transaction=False)
            for entry_id, fields in entries:
                commands.xadd(keys.key(card, "orders"), fields, id=entry_id)
            await commands.execute()
        if len(entries) < ENTRIES_A_READ:
            break
        after = f"({entries[-1][0].decode()}"
    with redis_errors():
        await target.set(keys.key(card, "sequence"), sequence)


async def _match_to(empty: Redis, card: str, last: int, on_commands: OnCommands) -> None:
    """Matches up to a command, so that an event ends with it."""
    reached = await _matched(empty, card)
    while reached < last:
        with redis_errors():
            await empty.fcall("match", 1, keys.tag(card), str(min(MATCH_COMMANDS, last - reached)))
        before, reached = reached, await _matched(empty, card)
        if reached == before:
            raise StartError(f"the log of {card} has no command {reached + 1}: its archive can't be rebuilt")
        on_commands(reached - before)


async def _matched(empty: Redis, card: str) -> int:
    client: Any = empty
    with redis_errors():
        return int(await client.hget(keys.key(card, "cursor"), "sequence") or 0)


async def _newest_event(empty: Redis, card: str) -> str:
    client: Any = empty
    with redis_errors():
        newest = await client.xrevrange(keys.key(card, "events"), count=1)
    return newest[0][0].decode() if newest else "0-0"
