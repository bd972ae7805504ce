"""What every door does with orders, free of HTTP: enter, find, list, cancel, wait."""

import asyncio
import re
from collections.abc import Sequence

from api.problems import ApiError, not_found
from archiver.store import Archive
from engine.books import Books
from engine.errors import Overloaded, TcgxError, Unavailable
from engine.log import OrderLog
from engine.matched import MatchedWatch
from engine.model import (
    CLIENT_ORDER_ID_PATTERN,
    CLIENT_ORDER_ID_RULE,
    COMPLETED,
    CancelOrder,
    Entered,
    Order,
    PlaceOrder,
    Trade,
    order_id,
)
from engine.trust import Identity

CLIENT_ORDER_ID = re.compile(CLIENT_ORDER_ID_PATTERN)
SEQUENCE = re.compile(r"[1-9][0-9]{0,11}")

Placed = Entered | Order
"""What became of an order that was entered: its place in the log, or, where it repeats one, that one as it is now."""


class Exchange:
    """The exchange as one trader's requests see it."""

    def __init__(
        self, cards: Sequence[str], order_log: OrderLog, books: Books, watch: MatchedWatch, archive: Archive
    ) -> None:
        self.cards = tuple(cards)
        self.books = books
        self.archive = archive
        self._log = order_log
        self._watch = watch

    async def place(self, command: PlaceOrder) -> Placed:
        """Enters an order; it is durable when this returns. Its place; for a repeated client_order_id the first order.

        Raises:
            ClientOrderIdConflict, Overloaded, Unavailable: see `OrderLog.append`.
        """
        entered = await self._log.append(command)
        return entered if entered.accepted_at else await self._first(command, entered)

    async def place_and_wait(self, command: PlaceOrder, seconds: float) -> tuple[Order, list[Trade]] | Placed:
        """Enters an order and waits until it is matched: the order and its trades, or as `place` if the time is
        over first."""
        entered = await self._log.append(command)
        if not await self._watch.wait(command.card, entered.sequence, seconds):
            return entered if entered.accepted_at else await self._first(command, entered)
        told = self._watch.outcome(command, entered)
        if told is not None:
            return told
        order = await self.find(command.card, entered.sequence, command.trader_id)
        if order is None:
            raise Unavailable(f"order {order_id(command.card, entered.sequence)} was matched but can't be read now")
        return order, await self._taker_trades(order)

    async def place_all(self, commands: Sequence[PlaceOrder]) -> list[Placed | TcgxError]:
        """Enters many orders, each with its own outcome, in order.

        Raises:
            Overloaded, Unavailable: none of them was entered for this reason.
        """
        outcomes: list[Placed | TcgxError] = [*await self._log.append_all(commands)]
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, Entered) and outcome.accepted_at is None:
                try:
                    outcomes[place] = await self._first(commands[place], outcome)
                except TcgxError as error:
                    outcomes[place] = error
        if outcomes and all(isinstance(outcome, Overloaded | Unavailable) for outcome in outcomes):
            raise next(outcome for outcome in outcomes if isinstance(outcome, TcgxError))
        return outcomes

    async def find(self, card: str, sequence: int, trader_id: int | None = None) -> Order | None:
        """An order, wherever it is: in the log, a book, a trader's latest, the archive, or on its way there.
        `trader_id`: whose it is, where that is known."""
        order = await self.books.order(card, sequence, trader_id)
        if order is not None:
            return order
        position = await self.books.position(card)
        if sequence > position.appended:
            return None
        order = await self.archive.order(card, sequence)
        if order is not None:
            return order
        # Completed, pushed out of its trader's latest orders, and not archived when we looked.
        order = await self.books.completed_order(card, sequence, await self.archive.cursor(card))
        return order or await self.archive.order(card, sequence)

    async def find_own(self, text: str, identity: Identity) -> Order:
        """The order of this trader (of anyone, for an admin) with this order_id.

        Raises:
            ApiError: 404, there is none, or it is another trader's.
        """
        card, _, digits = text.rpartition("-")
        if card not in self.cards or not SEQUENCE.fullmatch(digits):
            raise not_found(text)
        order = await self.find(card, int(digits), None if identity.role == "admin" else identity.trader_id)
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
        found = [
            await self.find(card, sequence, trader_id)
            for card, sequence in zip(self.cards, sequences, strict=True)
            if sequence is not None
        ]
        orders = [order for order in found if order is not None]
        if not orders:
            # An order may rest for longer than its id is remembered.
            open_orders = await asyncio.gather(*(self.books.open_orders(card, trader_id) for card in self.cards))
            orders = [order for of_card in open_orders for order in of_card if order.client_order_id == client_order_id]
        if not orders:
            archived = await self.archive.client_order(trader_id, client_order_id)
            orders = [archived] if archived else []
        if not orders:
            raise not_found(client_order_id)
        return max(orders, key=lambda order: (order.accepted_at, order.card, order.sequence))

    async def latest(self, trader_id: int, limit: int) -> list[Order]:
        """A trader's latest orders over all cards, newest first."""
        by_card = await asyncio.gather(*(self.books.trader_orders(card, trader_id, limit) for card in self.cards))
        merged = [order for orders in by_card for order in orders]
        merged.sort(key=lambda order: (order.accepted_at, order.card, order.sequence), reverse=True)
        return merged[:limit]

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
        entered = await self._log.append(
            CancelOrder(trader_id=order.trader_id, card=order.card, sequence=order.sequence)
        )
        matched = seconds > 0 and await self._watch.wait(order.card, entered.sequence, seconds)
        return await self.find(order.card, order.sequence, order.trader_id) or order, matched

    async def cancel_all(self, trader_id: int, cards: Sequence[str], seconds: float) -> tuple[list[Order], bool]:
        """Asks for all open orders on these cards to be canceled: those orders, and whether that is matched.

        Orders that are accepted but not matched yet are canceled too; they are not in the list.
        """
        listed = await asyncio.gather(*(self.books.open_orders(card, trader_id) for card in cards))
        entered = await self._log.append_all(
            [CancelOrder(trader_id=trader_id, card=card, sequence=0) for card in cards]
        )
        for outcome in entered:
            if isinstance(outcome, TcgxError):
                if any(isinstance(other, Entered) for other in entered):
                    raise Unavailable("Only a part of the cards was asked to cancel") from outcome
                raise outcome
        if seconds == 0:
            return [order for card_orders in listed for order in card_orders], False
        matched = await asyncio.gather(
            *(
                self._watch.wait(card, outcome.sequence, seconds)
                for card, outcome in zip(cards, entered, strict=True)
                if isinstance(outcome, Entered)
            )
        )
        orders = [order for card_orders in listed for order in card_orders]
        if not all(matched):
            return orders, False
        found = await asyncio.gather(*(self.find(order.card, order.sequence, trader_id) for order in orders))
        return [now or before for now, before in zip(found, orders, strict=True)], True

    async def _first(self, command: PlaceOrder, entered: Entered) -> Order:
        """The order that this one repeats."""
        first = await self.find(command.card, entered.sequence, command.trader_id)
        if first is None:
            raise Unavailable(f"order {order_id(command.card, entered.sequence)} can't be read now")
        return first

    async def _taker_trades(self, order: Order) -> list[Trade]:
        trades = await self.books.taker_trades(order.card, order.sequence)
        return trades if trades is not None else await self.archive.taker_trades(order.card, order.sequence)


def _may_see(order: Order, identity: Identity) -> bool:
    return identity.role == "admin" or order.trader_id == identity.trader_id
