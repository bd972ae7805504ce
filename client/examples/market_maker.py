"""Quotes both sides of a card around its middle price, and takes the quotes back when the book cannot be believed.

usage: market_maker.py CARD     TCGX_URL, TCGX_TRADER_ID and TCGX_API_KEY say where and whose
"""

import argparse
import signal
from contextlib import suppress
from decimal import Decimal

from tcgx_client import BookView, NewOrder, Order, Tcgx

HALF_SPREAD = Decimal("0.05")
QUANTITY = 5
START = Decimal("5.00")


def middle_of(book: BookView) -> Decimal:
    """The price between the best bid and the best ask, or a guess."""
    if book.best_bid and book.best_ask:
        return ((book.best_bid[0] + book.best_ask[0]) / 2).quantize(Decimal("0.01"))
    return START


def quotes(card: str, middle: Decimal) -> list[NewOrder]:
    """A bid below and an ask above the middle."""
    return [
        NewOrder(card=card, side="buy", price=middle - HALF_SPREAD, quantity=QUANTITY),
        NewOrder(card=card, side="sell", price=middle + HALF_SPREAD, quantity=QUANTITY),
    ]


def are_whole(book: BookView, quoted: list[NewOrder]) -> bool:
    """Whether the book has all of the quotes, unfilled."""
    levels = {"buy": dict(book.bids), "sell": dict(book.asks)}
    return bool(quoted) and all(levels[each.side].get(Decimal(each.price), 0) >= each.quantity for each in quoted)


def make_market(client: Tcgx, card: str) -> None:
    """Quotes anew whenever a quote was filled. Whatever happens, no quote stays behind."""
    quoted: list[NewOrder] = []
    try:
        with client.live_book(card) as book:
            view: BookView | None = book.view()
            while True:
                if view is not None and not view.is_live:
                    client.cancel_all(card)
                    quoted = []
                elif view is not None and not are_whole(view, quoted):
                    client.cancel_all(card, wait=5)
                    quoted = quotes(card, middle_of(view))
                    placed = [order for order in client.place_many(quoted) if isinstance(order, Order)]
                    print(", ".join(f"{order.side} {order.quantity} at {order.price}" for order in placed), flush=True)
                    book.wait_for(max(int(order.order_id.rpartition("-")[2]) for order in placed))
                view = book.next(timeout=1)
    finally:
        client.cancel_all(card, wait=5)


def main() -> None:
    """Runs until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("card")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Tcgx() as client, suppress(KeyboardInterrupt):
        make_market(client, arguments.card)


if __name__ == "__main__":
    main()
