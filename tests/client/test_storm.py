"""Orders through a proxy that loses, delays and doubles; `python -m testing.client_storm` runs 10,000 of them."""

import asyncio

import pytest

from testing.client_storm import storm
from testing.exchange import ExchangeServer

pytestmark = pytest.mark.server

ORDERS = 1_000


def test_each_order_through_a_lossy_proxy_is_in_the_log_exactly_once(exchange: ExchangeServer, trader_id: int) -> None:
    report = asyncio.run(storm(exchange, trader_id=trader_id, orders=ORDERS, seed=3))

    assert report.in_the_log_once == ORDERS
    assert min(report.faults[name] for name in ("lost", "swallowed", "late", "slow", "doubled", "busy")) > 3
