"""Buys a card up to a price, as soon as somebody sells, until it has enough.

usage: taker.py CARD PRICE QUANTITY     TCGX_URL, TCGX_TRADER_ID and TCGX_API_KEY say where and whose
"""

import argparse
import asyncio
from decimal import Decimal

from tcgx_client import AsyncTcgx, OutcomeUnknown


async def take(client: AsyncTcgx, card: str, price: Decimal, quantity: int) -> int:
    """Takes what is offered; returns how many cards it got."""
    got = 0
    async with client.live_book(card) as book:
        while got < quantity:
            if book.is_live and book.best_ask is not None and book.best_ask[0] <= price:
                got += await buy(client, card, price, quantity - got)
            await book.next(timeout=1)
    return got


async def buy(client: AsyncTcgx, card: str, price: Decimal, quantity: int) -> int:
    """Buys at once or not at all; returns how many cards it got."""
    try:
        order = await client.place(card, "buy", price, quantity, time_in_force="ioc", wait=5)
    except OutcomeUnknown as unknown:
        found = await unknown.aresolve()
        if found is None:
            return 0
        order = found
    for fill in order.trades:
        print(f"{fill.quantity} {card} at {fill.price}", flush=True)
    return order.filled_quantity


async def main() -> None:
    """Runs until it has enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("card")
    parser.add_argument("price", type=Decimal)
    parser.add_argument("quantity", type=int)
    arguments = parser.parse_args()
    async with AsyncTcgx() as client:
        await take(client, arguments.card, arguments.price, arguments.quantity)


if __name__ == "__main__":
    asyncio.run(main())
