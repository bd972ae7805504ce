"""Whether an exchange did what the reference book says, from what was sent, what was answered, and what is in SQL.

The answers give every order its place in its card's log and its time; the reference book, fed in that order, gives all
trades and completed orders; every column of every row of both tables must be the same, counted and hashed.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec

from archiver import postgres
from bench.machine import machine
from bench.progress import Task
from bench.requests import OrderBody
from core.model import Order, PlaceOrder, Side, TimeInForce, Trade
from testing.clients.batch import framed
from testing.oracle.reference_book import ReferenceBook

QUERY_SECONDS = 600
ORDERS = """
    SELECT sequence, trader_id, side, price_cents, quantity, filled_quantity, status, time_in_force, client_order_id,
           to_char(accepted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
           to_char(closed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
    FROM orders WHERE card = $1 ORDER BY sequence
"""
TRADES = """
    SELECT trade_number, taker_sequence, maker_sequence, taker_trader_id, maker_trader_id, price_cents, quantity,
           taker_side, to_char(executed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
    FROM trades WHERE card = $1 ORDER BY trade_number
"""


class Sent(msgspec.Struct, frozen=True):
    """A file of requests, the file of their answers, and the trader of each request."""

    requests: Path
    answers: Path
    traders: list[int]


class Answered(msgspec.Struct):
    """An order as it was answered."""

    order_id: str
    card: str
    side: str
    price: str
    quantity: int
    accepted_at: str


class Answers(msgspec.Struct):
    """The answer to a batch. An item that was refused has none of the fields, and fails to decode."""

    results: list[Answered]


class Bodies(msgspec.Struct):
    """The body of a batch."""

    orders: list[OrderBody]


class Rows(msgspec.Struct, frozen=True):
    """How many rows of a card there are, and the SHA-256 over all their columns, in order."""

    orders: int
    orders_sha256: str
    trades: int
    trades_sha256: str


class CardVerdict(msgspec.Struct, frozen=True):
    """A card's rows by the reference book, and in SQL."""

    card: str
    commands: int
    expected: Rows
    found: Rows

    @property
    def same(self) -> bool:
        """Whether they are the same."""
        return self.expected == self.found


async def verify(database_url: str, cards: Sequence[str], sent: Sequence[Sent], task: Task) -> list[CardVerdict]:
    """A verdict for each card; the reference books run in other processes."""
    loop, verdicts = asyncio.get_running_loop(), []
    with ProcessPoolExecutor(machine().cores, mp_context=get_context("spawn")) as processes:
        expected = {card: loop.run_in_executor(processes, expected_rows, card, list(sent)) for card in cards}
        for card, future in expected.items():
            commands, rows = await future
            verdicts.append(CardVerdict(card, commands, rows, await _rows_in_sql(database_url, card)))
            task.advance(commands)
    return verdicts


def expected_rows(card: str, sent: Sequence[Sent]) -> tuple[int, Rows]:
    """How many commands a card had, and its rows by the reference book.

    Raises:
        ValueError: an answer does not fit its request, or the sequences have a gap.
    """
    entered = sorted(_entered(card, sent), key=lambda one: one[0])
    book = ReferenceBook(card)
    for sequence, at, command in entered:
        book.apply(sequence, at, command)
    completed = sorted(book.completed, key=lambda order: order.sequence)
    return len(entered), Rows(
        len(completed), _sha256(map(_order_line, completed)), len(book.trades), _sha256(map(_trade_line, book.trades))
    )


def _entered(card: str, sent: Sequence[Sent]) -> Iterable[tuple[int, str, PlaceOrder]]:
    """Sequence, time and command of each order of a card."""
    bodies, answers = msgspec.json.Decoder(Bodies), msgspec.json.Decoder(Answers)
    for files in sent:
        batches = zip(framed(files.requests), framed(files.answers), files.traders, strict=True)
        for request, answer, trader_id in batches:
            asked = bodies.decode(request.partition(b"\r\n\r\n")[2]).orders
            for order, result in zip(asked, answers.decode(answer).results, strict=True):
                if (order.card, order.side, order.price, order.quantity) != (
                    result.card,
                    result.side,
                    result.price,
                    result.quantity,
                ):
                    raise ValueError(f"{order} was answered with {result}")
                if order.card == card:
                    yield int(result.order_id.rpartition("-")[2]), result.accepted_at, _command(order, trader_id)


def _command(order: OrderBody, trader_id: int) -> PlaceOrder:
    return PlaceOrder(
        trader_id=trader_id,
        card=order.card,
        side=Side(order.side),
        price_cents=int(order.price.replace(".", "")),
        quantity=order.quantity,
        time_in_force=TimeInForce(order.time_in_force),
    )


def _order_line(order: Order) -> str:
    return (
        f"{order.sequence}\t{order.trader_id}\t{order.side}\t{order.price_cents}\t{order.quantity}\t"
        f"{order.filled_quantity}\t{order.status}\t{order.time_in_force}\t{order.client_order_id or chr(92) + 'N'}\t"
        f"{order.accepted_at}\t{order.closed_at}\n"
    )


def _trade_line(trade: Trade) -> str:
    return (
        f"{trade.number}\t{trade.taker_sequence}\t{trade.maker_sequence}\t{trade.taker_trader_id}\t"
        f"{trade.maker_trader_id}\t{trade.price_cents}\t{trade.quantity}\t{trade.taker_side}\t{trade.executed_at}\n"
    )


def _sha256(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode())
    return digest.hexdigest()


async def _rows_in_sql(database_url: str, card: str) -> Rows:
    opened = await postgres.connect(database_url)
    try:
        orders = await _counted_and_hashed(opened, ORDERS, card)
        return Rows(*orders, *await _counted_and_hashed(opened, TRADES, card))
    finally:
        await opened.close()


async def _counted_and_hashed(opened: Any, query: str, card: str) -> tuple[int, str]:
    digest, count = hashlib.sha256(), 0

    async def take(data: bytes) -> None:
        nonlocal count
        count += data.count(b"\n")
        digest.update(data)

    await opened.copy_from_query(query, card, output=take, timeout=QUERY_SECONDS)
    return count, digest.hexdigest()
