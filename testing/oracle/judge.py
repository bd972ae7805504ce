"""The log as the judge: what each log must lead to, and whether Redis and PostgreSQL have exactly that."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import asyncpg
import msgspec
from redis import Redis

from core.model import Command, Order, Trade
from engine import codec, connection, keys
from engine.book_reader import BookReader
from testing.flows import CARDS
from testing.oracle.comparison import levels
from testing.oracle.reference_book import ReferenceBook
from testing.servers import client_of, fetch
from testing.waiting import until, until_async

LEVELS_MAX = 2_000

T = TypeVar("T")
Row = TypeVar("Row", Order, Trade)


def log_of(redis_url: str, card: str) -> list[tuple[int, str, Command]]:
    """Sequence, time and command of everything in a card's log, which must begin with 1 and have no gap."""
    found: list[tuple[int, str, Command]] = []
    with client_of(redis_url) as redis:
        entries: Any = redis.xrange(keys.key(card, "orders"))
    for entry_id, fields in entries:
        first = int(entry_id.decode().partition("-")[2])
        assert first == len(found) + 1, f"{card}: command {len(found) + 1} is followed by {first}"
        for command in codec.decode(card, fields):
            found.append((len(found) + 1, fields[b"at"].decode(), command))
    return found


def judged(redis_url: str, cards: Sequence[str] = CARDS) -> dict[str, ReferenceBook]:
    """What each card's log must lead to."""
    books = {}
    for card in cards:
        books[card] = ReferenceBook(card)
        for sequence, at, command in log_of(redis_url, card):
            books[card].apply(sequence, at, command)
    return books


def settle(redis_url: str, database_url: str, cards: Sequence[str] = CARDS) -> None:
    """Waits until everything in the logs is matched and archived. Nothing may be appended meanwhile."""
    with client_of(redis_url) as redis:
        appended: dict[str, Any] = {card: redis.get(keys.key(card, "sequence")) for card in cards}
        expected = {card: int(sequence) for card, sequence in appended.items() if sequence}
        for card, sequence in expected.items():
            until(
                lambda card=card, sequence=sequence: matched_of(redis, card) >= sequence,  # type: ignore[misc]
                f"matching of {card} until {sequence}",
            )
    asyncio.run(_archived(database_url, expected))


async def _archived(database_url: str, expected: Mapping[str, int]) -> None:
    """Waits until the archive ends with these commands."""
    database = await asyncpg.connect(database_url)

    async def is_reached() -> bool:
        rows = await database.fetch("SELECT card, sequence FROM archive_cursor")
        return {row["card"]: row["sequence"] for row in rows} == expected

    try:
        await until_async(is_reached, f"the archive does not reach {expected}")
    finally:
        await database.close()


def matched_of(redis: "Redis", card: str) -> int:
    """How far a card is matched."""
    sequence: Any = redis.hget(keys.key(card, "cursor"), "sequence")
    return int(sequence or 0)


def archived_orders(database_url: str, card: str) -> list[Order]:
    """The table `orders`, all columns, by sequence."""
    rows = fetch(database_url, "SELECT * FROM orders WHERE card = $1 ORDER BY sequence", card)
    return [_converted(row, Order) for row in rows]


def archived_trades(database_url: str, card: str) -> list[Trade]:
    """The table `trades`, all columns, by number."""
    rows = fetch(
        database_url, "SELECT trade_number AS number, * FROM trades WHERE card = $1 ORDER BY trade_number", card
    )
    for row in rows:
        del row["trade_number"]
    return [_converted(row, Trade) for row in rows]


def _converted(row: dict[str, Any], kind: type[Row]) -> Row:
    values = {name: _rfc3339(value) if isinstance(value, datetime) else value for name, value in row.items()}
    fields = msgspec.structs.fields(kind)
    assert set(values) == {field.name for field in fields}, "a column has no counterpart"
    defaults = {field.name: field.default for field in fields if field.default is not msgspec.NODEFAULT}
    return msgspec.convert(
        {name: defaults.get(name) if value is None else value for name, value in values.items()}, kind
    )


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def differences(found: Sequence[T], expected: Sequence[T]) -> list[tuple[int, T | None, T | None]]:
    """The first three places where two lists differ: place, found, expected."""
    pairs = itertools.zip_longest(found, expected)
    return list(itertools.islice(((i, f, e) for i, (f, e) in enumerate(pairs) if f != e), 3))


def assert_archived(database_url: str, books: Mapping[str, ReferenceBook]) -> None:
    """That PostgreSQL has exactly the completed orders and the trades of the logs."""
    for card, book in books.items():
        completed = sorted(book.completed, key=lambda order: order.sequence)
        assert differences(archived_orders(database_url, card), completed) == []
        assert differences(archived_trades(database_url, card), book.trades) == []


def assert_books(redis_url: str, books: Mapping[str, ReferenceBook]) -> None:
    """That Redis has exactly the price levels, the open orders and the latest trades of the logs."""

    async def compared() -> None:
        async with connection.connect(redis_url) as redis:
            read = BookReader(redis)
            for card, book in books.items():
                depth = await read.depth(card, LEVELS_MAX)
                assert depth.sequence == book.sequence
                assert (depth.bids, depth.asks) == (levels(book.bids()), levels(book.asks()))
                assert await read.latest_trades(card) == book.latest_trades()
                resting = [order for trader_id in book.traders() for order in book.open_orders(trader_id)]
                for order in resting[:: max(1, len(resting) // 100)]:
                    assert await read.order(card, order.sequence) == order

    asyncio.run(compared())
