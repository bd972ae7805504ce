"""The oracle itself, on examples that a person can check, and the pictures; without servers."""

import pytest

from core.model import CancelOrder, Command, PlaceOrder, Side, Status, TimeInForce
from testing.market import cents, draw, draw_reference, parse, picture
from testing.oracle.reference_book import ReferenceBook, SelfTrade

BUY, SELL = Side.BUY, Side.SELL


def order(
    side: Side, price: str, quantity: int = 1, *, trader: int = 1, time_in_force: TimeInForce = TimeInForce.GTC
) -> PlaceOrder:
    """An order for the one card there is."""
    return PlaceOrder(
        trader_id=trader,
        card="pikachu",
        side=side,
        price_cents=cents(price),
        quantity=quantity,
        time_in_force=time_in_force,
    )


def cancel(sequence: int, *, trader: int = 1) -> CancelOrder:
    """A cancel on the one card there is."""
    return CancelOrder(trader_id=trader, card="pikachu", sequence=sequence)


def book_of(*commands: Command, self_trade: SelfTrade = "allow") -> ReferenceBook:
    """A book after these commands; command n has sequence n and time "tn"."""
    book = ReferenceBook("pikachu", self_trade=self_trade)
    for sequence, command in enumerate(commands, 1):
        book.apply(sequence, f"t{sequence}", command)
    return book


def pairs(book: ReferenceBook) -> list[tuple[int, int, int, int]]:
    """(taker, maker, price_cents, quantity) of every trade."""
    return [(trade.taker_sequence, trade.maker_sequence, trade.price_cents, trade.quantity) for trade in book.trades]


def closed(book: ReferenceBook) -> list[tuple[int, Status, int, str | None]]:
    """(sequence, status, filled, closed_at) of every completed order."""
    return [(order.sequence, order.status, order.filled_quantity, order.closed_at) for order in book.completed]


def test_best_price_first_then_the_earliest_at_the_price_of_the_maker() -> None:
    book = book_of(
        order(SELL, "5.20"),
        order(SELL, "5.10"),
        order(SELL, "5.00"),
        order(SELL, "5.10"),
        order(BUY, "5.10", 5),
    )

    assert pairs(book) == [(5, 3, 500, 1), (5, 2, 510, 1), (5, 4, 510, 1)]
    assert draw_reference(book) == picture("""
        bid | price | ask
            | 5.20  | 1
        2   | 5.10  |
    """)


def test_a_sell_takes_the_highest_buy_first() -> None:
    book = book_of(order(BUY, "5.00"), order(BUY, "5.50"), order(SELL, "4.00", 2))

    assert pairs(book) == [(3, 2, 550, 1), (3, 1, 500, 1)]
    assert [trade.taker_side for trade in book.trades] == [SELL, SELL]
    assert [trade.number for trade in book.trades] == [1, 2]


def test_makers_complete_before_their_taker_at_the_time_of_the_taker() -> None:
    book = book_of(order(SELL, "5.00"), order(SELL, "5.00"), order(BUY, "5.00", 2))

    assert closed(book) == [(1, Status.FILLED, 1, "t3"), (2, Status.FILLED, 1, "t3"), (3, Status.FILLED, 2, "t3")]


def test_ioc_and_fok() -> None:
    book = book_of(
        order(SELL, "5.00", 3),
        order(BUY, "5.00", 4, time_in_force=TimeInForce.FOK),
        order(BUY, "5.00", 2, time_in_force=TimeInForce.FOK),
        order(BUY, "5.00", 2, time_in_force=TimeInForce.IOC),
        order(BUY, "5.00", 2, time_in_force=TimeInForce.IOC),
    )

    assert closed(book) == [
        (2, Status.EXPIRED, 0, "t2"),
        (3, Status.FILLED, 2, "t3"),
        (1, Status.FILLED, 3, "t4"),
        (4, Status.EXPIRED, 1, "t4"),
        (5, Status.EXPIRED, 0, "t5"),
    ]
    assert book.bids() == book.asks() == []


def test_cancels_find_only_own_orders_that_rest() -> None:
    book = book_of(
        order(BUY, "5.00", 2, trader=1),
        order(SELL, "5.00", 1, trader=2),
        cancel(1, trader=2),
        cancel(2, trader=2),
        cancel(99, trader=1),
        cancel(1, trader=1),
        cancel(1, trader=1),
    )

    assert closed(book) == [(2, Status.FILLED, 1, "t2"), (1, Status.CANCELED, 1, "t6")]
    assert book.order(3) is None


def test_cancel_all_takes_both_sides_oldest_first() -> None:
    book = book_of(order(BUY, "5.00"), order(SELL, "6.00"), order(BUY, "5.50", trader=2), order(BUY, "5.50"), cancel(0))

    assert [sequence for sequence, *_ in closed(book)] == [1, 2, 4]
    assert [resting.sequence for resting in book.bids()] == [3]


@pytest.mark.parametrize(
    ("time_in_force", "status", "filled"),
    [
        (TimeInForce.GTC, Status.CANCELED, 1),
        (TimeInForce.IOC, Status.CANCELED, 1),
        (TimeInForce.FOK, Status.EXPIRED, 0),
    ],
)
def test_a_taker_that_meets_itself_is_canceled_where_that_is_asked_for(
    time_in_force: TimeInForce, status: Status, filled: int
) -> None:
    book = book_of(
        order(SELL, "5.00", trader=2),
        order(SELL, "5.00", trader=1),
        order(SELL, "5.00", trader=3),
        order(BUY, "5.00", 3, trader=1, time_in_force=time_in_force),
        self_trade="cancel_taker",
    )

    assert closed(book)[-1] == (4, status, filled, "t4")
    assert [resting.sequence for resting in book.asks()] == ([2, 3] if filled else [1, 2, 3])


def test_the_latest_fifty_of_orders_and_trades_are_told_newest_first() -> None:
    book = book_of(*[order(SELL, "5.00")] * 60, *[order(BUY, "5.00", trader=2)] * 55)

    assert [listed.sequence for listed in book.latest_orders(1)] == list(range(60, 10, -1))
    assert [trade.number for trade in book.latest_trades()] == list(range(55, 5, -1))
    assert [listed.sequence for listed in book.open_orders(1)] == [60, 59, 58, 57, 56]


def test_a_picture_is_read_and_drawn_alike() -> None:
    table = picture("""
        bid | price | ask
            | 5.60  | 3
            | 5.50  | 1 2
        4 1 | 5.40  |
    """)

    assert draw_reference(book_of(*parse(table, "pikachu"))) == table
    assert draw([(540, 4), (540, 1)], [(550, 1), (550, 2), (560, 3)]) == table
