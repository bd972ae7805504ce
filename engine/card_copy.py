"""Copies of all keys of a card at one moment, for a backup, and the way back.

All keys are read in one MULTI, so that the copy is one state between two calls of the library. The names must be known
before it. Only lists of traders get new names while orders flow, and the log still has all orders of such a list. So a
list whose name was not known is made of the log, which is read in the same MULTI.

A MULTI holds the server, so it has as little as possible. DUMP of a large hash takes four times as long as its values.
The values of `open` make the book, too. A client_order_id is never removed before its key expires. So these ids are
read after the MULTI, and those of later sequences are left out.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec
import redis.exceptions
from redis.asyncio import Redis

from core.errors import StartError, Unavailable
from core.model import PlaceOrder
from engine import codec, history, keys
from engine.connection import redis_errors
from engine.history import LogState

PARTS = ("history", "sequence", "orders", "cursor", "trades", "events", "compacted", "deadlines", "deadline_terms")
BOOK = ("open", "bids", "asks")
SCAN_COUNT = 1_000
SECONDS_A_DAY = 86_400
TRIES_MAX = 5
VALUE_BYTES_MAX = 512 * 1024 * 1024
"""The largest value that a server takes with RESTORE (`proto-max-bulk-len`)."""

RESTORE_BYTES = 8 * 1024 * 1024
RESTORE_KEYS = 1_000
FIELDS_MAX = 1_000
"""The largest number of fields of a copied part of a hash."""


class KeyCopy(msgspec.Struct, frozen=True, array_like=True):
    """A key as DUMP returns it, the items of a list, or some of the fields of a hash (field and value in turn).

    `expires_ms`: when the key expires, in ms since 1970, or 0.
    """

    name: str
    value: bytes
    expires_ms: int = 0
    items: list[str] = []
    fields: list[bytes] = []

    @property
    def bytes(self) -> int:
        """The approximate size."""
        return len(self.name) + len(self.value) + sum(map(len, self.items)) + sum(map(len, self.fields))


class CardCopy(msgspec.Struct, frozen=True, kw_only=True):
    """All keys of a card, and the log state at the same moment."""

    log_state: LogState
    keys: Sequence[KeyCopy]


class _Before(msgspec.Struct, frozen=True, kw_only=True):
    """The end of the log before the names were read: the last sequence, and the newest entry."""

    sequence: int
    entry_id: str
    names: Sequence[str]


async def copy(redis: Redis, card: str, event_id: str) -> CardCopy:
    """Copies a card. `event_id`: the last archived event, for the log state.

    Raises:
        StartError: a value is larger than a server takes.
        Unavailable: Redis does not answer, or trims the log faster than names are read.
    """
    for _ in range(TRIES_MAX):
        made = await _copy(redis, card, event_id, await _before(redis, card))
        if made is not None:
            return made
    raise Unavailable(
        f"the log of {card} is trimmed faster than its keys are read: raise TCGX_LOG_RETENTION, or try again when "
        "fewer orders flow"
    )


async def _before(redis: Redis, card: str) -> _Before:
    client: Any = redis
    with redis_errors():
        commands = client.pipeline(transaction=True)
        commands.get(keys.key(card, "sequence"))
        commands.xrevrange(keys.key(card, "orders"), count=1)
        commands.time()
        sequence, newest, (seconds, _) = await commands.execute()
        found = [name.decode() async for name in client.scan_iter(match=f"{keys.tag(card)}:*", count=SCAN_COUNT)]
    today = seconds // SECONDS_A_DAY
    parts = [*PARTS, *(f"client_ids:{day}" for day in (today, today + 1))]
    return _Before(
        sequence=int(sequence or 0),
        entry_id=newest[0][0].decode() if newest else "-",
        names=sorted({*found, *(keys.key(card, part) for part in parts)} - {keys.key(card, part) for part in BOOK}),
    )


async def _copy(redis: Redis, card: str, event_id: str, before: _Before) -> CardCopy | None:
    """The copy. None if the log was trimmed beyond the entry that was the newest one before."""
    client: Any = redis
    ids_prefix = keys.key(card, "client_ids:")
    dumped = [name for name in before.names if not name.startswith(ids_prefix)]
    with redis_errors():
        commands = client.pipeline(transaction=True)
        commands.fcall_ro("history", 1, keys.tag(card), event_id)
        commands.xrange(keys.key(card, "orders"), min=before.entry_id)
        commands.hvals(keys.key(card, "open"))
        for name in dumped:
            commands.dump(name)
        reply, entries, open_lines, *values = await commands.execute()
    if before.entry_id != "-" and (not entries or entries[0][0].decode() != before.entry_id):
        return None
    log_state = history.log_state_of(reply)
    copies = [KeyCopy(name, value) for name, value in zip(dumped, values, strict=True) if value is not None]
    for one in copies:
        _check_size(one)
    opened = [part for line in open_lines for part in (line[: codec.SEQUENCE_DIGITS], line)]
    copies += _parts(KeyCopy(keys.key(card, "open"), b"", fields=opened))
    for name in before.names:
        if name.startswith(ids_prefix):
            copies += await _client_ids(redis, name, log_state.sequence)
    return CardCopy(log_state=log_state, keys=[*copies, *_lists_of(card, entries, before)])


async def _client_ids(redis: Redis, name: str, last: int) -> list[KeyCopy]:
    """The client_order_ids of a day, up to a sequence."""
    client: Any = redis
    fields: list[bytes] = []
    with redis_errors():
        expires_ms = await client.pexpiretime(name)
        async for field, value in client.hscan_iter(name, count=SCAN_COUNT):
            if int(value.partition(b" ")[0]) <= last:
                fields += (field, value)
    return list(_parts(KeyCopy(name, b"", max(expires_ms, 0), fields=fields)))


def _parts(one: KeyCopy) -> Iterator[KeyCopy]:
    """The copy of a hash, in parts of `FIELDS_MAX` fields."""
    for start in range(0, len(one.fields), 2 * FIELDS_MAX):
        yield KeyCopy(one.name, b"", one.expires_ms, fields=one.fields[start : start + 2 * FIELDS_MAX])


def _check_size(one: KeyCopy) -> None:
    if len(one.value) > VALUE_BYTES_MAX:
        raise StartError(
            f"{one.name} has {len(one.value):,} bytes, and no server takes back more than {VALUE_BYTES_MAX:,} at once"
        )


def _lists_of(card: str, entries: Sequence[Any], before: _Before) -> Iterator[KeyCopy]:
    """The lists of traders whose first orders are in these entries."""
    known = set(before.names)
    items: dict[str, list[str]] = {}
    for entry_id, fields in entries:
        if fields.get(b"entry") != entry_id:  # not written by append; match rejects it
            continue
        for sequence, command in enumerate(codec.decode(card, fields), int(entry_id.partition(b"-")[2])):
            name = keys.key(card, f"trader:{command.trader_id}") if isinstance(command, PlaceOrder) else ""
            if name and sequence > before.sequence and name not in known:
                items.setdefault(name, []).append(str(sequence))
    return (KeyCopy(name, b"", items=sequences) for name, sequences in items.items())


async def restore(redis: Redis, copies: Sequence[KeyCopy]) -> None:
    """Writes keys of a copy, which must not exist.

    Raises:
        StartError: a key exists, or the server is older than the one that was copied.
        Unavailable: Redis does not answer, or is out of memory.
    """
    client: Any = redis
    for page in _pages(copies):
        commands = client.pipeline(transaction=False)
        written: list[KeyCopy] = []
        for one in page:
            _write(commands, one)
            written += [one] * (len(commands) - len(written))
        with redis_errors():
            _check_replies(written, await commands.execute(raise_on_error=False))


def _write(commands: Any, one: KeyCopy) -> None:
    if one.items:
        commands.rpush(one.name, *one.items)
    elif not one.fields:
        commands.restore(one.name, 0, one.value)
    else:
        commands.hset(one.name, items=one.fields)
        if one.expires_ms:
            commands.pexpireat(one.name, one.expires_ms)
        card_key, _, part = one.name.rpartition(":")
        if part == "open":
            _write_book(commands, card_key, one.fields[1::2])


def _write_book(commands: Any, card_key: str, lines: Sequence[bytes]) -> None:
    """Writes both sides of a book from open orders."""
    bids: dict[bytes, int] = {}
    asks: dict[bytes, int] = {}
    for line in lines:
        sequence, _, side, price, _ = line.split(b",", 4)
        if side == b"buy":
            bids[sequence] = -int(price)
        else:
            asks[sequence] = int(price)
    for part, members in (("bids", bids), ("asks", asks)):
        if members:
            commands.zadd(f"{card_key}:{part}", members)


def _check_replies(written: Sequence[KeyCopy], replies: Sequence[Any]) -> None:
    for one, reply in zip(written, replies, strict=True):
        if not isinstance(reply, Exception):
            continue
        if "BUSYKEY" in str(reply):
            raise StartError(f"Redis has the key {one.name} already: restore into an empty server")
        if isinstance(reply, redis.exceptions.ResponseError) and "payload version" in str(reply):
            raise StartError(
                f"Redis can't read the copy of {one.name}: it is older than the server that the backup was taken from"
            )
        raise reply


def _pages(copies: Sequence[KeyCopy]) -> Iterator[list[KeyCopy]]:
    page: list[KeyCopy] = []
    size = 0
    for one in copies:
        page.append(one)
        size += one.bytes
        if size >= RESTORE_BYTES or len(page) == RESTORE_KEYS:
            yield page
            page, size = [], 0
    if page:
        yield page


async def names(redis: Redis, card: str) -> AsyncIterator[str]:
    """The names of all keys of a card."""
    client: Any = redis
    with redis_errors():
        async for name in client.scan_iter(match=f"{keys.tag(card)}:*", count=SCAN_COUNT):
            yield name.decode()
