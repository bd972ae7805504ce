"""What is found in the archive without an index: an order's trades as taker, and a trader's fills, page by page."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from archiver import postgres, writer
from archiver.queries import Archive, Cursor, TradeBoundary
from archiver.writer import RowBatch
from core.model import Fill, PlaceOrder, Side, Trade
from engine import codec, connection
from engine.book_reader import BookReader
from exchange import order_reader
from exchange.order_reader import FillKey, OrderReader, fill_key, own_fills
from testing.flows import CARDS
from testing.oracle.reference_book import ReferenceBook
from testing.servers import Servers, fetch, servers

pytestmark = pytest.mark.server

SEED = 4_711
ORDERS = 400
TRADERS = 4
MOMENTS = 40
"""Many trades, also of different cards, have the same time."""


def flow() -> dict[str, ReferenceBook]:
    """BookReader of a seeded flow, whose cards trade more or less often."""
    choose = random.Random(SEED)
    books = {card: ReferenceBook(card) for card in CARDS}
    for number in range(ORDERS):
        card = choose.choices(CARDS, weights=(8, 4, 2, 0))[0]
        command = PlaceOrder(
            trader_id=choose.randint(1, TRADERS),
            card=card,
            side=choose.choice([*Side]),
            price_cents=choose.randint(495, 505),
            quantity=choose.randint(1, 9),
        )
        at = f"2026-01-01T00:00:{number * MOMENTS // ORDERS:02d}.000Z"
        books[card].apply(books[card].sequence + 1, at, command)
    return books


BOOKS = flow()


def line(trade: Trade) -> str:
    numbers = [codec.sequence_text(one) for one in (trade.number, trade.taker_sequence, trade.maker_sequence)]
    others = (trade.taker_trader_id, trade.maker_trader_id, trade.price_cents, trade.quantity)
    return ",".join([*numbers, *map(str, others), trade.taker_side.value, trade.executed_at]) + "\n"


@pytest.fixture(scope="module")
def archived() -> Iterator[Servers]:
    """Servers whose archive has all trades of the books."""

    async def fill(pair: Servers) -> None:
        database = await postgres.connect(pair.settings.database_url)
        try:
            rows = [
                RowBatch(card, "".join(map(line, book.trades)).encode(), b"", Cursor(f"{book.sequence}-0", "1-1"))
                for card, book in BOOKS.items()
            ]
            await writer.insert(database, rows)
        finally:
            await database.close()

    with servers() as pair:
        asyncio.run(fill(pair))
        yield pair


def run(pair: Servers, work: Callable[[Archive, OrderReader], Awaitable[Any]]) -> Any:
    """Runs something on the archive."""

    async def connected() -> Any:
        async with (
            connection.connect(pair.settings.redis_url) as redis,
            postgres.pool(pair.settings.database_url) as pool,
        ):
            archive = Archive(pool)
            return await work(archive, OrderReader(BookReader(redis), archive))

    return asyncio.run(connected())


def test_all_trades_of_an_order_are_found(archived: Servers) -> None:
    async def found(archive: Archive, _: OrderReader) -> list[list[Trade]]:
        return [
            await archive.trades_of_order(
                card, order.sequence, quantity=order.quantity, before=None, limit=order.quantity
            )
            for card, book in BOOKS.items()
            for order in book.orders()
        ]

    expected = [
        [trade for trade in reversed(book.trades) if order.sequence in (trade.taker_sequence, trade.maker_sequence)]
        for book in BOOKS.values()
        for order in book.orders()
    ]
    assert max(map(len, expected)) > 3
    assert run(archived, found) == expected


def test_trades_of_an_order_go_on_before_a_number(archived: Servers) -> None:
    book = BOOKS["pikachu"]
    busiest = max(book.orders(), key=lambda order: len(_numbers(book, order.sequence)))
    numbers = _numbers(book, busiest.sequence)[::-1]

    async def found(archive: Archive, _: OrderReader) -> list[Trade]:
        return await archive.trades_of_order(
            "pikachu", busiest.sequence, quantity=busiest.quantity, before=numbers[1], limit=1
        )

    assert len(numbers) > 3
    assert [trade.number for trade in run(archived, found)] == numbers[2:3]


def _numbers(book: ReferenceBook, sequence: int) -> list[int]:
    return [trade.number for trade in book.trades if sequence in (trade.taker_sequence, trade.maker_sequence)]


def test_the_last_trade_before_a_moment_is_found_on_every_card(archived: Servers) -> None:
    moments = [
        TradeBoundary(f"2026-01-01T00:00:{second:02d}.000Z", card, 1 + second)
        for second in range(0, MOMENTS + 2, 3)
        for card in CARDS
    ]

    async def found(archive: Archive, _: OrderReader) -> list[int]:
        return [
            trades[0].number if trades else 0
            for moment in moments
            for card in CARDS
            for trader_id in range(1, TRADERS + 1)
            for trades, _ in [await archive.trades_of_trader(trader_id, card, before=moment, scan_max=10_000, limit=1)]
        ]

    def expected(moment: TradeBoundary, card: str, trader_id: int) -> int:
        numbers = [
            trade.number
            for trade in BOOKS[card].trades
            if (trade.number < moment.number if card == moment.card else (trade.executed_at, card) < moment[:2])
            and own_fills(trade, trader_id)
        ]
        return max(numbers, default=0)

    assert run(archived, found) == [
        expected(moment, card, trader_id) for moment in moments for card in CARDS for trader_id in range(1, TRADERS + 1)
    ]


@pytest.mark.parametrize(("looked_at", "limit"), [(100_000, 500), (100_000, 7), (40, 7), (20, 1), (20, 500)])
@pytest.mark.parametrize("cards", [CARDS, ("bulbasaur",), ("squirtle",)])
def test_the_pages_of_fills_have_all_of_them_however_few_trades_a_page_looks_at(
    archived: Servers, monkeypatch: pytest.MonkeyPatch, cards: Sequence[str], looked_at: int, limit: int
) -> None:
    monkeypatch.setattr(order_reader, "TRADES_SCANNED", looked_at)
    monkeypatch.setattr(order_reader, "TRADES_SCANNED_MIN", 1)

    async def paged(_: Archive, orders: OrderReader) -> list[list[Fill]]:
        found = []
        for trader_id in range(1, TRADERS + 1):
            fills: list[Fill] = []
            before: FillKey | None = None
            while True:
                page, before = await orders.fills(trader_id, cards, before=before, limit=limit)
                assert len(page) <= limit
                fills += page
                if before is None:
                    break
            found.append(fills)
        return found

    expected = [
        sorted(
            (fill for card in cards for trade in BOOKS[card].trades for fill in own_fills(trade, trader_id)),
            key=fill_key,
            reverse=True,
        )
        for trader_id in range(1, TRADERS + 1)
    ]
    assert run(archived, paged) == expected


def test_no_index_that_costs_every_row_is_there_without_need(archived: Servers) -> None:
    indexes = fetch(
        archived.settings.database_url, "SELECT indexdef FROM pg_indexes WHERE tablename = 'trades_pikachu'"
    )

    columns = {row["indexdef"].partition(" USING ")[2] for row in indexes}
    assert columns == {"btree (maker_sequence)", "btree (trade_number)"}
