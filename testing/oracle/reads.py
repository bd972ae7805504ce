"""What the API must answer: orders, fills and levels of reference books as HTTP shows them."""

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from core.model import Order, Trade, order_id, price_text
from testing.clients.trader import Trader
from testing.oracle.comparison import levels
from testing.oracle.reference_book import ReferenceBook


def shown(order: Order) -> dict[str, Any]:
    """An order as the API shows it to its trader."""
    return {
        "order_id": f"{order.card}-{order.sequence}",
        "client_order_id": order.client_order_id,
        "card": order.card,
        "side": order.side.value,
        "price": price_text(order.price_cents),
        "quantity": order.quantity,
        "filled_quantity": order.filled_quantity,
        "status": order.status.value,
        "time_in_force": order.time_in_force.value,
        "accepted_at": order.accepted_at,
        "closed_at": order.closed_at,
        "post_only": order.post_only,
        "replaces": order.replaces and order_id(order.card, order.replaces),
        "carried_quantity": order.carried_quantity,
        "reason": order.reason,
        "replaced_by": order.replaced_by and order_id(order.card, order.replaced_by),
    }


def shown_trade(trade: Trade) -> dict[str, Any]:
    """A trade as the API shows it to everybody."""
    return {
        "trade_id": f"{trade.card}-t{trade.number}",
        "card": trade.card,
        "price": price_text(trade.price_cents),
        "quantity": trade.quantity,
        "taker_side": trade.taker_side.value,
        "executed_at": trade.executed_at,
    }


def shown_fills(trades: list[Trade], *, trader_id: int = 0, order: Order | None = None) -> list[dict[str, Any]]:
    """The fills of a trader, or of an order, oldest first, as the API shows them."""
    fills = []
    for trade in trades:
        for liquidity, owner, sequence in (
            ("maker", trade.maker_trader_id, trade.maker_sequence),
            ("taker", trade.taker_trader_id, trade.taker_sequence),
        ):
            if owner == trader_id or (order and sequence == order.sequence):
                is_buy = (trade.taker_side.value == "buy") == (liquidity == "taker")
                own = {"order_id": f"{trade.card}-{sequence}", "side": "buy" if is_buy else "sell"}
                fills.append(shown_trade(trade) | own | {"liquidity": liquidity})
    return fills


def shown_alone(order: Order, book: ReferenceBook) -> dict[str, Any]:
    """An order with its fills."""
    fills = shown_fills(book.trades, order=order)
    dollars = sum(Decimal(fill["price"]) * fill["quantity"] for fill in fills)
    average = None
    if fills:  # what a replaced order had filled before is no fill of this one
        exact = (dollars / sum(fill["quantity"] for fill in fills)).quantize(Decimal("0.0001"), ROUND_HALF_UP)
        whole, _, decimals = str(exact).partition(".")
        average = f"{whole}.{decimals[:2]}{decimals[2:].rstrip('0')}"
    return shown(order) | {"average_price": average, "trades": fills}


def shown_levels(orders: list[Order]) -> list[list[Any]]:
    return [[price_text(price_cents), quantity] for price_cents, quantity in levels(orders)]


def assert_reads(trader: Trader, trader_id: int, books: dict[str, ReferenceBook]) -> None:
    """That the pages of a trader's orders, open orders and fills have all of them, in order."""
    every = [order for book in books.values() for order in book.orders() if order.trader_id == trader_id]
    every.sort(key=lambda order: (order.accepted_at, order.card, order.sequence), reverse=True)
    resting = [order for order in every if order.status.value in ("open", "partially_filled")]
    assert trader.every("/orders?", "orders", 33) == [shown(order) for order in every]
    assert trader.every("/orders?status=open&", "orders", 7) == [shown(order) for order in resting]
    for side in ("buy", "sell"):
        of_side = [shown(order) for order in every if order.side.value == side]
        assert trader.every(f"/orders?side={side}&", "orders", 33) == of_side
        open_ones = [shown(order) for order in resting if order.side.value == side]
        assert trader.every(f"/orders?status=open&side={side}&", "orders", 500) == open_ones
    by_card = {card: shown_fills(book.trades, trader_id=trader_id) for card, book in books.items()}
    fills = sorted((fill for found in by_card.values() for fill in found), key=_fill_age, reverse=True)
    assert trader.every("/fills?", "fills", 41) == fills
    assert trader.every("/fills?card=squirtle&", "fills", 500) == by_card["squirtle"][::-1]


def _fill_age(fill: dict[str, Any]) -> tuple[str, str, int, str]:
    number = int(fill["trade_id"].rpartition("-t")[2])
    return fill["executed_at"], fill["card"], number, fill["liquidity"]
