"""`python -m bench.baseline_app`: the usual design behind a typed handler of Litestar, which checks no token.

It is served exactly as the API is, by `api.server`, as bench/noop.py is. Eight connections to PostgreSQL in all.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import msgspec
from litestar import Litestar, post
from litestar.datastructures import State

from bench import transactions
from bench.noop import plain_app, run
from bench.requests import OrderBody
from core.model import PlaceOrder, Side
from core.settings import Settings

CONNECTIONS = 8
TRADERS = 1_000


class BaselineView(msgspec.Struct):
    """The answer: committed, matched."""

    order_id: int


@post("/orders", status_code=202)
async def place_order(data: OrderBody, state: State) -> BaselineView:
    """Enters an order, in a transaction of its own. Who asks is counted, as there is no token."""
    dollars, _, cents = data.price.partition(".")
    state.orders += 1
    command = PlaceOrder(
        trader_id=1 + state.orders % TRADERS,
        card=data.card,
        side=Side(data.side),
        price_cents=100 * int(dollars) + int(cents),
        quantity=data.quantity,
    )
    pool: asyncpg.Pool = state.pool
    async with pool.acquire() as opened:
        return BaselineView(await transactions.place(opened, command))


def create_baseline_app(settings: Settings) -> Litestar:
    """As plain as Litestar gets."""

    @asynccontextmanager
    async def with_pool(app: Litestar) -> AsyncIterator[None]:
        async with transactions.pool(settings.database_url, CONNECTIONS // settings.api_workers) as pool:
            app.state.pool = pool
            yield

    app = plain_app(settings, place_order, lifespan=[with_pool])
    app.state.orders = 0
    return app


if __name__ == "__main__":
    sys.exit(run("baseline", create_baseline_app))
