"""`tcgx replay`: runs a card's log through an empty server, which must give the same state hash."""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from redis.asyncio import Redis

from cli import datadir, paths
from cli.embedded_redis import RedisServer
from core.errors import StartError
from core.settings import Settings
from engine import connection, history, keys, library
from engine.book_reader import BookReader
from engine.connection import redis_errors
from engine.matcher import Matcher
from engine.nodes import Node

ENTRIES_A_READ = 200
SETTLE_TRIES = 50


class Entry(msgspec.Struct, frozen=True):
    """An entry of a card's log as Redis has it; one line of an export."""

    card: str
    id: str
    fields: list[str]


class ExpectedState(msgspec.Struct, frozen=True):
    """The state at the end of a card's log; the last line of a card in an export."""

    card: str
    state_hash: str
    log_id: str
    sequence: int


Line = Entry | ExpectedState


class _Position(msgspec.Struct, frozen=True):
    """The last entry that is wholly matched, the matched commands of the next entry, and the last command."""

    log_id: str
    part: int
    sequence: int


async def run(arguments: argparse.Namespace, configured: Settings) -> int:
    """Replays a file or the live server's log, or exports the log; the exit code is 1 if a hash differs."""
    if arguments.export:
        paths.check_file(arguments.export)
        async with connection.connect(configured.redis_url) as live:
            count = await export(server_lines(live, configured.cards), arguments.export)
        print(f"wrote {count} lines to {arguments.export}")
        return 0
    outcome = await _replay_on_empty_server(arguments, configured)
    for card, expected, found in outcome:
        print(f"{card:<12} {found} {'same' if found == expected else f'DIFFERS from {expected}'}")
    return 0 if outcome and all(expected == found for _, expected, found in outcome) else 1


async def _replay_on_empty_server(arguments: argparse.Namespace, configured: Settings) -> list[tuple[str, str, str]]:
    """Runs `replay` on a throw-away server and returns its result."""
    batch = arguments.batch or configured.match_batch
    with datadir.ephemeral() as data_dir:
        local = msgspec.structs.replace(configured, data_dir=str(data_dir), durability="everysec", redis_core="any")
        server = RedisServer(local, datadir.load_secrets(data_dir))
        await server.start()
        try:
            async with connection.connect(server.socket_url) as empty:
                await library.load(empty)
                if arguments.file:
                    return await replay(_as_async(file_lines(arguments.file)), empty, batch=batch)
                async with connection.connect(configured.redis_url) as live:
                    return await replay(server_lines(live, configured.cards), empty, batch=batch)
        finally:
            await server.stop()


async def _as_async(lines: Iterator[Line]) -> AsyncIterator[Line]:
    for line in lines:
        yield line


async def server_lines(redis: Redis, cards: Sequence[str]) -> AsyncIterator[Line]:
    """Yields the matched part of each card's log on a live server, followed by the card's state.

    Raises:
        StartError: the beginning of a log has been trimmed.
    """
    client: Any = redis
    books = BookReader(redis)
    for card in cards:
        await _check_base(redis, card)
        expected = await _state(books, client, card)
        after = "-"
        while True:
            with redis_errors():
                entries = await client.xrange(
                    keys.key(card, "orders"), min=after, max=expected.log_id, count=ENTRIES_A_READ
                )
            if after == "-":
                _check_beginning(card, entries, expected)
            for entry_id, fields in entries:
                texts = [text.decode(errors="backslashreplace") for pair in fields.items() for text in pair]
                yield Entry(card, entry_id.decode(), texts)
            if len(entries) < ENTRIES_A_READ:
                break
            after = f"({entries[-1][0].decode()}"
        yield expected


