"""Makes what earlier versions kept of traders' orders what this one keeps (lua/parts/trader.lua).

Before, `{card}:trader:<id>` was a list of texts, a line for what happened to an order, behind `{card}:recent` (lines of
all traders whose ids end alike) and the events for the newest; `{card}:older:<id>` had older open ones. Here each
trader's list becomes the sequences of its open orders, of those that are not matched, and of its latest ones.

A list is replaced as a whole, and what was replaced is understood, too: a conversion that was killed is begun again.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from itertools import islice
from typing import Any

from redis.asyncio import Redis

from core.model import LATEST, PlaceOrder
from engine import codec, history, keys
from engine.connection import redis_errors

PAGE = 500
"""Keys, fields, entries or lists of a call."""

EVENTS_A_READ = 16
LINES_OF = (b"rested", b"orders")


async def convert(redis: Redis, card: str) -> None:
    """Converts a card's data. Nothing may be appended or matched meanwhile, and nothing is: orders and match calls of
    this version are refused for data of another format.

    Raises:
        Unavailable: Redis does not answer; it can be done again.
    """
    client: Any = redis
    with redis_errors():
        kept = await _unfinished(client, card)
        latest = await _latest(client, card)
        for trader in latest.keys() | kept.keys():
            newest = sorted(latest[trader] | kept[trader])[-LATEST:]
            kept[trader].update(newest)
        await _write(client, card, kept)
        await client.unlink(keys.key(card, "recent"))
        async for names in _pages(client.scan_iter(match=f"{keys.key(card, 'older:')}*", count=PAGE)):
            await client.unlink(*names)
        if await client.hget(keys.key(card, "history"), "id"):
            await client.hset(keys.key(card, "history"), "format", str(history.FORMAT))


def items(sequences: Iterable[int]) -> list[str]:
    """Ascending sequences as the items of a trader's list: an item for each run."""
    runs: list[list[int]] = []
    for sequence in sequences:
        if runs and sequence == runs[-1][1] + 1:
            runs[-1][1] = sequence
        else:
            runs.append([sequence, sequence])
    return [str(first) if first == last else f"{first}-{last}" for first, last in runs]


async def _unfinished(client: Any, card: str) -> defaultdict[bytes, set[int]]:
    """The sequences of each trader's orders that are open, or not matched yet."""
    found: defaultdict[bytes, set[int]] = defaultdict(set)
    async for _, line in client.hscan_iter(keys.key(card, "open"), count=PAGE):
        _note(found, line)
    log_id, matched = await client.hmget(keys.key(card, "cursor"), "log_id", "sequence")
    after, last = log_id or b"0-0", int(matched or 0)
    while entries := await client.xrange(keys.key(card, "orders"), min=b"(" + after, count=PAGE):
        after = entries[-1][0]
        for entry_id, fields in entries:
            if fields.get(b"entry") != entry_id:  # made by hand: match passes it over
                continue
            try:
                commands = codec.decode(card, fields)
            except (ValueError, KeyError, TypeError):  # and this, too
                continue
            for sequence, command in enumerate(commands, int(entry_id.partition(b"-")[2])):
                if isinstance(command, PlaceOrder) and sequence > last:
                    found[b"%d" % command.trader_id].add(sequence)
    return found


async def _latest(client: Any, card: str) -> defaultdict[bytes, set[int]]:
    """The sequences of each trader's orders that lists, buckets, and events that were not filed, know of."""
    found: defaultdict[bytes, set[int]] = defaultdict(set)
    prefix = keys.key(card, "trader:")
    async for names in _pages(client.scan_iter(match=f"{prefix}*", count=PAGE)):
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.lrange(name, 0, -1)
        for name, texts in zip(names, await pipeline.execute(), strict=True):
            for text in texts:
                _take(found, name.removeprefix(prefix.encode()), text)
    async for name, text in client.hscan_iter(keys.key(card, "recent"), count=PAGE):
        for line in text.splitlines() if b":" in name else ():
            _note(found, line)
    filed: bytes | None = await client.hget(keys.key(card, "recent"), "filed")
    after = filed.split()[0] if filed else b"0-0"
    while events := await client.xrange(keys.key(card, "events"), min=b"(" + after, count=EVENTS_A_READ):
        after = events[-1][0]
        for _, fields in events:
            for line in b"".join(fields.get(name, b"") for name in LINES_OF).splitlines():
                _note(found, line)
    return found


def _take(found: Mapping[bytes, set[int]], trader: bytes, text: bytes) -> None:
    """Notes a text of a list of before, or an item of one that is converted."""
    if b"," not in text:
        first, _, last = text.partition(b"-")
        found[trader].update(range(int(first), int(last or first) + 1))
        return
    for line in text.splitlines():
        found[trader].add(int(line[: codec.SEQUENCE_DIGITS]))


def _note(found: Mapping[bytes, set[int]], line: bytes) -> None:
    sequence, trader, _ = line.split(b",", 2)
    found[trader].add(int(sequence))


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
