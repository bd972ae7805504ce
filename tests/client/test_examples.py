"""The examples, run as programs against a real exchange."""

import csv
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tcgx_client import Tcgx

from testing.exchange import ExchangeServer
from testing.processes import environment, finished
from testing.waiting import until

pytestmark = pytest.mark.server

EXAMPLES = Path(__file__).parents[2] / "client" / "examples"
CARD = "bulbasaur"
SECONDS = 60


@contextmanager
def running(exchange: ExchangeServer, trader_id: int, name: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """An example as a process; it must end by itself."""
    variables = {
        "TCGX_URL": exchange.url,
        "TCGX_TRADER_ID": str(trader_id),
        "TCGX_API_KEY": exchange.api_key(trader_id),
    }
    with subprocess.Popen(
        [sys.executable, EXAMPLES / name, *arguments],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def output_of(process: "subprocess.Popen[str]") -> str:
    """What the example wrote, once it has ended well."""
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    return output


def test_a_market_maker_quotes_a_taker_buys_and_no_quote_stays_behind(exchange: ExchangeServer, trader_id: int) -> None:
    with (
        Tcgx(exchange.url, trader_id=trader_id, api_key=exchange.api_key(trader_id)) as maker,
        running(exchange, trader_id, "market_maker.py", CARD) as quoting,
    ):
        until(lambda: len(list(maker.orders(status="open", card=CARD))) == 2, "quotes")
        with running(exchange, 1, "taker.py", CARD, "6.00", "7") as taking:
            bought = output_of(taking)
        quoting.terminate()
        quoted = output_of(quoting)
        left = list(maker.orders(status="open", card=CARD))
        fills = maker.fills(card=CARD).page()

    assert sum(int(line.split()[0]) for line in bought.splitlines()) == 7
    assert "buy 5 at 4.95, sell 5 at 5.05" in quoted
    assert sum(fill.quantity for fill in fills if fill.side == "sell") == 7
    assert left == []


def test_a_recorder_that_is_started_again_misses_no_trade_and_writes_none_twice(
    exchange: ExchangeServer, trader_id: int, tmp_path: Path
) -> None:
    file = tmp_path / "trades.csv"
    with Tcgx(exchange.url, trader_id=trader_id, api_key=exchange.api_key(trader_id)) as trader:

        def trade(count: int) -> None:
            for _ in range(count):
                trader.place(CARD, "sell", "3.00")
                trader.place(CARD, "buy", "3.00", wait=5)

        with running(exchange, trader_id, "recorder.py", str(file), CARD, "--trades", "3") as recording:
            until(
                lambda: file.with_suffix(".positions").exists() and CARD in file.with_suffix(".positions").read_text()
            )
            trade(3)
            output_of(recording)
        trade(2)
        with running(exchange, trader_id, "recorder.py", str(file), CARD, "--trades", "3") as recording:
            trade(1)
            output_of(recording)
        known = trader.trades(CARD, limit=6)

    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["trade_id"] for row in rows] == [each.trade_id for each in reversed(known)]
    assert {row["price"] for row in rows} == {"3.00"}


def test_every_example_says_what_it_is_for() -> None:
    for example in EXAMPLES.glob("*.py"):
        said = finished([sys.executable, example, "--help"])
        assert said.returncode == 0, said.stderr
        assert example.name in said.stdout
