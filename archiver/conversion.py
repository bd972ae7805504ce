"""Converts traders' order lists from formats 1 and 2 to format 3 (lua/parts/trader.lua).

Format 1 kept order lines in three places. `{card}:trader:<id>` was a list of texts, each with several lines of one
trader. `{card}:recent` had newer lines, in buckets of traders whose ids end alike. The newest lines were in the events.
`{card}:older:<id>` had older open orders.

In format 2 the list of a trader has sequences: of its open and unmatched orders, and of its latest orders. An item is
a run of any length. In format 3 an item has a bounded number of orders, and may have several runs.

Each list is replaced as a whole. The conversion also reads lists that are already converted, so it can be repeated
after an interruption.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from itertools import islice
from typing import Any

from redis.asyncio import Redis

from core.model import COMMANDS_MAX, LATEST, PlaceOrder
from engine import codec, history, keys
from engine.connection import redis_errors

PAGE = 500
"""The number of keys, fields, entries or lists per call."""

EVENTS_PER_READ = 16
ORDER_LINE_FIELDS = (b"rested", b"orders")


async def convert(redis: Redis, card: str) -> None:
    """Converts the data of a card.

    Nothing may be appended or matched meanwhile. This version ensures that, since it refuses data of another format.

    Raises:
        Unavailable: Redis does not answer; the conversion can be repeated.
    """
    client: Any = redis
    with redis_errors():
        unfinished = await _unfinished(client, card)
        latest = await _latest(client, card)
        for trader in latest.keys() | unfinished.keys():
            newest = sorted(latest[trader] | unfinished[trader])[-LATEST:]
            unfinished[trader].update(newest)
        await _write(client, card, unfinished)
        await client.unlink(keys.key(card, "recent"), keys.key(card, "compacted"))
        async for names in _pages(client.scan_iter(match=f"{keys.key(card, 'older:')}*", count=PAGE)):
            await client.unlink(*names)
        if await client.hget(keys.key(card, "history"), "id"):
            await client.hset(keys.key(card, "history"), "format", str(history.FORMAT))


def items(sequences: Iterable[int]) -> list[str]:
    """Ascending sequences as items of a trader's list: `first-last` for up to `COMMANDS_MAX`, or one sequence."""
    runs: list[list[int]] = []
    for sequence in sequences:
        if runs and sequence == runs[-1][1] + 1 and sequence - runs[-1][0] < COMMANDS_MAX:
            runs[-1][1] = sequence
        else:
            runs.append([sequence, sequence])
    return [str(first) if first == last else f"{first}-{last}" for first, last in runs]


async def _unfinished(client: Any, card: str) -> defaultdict[bytes, set[int]]:
    """The sequences of each trader's orders that are open, or not matched yet."""
    sequences_of: defaultdict[bytes, set[int]] = defaultdict(set)
    async for _, line in client.hscan_iter(keys.key(card, "open"), count=PAGE):
        _add_line(sequences_of, line)
    log_id, matched = await client.hmget(keys.key(card, "cursor"), "log_id", "sequence")
    after, last = log_id or b"0-0", int(matched or 0)
    while entries := await client.xrange(keys.key(card, "orders"), min=b"(" + after, count=PAGE):
        after = entries[-1][0]
        for entry_id, fields in entries:
            if fields.get(b"entry") != entry_id:  # not written by append; match rejects it
                continue
            try:
                commands = codec.decode(card, fields)
            except (ValueError, KeyError, TypeError):  # malformed; match rejects it
                continue
            for sequence, command in enumerate(commands, int(entry_id.partition(b"-")[2])):
                if isinstance(command, PlaceOrder) and sequence > last:
                    sequences_of[b"%d" % command.trader_id].add(sequence)
    return sequences_of


async def _latest(client: Any, card: str) -> defaultdict[bytes, set[int]]:
    """The sequences of each trader's orders in lists, in buckets, and in events that are in no bucket yet."""
    sequences_of: defaultdict[bytes, set[int]] = defaultdict(set)
    prefix = keys.key(card, "trader:")
    async for names in _pages(client.scan_iter(match=f"{prefix}*", count=PAGE)):
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.lrange(name, 0, -1)
        for name, texts in zip(names, await pipeline.execute(), strict=True):
            for text in texts:
                _add_item(sequences_of, name.removeprefix(prefix.encode()), text)
    async for name, text in client.hscan_iter(keys.key(card, "recent"), count=PAGE):
        for line in text.splitlines() if b":" in name else ():
            _add_line(sequences_of, line)
    checkpoint: bytes | None = await client.hget(keys.key(card, "recent"), "filed")
    after = checkpoint.split()[0] if checkpoint else b"0-0"
    while events := await client.xrange(keys.key(card, "events"), min=b"(" + after, count=EVENTS_PER_READ):
        after = events[-1][0]
        for _, fields in events:
            for line in b"".join(fields.get(name, b"") for name in ORDER_LINE_FIELDS).splitlines():
                _add_line(sequences_of, line)
    return sequences_of


def _add_item(sequences_of: Mapping[bytes, set[int]], trader: bytes, text: bytes) -> None:
    """Adds the sequences of a list item of either format."""
    if b"," not in text:
        for run in text.split():
            first, _, last = run.partition(b"-")
            sequences_of[trader].update(range(int(first), int(last or first) + 1))
        return
    for line in text.splitlines():
        sequences_of[trader].add(int(line[: codec.SEQUENCE_DIGITS]))


def _add_line(sequences_of: Mapping[bytes, set[int]], line: bytes) -> None:
    sequence, trader, _ = line.split(b",", 2)
    sequences_of[trader].add(int(sequence))


async def _write(client: Any, card: str, lists: Mapping[bytes, set[int]]) -> None:
    prefix = keys.key(card, "trader:").encode()
    rest = iter(lists.items())
    while page := list(islice(rest, PAGE)):
        pipeline = client.pipeline(transaction=True)
        for trader, sequences in page:
            pipeline.delete(prefix + trader)
            pipeline.rpush(prefix + trader, *items(sorted(sequences)))
        await pipeline.execute()


async def _pages(names: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    page: set[bytes] = set()
    async for name in names:
        page.add(name)
        if len(page) == PAGE:
            yield sorted(page)
            page.clear()
    if page:
        yield sorted(page)
