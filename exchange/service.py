"""What every door does with orders, free of HTTP: enter, find, list, cancel, wait.

A wait has one deadline, which holds for what is read after the match, too. Only the append is never given up: nobody
would know what became of it.
"""

import asyncio
import contextlib
import re
from collections.abc import Iterable, Sequence

from api.problems import ApiError, not_found
from archiver.store import Archive
from core.errors import HistoryConflict, Overloaded, TcgxError, Unavailable
from core.model import (
    CLIENT_ORDER_ID_PATTERN,
    CLIENT_ORDER_ID_RULE,
    COMPLETED,
    Accepted,
    CancelOrder,
    Fill,
    Order,
    PlaceOrder,
    order_id,
)
from engine.book_reader import BookReader
from engine.match_notifications import MatchNotifier
from engine.order_log import Cancels, OrderLog
from exchange.order_reader import OrderReader, age, parsed
from exchange.tokens import Identity

CLIENT_ORDER_ID = re.compile(CLIENT_ORDER_ID_PATTERN)
SEQUENCE = re.compile(r"[1-9][0-9]{0,11}")
CANCELED_MAX = 10_000
"""Of a card, so many orders that were canceled together are listed, the newest."""

Placed = Accepted | Order
"""What became of an order that was entered: its place in the log, or, where it repeats one, that one as it is now."""


