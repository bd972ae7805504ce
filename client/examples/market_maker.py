"""Quotes both sides of a card around its middle price, and takes the quotes back when the book cannot be believed.

usage: market_maker.py CARD [--rounds N]     TCGX_URL, TCGX_TRADER_ID and TCGX_API_KEY say where and whose
"""

import argparse
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


def make_market(client: Tcgx, card: str, rounds: int) -> None:
    """Quotes anew whenever the middle moves. Whatever happens, no quote stays behind."""
    try:
        with client.live_book(card) as book:
            quoted = None
            view: BookView | None = book.view()
            while rounds > 0:
                rounds -= 1
                if view is not None and not view.is_live:
                    client.cancel_all(card)
                    quoted = None
                elif view is not None and (middle := middle_of(view)) != quoted:
                    client.cancel_all(card, wait=5)
                    placed = client.place_many(quotes(card, middle))
                    quoted = middle
                    resting = [f"{order.side} {order.price}" for order in placed if isinstance(order, Order)]
                    print(f"{card} at {middle}: {', '.join(resting)}", flush=True)
                view = book.next(timeout=1)
    finally:
        client.cancel_all(card, wait=5)


def main() -> None:
    """Runs until Ctrl-C, or for so many rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("card")
    parser.add_argument("--rounds", type=int, default=1_000_000_000)
    arguments = parser.parse_args()
    with Tcgx() as client:
        make_market(client, arguments.card, arguments.rounds)


if __name__ == "__main__":
    main()
