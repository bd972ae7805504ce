"""Replaces: from what a caller asks for to a command of the log, and from its place in the log to an order."""

from msgspec import structs

from core.errors import OrderCompleted, Unavailable
from core.model import (
    COMPLETED,
    Accepted,
    CancelOrder,
    Change,
    Command,
    Order,
    PlaceOrder,
    ReplaceOrder,
    Status,
    order_id,
)
from core.rules import BatchItem, ReplaceItem
from engine.book_reader import BookReader
from exchange.order_reader import OrderReader


class OrderChanges:
    """Replaces of orders that rest, or are not matched yet.

    A replace is matched behind all commands before it, so its order may be another one by then. Price, side and
    post-only of an order never change, so the command has them whole. Its quantity may shrink, so a replace without a
    quantity says in the log that it keeps the quantity.
    """

    def __init__(self, books: BookReader, reader: OrderReader) -> None:
        self._books = books
        self._reader = reader

    async def check(self, order: Order, change: Change) -> None:
        """Checks that an order is not completed. A repeated replace may name one, since it gets the first outcome.

        Raises:
            OrderCompleted: the order is completed, and the client_order_id names no earlier replace of it.
            Unavailable: Redis does not answer.
        """
        if order.status not in COMPLETED:
            return
        if change.client_order_id is not None:
            known = await self._books.client_order(order.card, order.trader_id, change.client_order_id)
            if known is not None and known.replaces == order.sequence:
                return
        if order.replaced_by is not None:
            raise OrderCompleted(order.order_id, f"replaced by {order_id(order.card, order.replaced_by)}")
        raise OrderCompleted(order.order_id, order.status.value)

    def command(self, item: BatchItem, target: Order | None) -> Command:
        """The command of an item of a batch. `target`: the order that the item names."""
        if isinstance(item, PlaceOrder):
            return item
        assert target is not None  # noqa: S101 - cancels and replaces name an order
        if isinstance(item, ReplaceItem):
            return self.replacement(target, item.change)
        return CancelOrder(trader_id=target.trader_id, card=target.card, sequence=target.sequence)

    def replacement(self, order: Order, change: Change) -> ReplaceOrder:
        """The command that changes an order."""
        return ReplaceOrder(
            trader_id=order.trader_id,
            card=order.card,
            side=order.side,
            price_cents=order.price_cents if change.price_cents is None else change.price_cents,
            quantity=order.quantity if change.quantity is None else change.quantity,
            client_order_id=change.client_order_id,
            post_only=order.post_only if change.post_only is None else change.post_only,
            replaces=order.sequence,
            keeps_quantity=change.quantity is None,
        )

    async def find(self, card: str, sequence: int, replaces: int) -> Order | None:
        """Reads the order of a command: its own one, or the one that a replace left in its place.

        Raises:
            Unavailable: the archive is needed and cannot be read.
        """
        found = await self._reader.find(card, sequence)
        return await self._reader.find(card, replaces) if found is None and replaces else found

    async def order_after(self, command: ReplaceOrder, accepted: Accepted) -> Order:
        """Reads the order that a replace has led to.

        Raises:
            Unavailable: it cannot be read.
        """
        order = await self.find(command.card, accepted.sequence, command.replaces)
        if order is None:
            raise Unavailable(f"order {order_id(command.card, command.replaces)} can't be read now")
        return order

    async def expected(self, order: Order, command: ReplaceOrder, accepted: Accepted) -> Order:
        """The order that a replace will lead to, as it is before the match; of a repeated one, the order as it is now.

        Raises:
            Unavailable: the order of a repeated replace cannot be read.
        """
        if accepted.accepted_at is None:
            return await self.order_after(command, accepted)
        keeps_place = command.price_cents == order.price_cents and command.post_only == order.post_only
        if keeps_place and command.quantity <= order.quantity:
            return order
        return structs.replace(
            order,
            sequence=accepted.sequence,
            price_cents=command.price_cents,
            quantity=command.quantity,
            filled_quantity=0,
            status=Status.ACCEPTED,
            client_order_id=command.client_order_id,
            accepted_at=accepted.accepted_at,
            post_only=command.post_only,
            replaces=command.replaces,
            carried_quantity=0,
        )
