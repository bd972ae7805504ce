"""`tcgx up --demo`: something to see, and nobody's orders touched."""

import pytest

from cli.demo import FIRST_TRADER
from core.model import TRADER_ID_MAX
from testing.exchange import tcgx_up
from testing.processes import tcgx
from testing.servers import folder
from testing.waiting import until


@pytest.mark.server
def test_make_believe_traders_trade_on_every_card_and_touch_nobody() -> None:
    with folder() as where, tcgx_up(where, "--demo") as running:
        (trader,) = running.traders(1)
        mine = trader.submit("pikachu", "buy", "1.00")

        def trade() -> bool:
            cards = ("pikachu", "bulbasaur", "charmander", "squirtle")
            return all(trader.get(f"/cards/{card}/trades")["trades"] for card in cards)

        until(trade, "a card has no trades", seconds=30)
        assert tcgx(where, "restart", "demo").returncode == 0
        assert [order["order_id"] for order in trader.get("/orders?status=open")["orders"]] == [mine["order_id"]]
        assert running.stop() == 0

    assert 10_000 < FIRST_TRADER < TRADER_ID_MAX