def file_lines(path: Path) -> Iterator[Line]:
    """Yields the lines of an export.

    Raises:
        StartError: the file can't be read, or a line is neither an entry nor a state.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise StartError(f"there is no file {path}") from None
    except OSError as error:
        raise StartError(f"{path} can't be read: {error.strerror}") from error
    with file:
        for number, line in enumerate(file, 1):
            try:
                yield _line(line)
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                raise StartError(f"{path}, line {number}: {error}") from error


def _line(text: bytes) -> Line:
    kind: type[Line] = ExpectedState if b'"state_hash"' in text else Entry
    line = msgspec.json.decode(text, type=kind)
    if isinstance(line, Entry) and (not line.fields or len(line.fields) % 2):
        raise ValueError("`fields` must be names and values in turn")
    return line


async def export(lines: AsyncIterator[Line], path: Path) -> int:
    """Writes lines to a file; returns their number.

    Raises:
        StartError: the file can't be written.
    """
    count = 0
    try:
        with path.open("wb") as file:
            async for line in lines:
                file.write(msgspec.json.encode(line) + b"\n")
                count += 1
    except OSError as error:
        raise paths.unwritable(path, error) from error
    return count


async def replay(lines: AsyncIterator[Line], redis: Redis, *, batch: int) -> list[tuple[str, str, str]]:
    """Runs logs through an empty server; returns name, expected hash and found hash of each card."""
    books = BookReader(redis)
    client: Any = redis
    appended: set[str] = set()
    outcome = []
    async for line in lines:
        if isinstance(line, Entry):
            with redis_errors():
                fields = dict(zip(line.fields[::2], line.fields[1::2], strict=True))
                await client.xadd(keys.key(line.card, "orders"), fields, id=line.id)
            appended.add(line.card)
            continue
        if line.card in appended:
            with redis_errors():
                await client.set(keys.key(line.card, "sequence"), line.sequence)
            await _match(Matcher(Node(redis, redis, (line.card,)), batch=batch), line.card)
        outcome.append((line.card, line.state_hash, await books.state_hash(line.card)))
    return outcome


async def _match(matcher: Matcher, card: str) -> None:
    started, calls = time.monotonic(), 0
    while await matcher.match((card,)):
        calls += 1
        if calls % 200 == 0 and sys.stderr.isatty():
            seconds = time.monotonic() - started
            print(f"\r{card}: {calls} calls, {calls / seconds:,.0f} calls/s", end="", file=sys.stderr)
    if calls >= 200 and sys.stderr.isatty():
        print(file=sys.stderr)
    if card in matcher.last_error_by_card:
        raise matcher.last_error_by_card[card]


async def _state(books: BookReader, client: Any, card: str) -> ExpectedState:
    """Reads hash and position of a card at one moment between two entries.

    A busy card moves between two reads, so the reads are repeated until they agree.

    Raises:
        StartError: the card never stands still.
    """
    for _ in range(SETTLE_TRIES):
        before = await _position(client, card)
        state_hash = await books.state_hash(card)
        if before == await _position(client, card) and before.part == 0:
            return ExpectedState(card, state_hash, before.log_id, before.sequence)
        await asyncio.sleep(0)
    raise StartError(f"{card} is matching without a pause: stop the flow of orders, or try again")


async def _position(client: Any, card: str) -> _Position:
    with redis_errors():
        log_id, part, sequence = await client.hmget(keys.key(card, "cursor"), "log_id", "part", "sequence")
    return _Position((log_id or b"0-0").decode(), int(part or 0), int(sequence or 0))


async def _check_base(redis: Redis, card: str) -> None:
    """Checks that a card's log begins with empty books.

    Raises:
        StartError: the log begins after a loss.
    """
    found = await history.read_log_state(redis, card)
    if found.base:
        raise StartError(
            f"the log of {card} follows a loss (`tcgx recover`): its history began after command {found.base}, and "
            "what was before is not in the log, so it can't be replayed from the start"
        )


def _check_beginning(card: str, entries: list[Any], expected: ExpectedState) -> None:
    if expected.sequence == 0:
        return
    # An entry of append has its own id as `entry`; the id ends in the first command's sequence (lua/parts/log.lua).
    firsts = [int(entry_id.partition(b"-")[2]) for entry_id, fields in entries if fields.get(b"entry") == entry_id]
    if 1 not in firsts:
        raise StartError(
            f"the log of {card} begins at command {firsts[0] if firsts else '?'}: what was archived before has been "
            "trimmed (TCGX_LOG_RETENTION), so it can't be replayed from the start"
        )
