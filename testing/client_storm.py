"""Orders of the client through a proxy that loses, delays and doubles: each must be in the log exactly once.

usage: python -m testing.client_storm [--orders N] [--seed N]
"""

import argparse
import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from redis import Redis
from tcgx_client import AsyncTcgx, ConnectFailed, NewOrder, Order, OutcomeUnknown, Rejected, Unavailable

from core.model import PlaceOrder
from engine import codec, keys
from testing.exchange import ExchangeServer, exchange_server
from testing.lossy_proxy import LossyProxy

CARDS = ("pikachu", "bulbasaur")
WORKERS = 48
BATCH = 25
BATCH_SHARE = 0.1
TRY_SECONDS = 1.5
NOT_ACCEPTED = (ConnectFailed, Unavailable)
"""What is raised only if no try can have taken effect."""

RETRIES = 2
"""Few, so that outcomes are unknown now and then, and are asked for."""


class StormReport(msgspec.Struct, frozen=True):
    """What came of a storm."""

    orders: int
    in_the_log_once: int
    unknown: int
    """How often no try of a call was answered."""
    resolved: int
    """How many of the orders of these calls had been placed."""
    faults: dict[str, int]
    """How many requests met each fate."""
    seconds: float


class Storm:
    """Places orders from several tasks, and notes which ids must be in the log."""

    def __init__(self, client: AsyncTcgx, seed: int) -> None:
        self.placed: list[str] = []
        self.unknown = 0
        self.resolved = 0
        self._client = client
        self._choose = random.Random(seed)
        self._left = 0

    async def run(self, orders: int) -> None:
        """Places so many orders."""
        self._left = orders
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work())

    async def _work(self) -> None:
        while self._left > 0:
            count = min(self._left, BATCH if self._choose.random() < BATCH_SHARE else 1)
            self._left -= count
            orders = [self._order() for _ in range(count)]
            while orders:
                orders = await (self._place_many(orders) if len(orders) > 1 else self._place(orders[0]))

    def _order(self) -> NewOrder:
        name = f"storm-{self._choose.getrandbits(64):016x}"
        self.placed.append(name)
        side = self._choose.choice(("buy", "sell"))
        price = f"5.{self._choose.randint(10, 99)}"
        return NewOrder(card=self._choose.choice(CARDS), side=side, price=price, client_order_id=name)  # type: ignore[arg-type]

    async def _place(self, order: NewOrder) -> list[NewOrder]:
        """Places an order. Returns it where it has to be placed again."""
        try:
            await self._client.place(order.card, order.side, order.price, client_order_id=order.client_order_id)
        except OutcomeUnknown as error:
            self.unknown += 1
            found = await error.aresolve()
            self.resolved += found is not None
            return [] if found is not None else [order]
        except NOT_ACCEPTED:
            return [order]
        return []

    async def _place_many(self, orders: Sequence[NewOrder]) -> list[NewOrder]:
        try:
            results = await self._client.place_many(orders)
        except OutcomeUnknown:
            self.unknown += 1
            return [*orders]  # placing them again is safe
        except NOT_ACCEPTED:
            return [*orders]
        refused = [result for result in results if isinstance(result, Rejected)]
        assert not refused, refused[:3]
        names = [result.client_order_id for result in results if isinstance(result, Order)]
        assert names == [order.client_order_id for order in orders]
        return []


def named_in_the_log(redis: Redis) -> Counter[str]:
    """How often each client_order_id is in the logs."""
    found: Counter[str] = Counter()
    for card in CARDS:
        entries: Any = redis.xrange(keys.key(card, "orders"))
        for _, fields in entries:
            found.update(
                command.client_order_id
                for command in codec.decode(card, fields)
                if isinstance(command, PlaceOrder) and command.client_order_id is not None
            )
    return found


async def storm(exchange: ExchangeServer, *, trader_id: int, orders: int, seed: int) -> StormReport:
    """Runs a storm on an exchange that keeps its whole log.

    Raises:
        AssertionError: an order is not in the log, or more than once, or nobody placed it.
    """
    host, _, port = exchange.url.removeprefix("http://").partition(":")
    started = time.monotonic()
    async with LossyProxy(host, int(port), seed=seed) as proxy:
        client = AsyncTcgx(
            f"http://127.0.0.1:{proxy.port}",
            trader_id=trader_id,
            api_key=exchange.api_key(trader_id),
            timeout=TRY_SECONDS,
            max_retries=RETRIES,
        )
        async with client:
            made = Storm(client, seed)
            await made.run(orders)
        await proxy.settle()
    found = named_in_the_log(exchange.redis)
    own = Counter({name: count for name, count in found.items() if name.startswith("storm-")})
    assert set(own) == set(made.placed), "orders are missing, or nobody placed them"
    assert set(own.values()) == {1}, f"orders are there twice: {own.most_common(3)}"
    seconds = time.monotonic() - started
    return StormReport(len(made.placed), len(own), made.unknown, made.resolved, dict(proxy.counts), seconds)


def main() -> None:
    """Runs a storm on an exchange of its own, and prints what came of it."""
    parser = argparse.ArgumentParser(prog="python -m testing.client_storm", description=__doc__)
    parser.add_argument("--orders", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with exchange_server(log_retention=1_000_000_000) as exchange:
        report = asyncio.run(storm(exchange, trader_id=1, orders=arguments.orders, seed=arguments.seed))
    print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())


if __name__ == "__main__":
    main()
