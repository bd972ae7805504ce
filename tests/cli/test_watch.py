"""`tcgx watch`: what is drawn of a card, and how it looks on a real exchange."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from tcgx_client import BookSnapshot, BookUpdate, Connected, Disconnected, Outcome, Trade, Trades

from cli.ladder import TerminalStyle
from cli.watch import Rates, Screen
from testing.exchange import ExchangeServer

CARD = "charmander"


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def screen(clock: Clock | None = None) -> Screen:
    return Screen(CARD, TerminalStyle(width=60), color=False, clock=clock or Clock())


def snapshot(sequence: int = 10) -> BookSnapshot:
    return BookSnapshot(CARD, sequence, ((Decimal("5.50"), 3),), ((Decimal("5.60"), 4), (Decimal("5.70"), 1)))


def trade(number: int, side: str = "buy") -> Trade:
    return Trade(f"{CARD}-t{number}", CARD, Decimal("5.60"), 2, side, datetime(2026, 11, 27, 8, tzinfo=UTC))


def test_a_picture_has_the_book_the_tape_and_the_rates() -> None:
    clock = Clock()
    made = screen(clock)
    made.take(Connected(resumed=False, log="1", positions={}))
    made.take(snapshot())
    clock.now += 2
    made.take(BookUpdate(CARD, 10, 30, ((Decimal("5.50"), 0), (Decimal("5.40"), 8)), ()))
    made.take(Trades(CARD, 30, (trade(1), trade(2, "sell"))))

    lines = made.frame(40).splitlines()

    assert lines[0] == "live - 10 commands/s, 1 trades/s, 2 cards/s"
    assert lines[1] == f"{CARD} after command 30"
    assert any("5.40" in line and "8" in line for line in lines)
    assert not any("5.50" in line for line in lines if "mid" not in line)
    assert [line.split()[1:] for line in lines[-2:]] == [["5.60", "2", "sold"], ["5.60", "2", "bought"]]


def test_a_cut_is_seen_at_once_and_the_next_snapshot_ends_it() -> None:
    made = screen()
    made.take(snapshot())
    made.take(Disconnected("network", "the connection broke", 0.7))

    assert made.frame(40).startswith("STALE: the connection broke; next try in 0.7 s")
    made.take(snapshot(12))
    assert made.frame(40).startswith("live")


def test_an_update_that_does_not_follow_is_told() -> None:
    made = screen()
    made.take(snapshot())

    assert made.take(BookUpdate(CARD, 11, 12, (), ())) is Outcome.BROKEN
    assert made.frame(40).startswith("STALE")


@pytest.mark.parametrize("rows", [1, 5, 12, 24, 60])
def test_a_picture_is_never_higher_or_wider_than_the_terminal(rows: int) -> None:
    made = screen()
    bids = tuple((Decimal(cents) / 100, 1) for cents in range(100, 400))
    made.take(BookSnapshot(CARD, 1, bids[::-1], ()))
    made.take(Trades(CARD, 1, tuple(trade(number) for number in range(1, 30))))

    lines = made.frame(rows).splitlines()

    assert len(lines) <= rows
    assert max(map(len, lines)) <= 60


def test_rates_forget_what_is_long_ago() -> None:
    clock = Clock()
    rates = Rates(clock)
    rates.add(50)
    clock.now += 5
    first = rates.per_second()
    clock.now += 6

    assert (first, rates.per_second()) == (10.0, 0.0)


@pytest.mark.server
def test_it_draws_what_happens_on_an_exchange(exchange: ExchangeServer) -> None:
    trader = exchange.trader()
    trader.place(CARD, "sell", "6.60", quantity=3)

    done = exchange.tcgx("watch", CARD, "--url", exchange.url, "--frames", "2", "--color", "never")
    unknown = exchange.tcgx("watch", "missingno", "--url", exchange.url)
    nobody = exchange.tcgx("watch", CARD, "--url", "http://127.0.0.1:1")

    assert done.returncode == 0, done.stderr
    assert "live" in done.stdout
    assert "6.60" in done.stdout
    assert (unknown.returncode, nobody.returncode) == (1, 1)
    assert "there is no card 'missingno'" in unknown.stderr
    assert "there is no connection" in nobody.stderr