class Exchange:
    """The exchange as one trader's requests see it."""

    def __init__(
        self, cards: Sequence[str], order_log: OrderLog, books: BookReader, watch: MatchNotifier, archive: Archive
    ) -> None:
        self.cards = tuple(cards)
        self.books = books
        self.archive = archive
        self.reader = OrderReader(books, archive)
        self._log = order_log
        self._watch = watch

    async def place(self, command: PlaceOrder) -> Placed:
        """Enters an order; it is durable when this returns. Its place; for a repeated client_order_id the first order.

        Raises:
            ClientOrderIdConflict, Overloaded, Unavailable: see `OrderLog.append`.
        """
        entered = await self._log.append(command)
        return entered if entered.accepted_at else await self._first(command, entered)

    async def place_and_wait(self, command: PlaceOrder, seconds: float) -> tuple[Order, list[Fill]] | Placed:
        """Enters an order and waits until it is matched: the order and its fills by then, or as `place` if the time is
        over first."""
        deadline = _now() + seconds
        entered = await self._log.append(command)
        if await self._watch.wait(command.card, entered.sequence, deadline - _now()):
            told = self._watch.outcome(command, entered)
            if told is not None:
                return told
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    return await self._matched(command, entered)
        return entered if entered.accepted_at else await self._first(command, entered)

    async def _matched(self, command: PlaceOrder, entered: Accepted) -> tuple[Order, list[Fill]]:
        """An order that is matched, and its fills, read back."""
        order = await self.find(command.card, entered.sequence)
        if order is None:
            raise Unavailable(f"order {order_id(command.card, entered.sequence)} was matched but can't be read now")
        return order, await self.reader.fills_of(order)

    async def place_all(self, commands: Sequence[PlaceOrder]) -> list[Placed | TcgxError]:
        """Enters many orders, each with its own outcome, in order.

        Raises:
            HistoryConflict, Overloaded, Unavailable: none of them was entered for this reason.
        """
        outcomes: list[Placed | TcgxError] = [*await self._log.append_all(commands)]
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, Accepted) and outcome.accepted_at is None:
                try:
                    outcomes[place] = await self._first(commands[place], outcome)
                except TcgxError as error:
                    outcomes[place] = error
        if outcomes and all(isinstance(outcome, HistoryConflict | Overloaded | Unavailable) for outcome in outcomes):
            raise next(outcome for outcome in outcomes if isinstance(outcome, TcgxError))
        return outcomes

    async def find(self, card: str, sequence: int) -> Order | None:
        """An order, wherever it is."""
        return await self.reader.find(card, sequence)

    async def find_own(self, text: str, identity: Identity) -> Order:
        """The order of this trader (of anyone, for an admin) with this order_id.

        Raises:
            ApiError: 404, there is none, or it is another trader's.
        """
        card, _, digits = text.rpartition("-")
        if card not in self.cards or not SEQUENCE.fullmatch(digits):
            raise not_found(text)
        order = await self.find(card, int(digits))
        if order is None or not _may_see(order, identity):
            raise not_found(text)
        return order

    async def find_by_client_id(self, client_order_id: str, trader_id: int) -> Order:
        """The trader's latest order with this client_order_id, over all cards.

        Raises:
            ApiError: 404, there is none.
        """
        if not CLIENT_ORDER_ID.fullmatch(client_order_id):
            raise not_found(client_order_id, f"; a client_order_id {CLIENT_ORDER_ID_RULE}")
        sequences = await asyncio.gather(
            *(self.books.client_order(card, trader_id, client_order_id) for card in self.cards)
        )
        found = await asyncio.gather(
            *(
                self.find(card, sequence)
                for card, sequence in zip(self.cards, sequences, strict=True)
                if sequence is not None
            )
        )
        if not any(found):
            # An order may rest for longer than its id is remembered.
            found = await asyncio.gather(
                *(self.reader.find_open(card, trader_id, client_order_id) for card in self.cards)
            )
        orders = [order for order in found if order is not None]
        if not orders:
            archived = await self.archive.client_order(trader_id, client_order_id)
            orders = [archived] if archived else []
        if not orders:
            raise not_found(client_order_id)
        return max(orders, key=age)

    async def latest(self, trader_id: int, cards: Sequence[str], limit: int) -> tuple[list[Order], Order | None]:
        """A trader's latest orders on these cards, newest first, at most `LATEST`; and the one to go on before, None
        where there are surely no more."""
        return await self.reader.latest(trader_id, cards, limit)

    async def cancel(self, order: Order, seconds: float) -> tuple[Order, bool]:
        """Asks for an order to be canceled; waits up to `seconds` until that is matched. The order as it is then,
        and whether it is matched.

        Raises:
            ApiError: 409, the order is completed already.
        """
        if order.status in COMPLETED:
            raise ApiError(
                409, "order_completed", "Order is completed", f"order {order.order_id} is {order.status.value} already"
            )
        deadline = _now() + seconds
        entered = await self._log.append(
            CancelOrder(trader_id=order.trader_id, card=order.card, sequence=order.sequence)
        )
        if seconds > 0 and await self._watch.wait(order.card, entered.sequence, deadline - _now()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    return await self.find(order.card, order.sequence) or order, True
        return order, False

    async def cancel_all(self, trader_id: int, cards: Sequence[str], seconds: float) -> tuple[list[Order], bool]:
        """Cancels all orders on these cards that were accepted before, matched or not. Once that is matched, the orders
        that it canceled, and True; where nobody waits or the time is over first, those that were open, and False.
        Newest first, of each card the newest `CANCELED_MAX`.
        """
        deadline = _now() + seconds
        resting = await asyncio.gather(
            *(self._open_lines(card, trader_id, deadline if seconds else None) for card in cards)
        )
        entered = await self._cancel_each(trader_id, cards)
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    canceled = await asyncio.gather(
                        *(self._canceled(card, cancels, deadline) for card, cancels in zip(cards, entered, strict=True))
                    )
                    return _by_age(canceled), True
        return _by_age([await parsed(card, lines) for card, lines in zip(cards, resting, strict=True)]), False

    async def _open_lines(self, card: str, trader_id: int, deadline: float | None) -> list[bytes]:
        """The lines of a trader's open orders on a card, as many as can be read by then."""
        found: list[bytes] = []
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout_at(deadline),
                contextlib.aclosing(self.books.open_lines(card, trader_id)) as pages,
            ):
                async for lines in pages:
                    found += lines
                    if len(found) >= CANCELED_MAX:
                        break
        return found[:CANCELED_MAX]

    async def _cancel_each(self, trader_id: int, cards: Sequence[str]) -> list[Cancels]:
        """Enters the cancels of every card.

        Raises:
            TcgxError: of one card they are not entered.
        """
        outcomes = await asyncio.gather(
            *(self._log.cancel_all(card, trader_id) for card in cards), return_exceptions=True
        )
        entered = [outcome for outcome in outcomes if isinstance(outcome, Cancels)]
        for outcome in outcomes:
            if isinstance(outcome, TcgxError) and any(cancels.orders for cancels in entered):
                raise Unavailable("Only a part of the cards was asked to cancel") from outcome
            if isinstance(outcome, BaseException):
                raise outcome
        return entered

    async def _canceled(self, card: str, cancels: Cancels, deadline: float) -> list[Order]:
        """Waits until these are matched; the orders that they canceled.

        Raises:
            TimeoutError: they are not matched by the deadline.
        """
        if not await self._watch.wait(card, cancels.last, deadline - _now()):
            raise TimeoutError
        return await self.reader.canceled(card, cancels, CANCELED_MAX)

    async def _first(self, command: PlaceOrder, entered: Accepted) -> Order:
        """The order that this one repeats."""
        first = await self.find(command.card, entered.sequence)
        if first is None:
            raise Unavailable(f"order {order_id(command.card, entered.sequence)} can't be read now")
        return first


def _may_see(order: Order, identity: Identity) -> bool:
    return identity.role == "admin" or order.trader_id == identity.trader_id


def _by_age(by_card: Iterable[list[Order]]) -> list[Order]:
    return sorted((order for orders in by_card for order in orders), key=age, reverse=True)


def _now() -> float:
    """The clock of deadlines."""
    return asyncio.get_running_loop().time()
