"""Orders through a proxy that loses, delays and doubles; `python -m testing.client_storm` runs 10,000 of them."""

import asyncio

import pytest
from tcgx_client import AsyncTcgx, Order, OutcomeUnknown

from testing.client_storm import CARDS, named_in_the_log, storm
from testing.exchange import ExchangeServer
from testing.lossy_proxy import ALL_PASS, NO_ANSWER, LossyProxy

pytestmark = pytest.mark.server

ORDERS = 1_000


def test_each_order_through_a_lossy_proxy_is_in_the_log_exactly_once(exchange: ExchangeServer, trader_id: int) -> None:
    report = asyncio.run(storm(exchange, trader_id=trader_id, orders=ORDERS, seed=3))

    assert report.in_the_log_once == ORDERS
    assert report.unknown > 0
    assert min(report.faults[name] for name in ("lost", "swallowed", "late", "slow", "doubled", "busy")) > 3


def test_an_order_whose_answers_are_all_lost_is_found_by_resolve(exchange: ExchangeServer, trader_id: int) -> None:
    async def scenario() -> tuple[Order | None, list[str], int]:
        host, _, port = exchange.url.removeprefix("http://").partition(":")
        async with LossyProxy(host, int(port), seed=5, fates=ALL_PASS) as proxy:
            client = AsyncTcgx(
                f"http://127.0.0.1:{proxy.port}",
                trader_id=trader_id,
                api_key=exchange.api_key(trader_id),
                timeout=0.5,
                max_retries=2,
            )
            async with client:
                await client.orders().page()  # so that it has a token
                proxy.meet(NO_ANSWER)
                with pytest.raises(OutcomeUnknown) as unknown:
                    await client.place(CARDS[0], "buy", "1.05", client_order_id="lost-three-times")
                tries = proxy.counts["swallowed"]
                proxy.meet(ALL_PASS)
                return await unknown.value.aresolve(), list(unknown.value.client_order_ids), tries

    found, ids, tries = asyncio.run(scenario())

    assert found is not None
    assert (found.client_order_id, found.status, ids, tries) == ("lost-three-times", "open", ["lost-three-times"], 3)
    assert named_in_the_log(exchange.redis)["lost-three-times"] == 1
