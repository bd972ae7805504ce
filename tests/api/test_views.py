"""Answers that are written out are those that the views would give. No server is needed."""

import itertools
import random

import msgspec
import pytest

from api.decoding import InvalidBody
from api.views import OrderView, RefusedView, order_view, result_json
from core.errors import ClientOrderIdConflict, InvalidRequest, Overloaded, TcgxError, Violation
from core.model import Accepted, Fill, Order, PlaceOrder, Side, Status, TimeInForce, Trade, average_price_text

AT = "2026-11-23T01:34:23.732Z"
SEED = 20_260_102


def order_of(command: PlaceOrder, entered: Accepted) -> Order:
    """The order that a command has become."""
    return Order(
        card=command.card,
        sequence=entered.sequence,
        trader_id=command.trader_id,
        side=command.side,
        price_cents=command.price_cents,
        quantity=command.quantity,
        filled_quantity=0,
        status=Status.ACCEPTED,
        time_in_force=command.time_in_force,
        client_order_id=command.client_order_id,
        accepted_at=entered.accepted_at or "",
        closed_at=None,
    )


def commands() -> list[PlaceOrder]:
    """Every side, time in force and price, with and without an id of the characters that one may have."""
    choose = random.Random(SEED)
    ids = [None, "a", "A.b_c:d-9", "x" * 64]
    return [
        PlaceOrder(
            trader_id=choose.randint(1, 10_000),
            card=choose.choice(["pikachu", "a", "mr_mime2"]),
            side=side,
            price_cents=price_cents,
            quantity=choose.randint(1, 10_000),
            time_in_force=time_in_force,
            client_order_id=choose.choice(ids),
        )
        for side, time_in_force, price_cents in itertools.product(Side, TimeInForce, range(100, 1_001))
    ]


def test_an_accepted_order_is_written_as_its_view_is_encoded() -> None:
    for number, command in enumerate(commands(), 1):
        entered = Accepted(number**3, AT)

        written = result_json(command, entered).encode()

        assert written == msgspec.json.encode(order_view(order_of(command, entered)))
        assert msgspec.json.decode(written, type=OrderView).order_id == f"{command.card}-{number**3}"


@pytest.mark.parametrize(
    ("traded", "average"),
    [
        ([], None),
        ([(550, 1)], "5.50"),
        ([(157, 1), (158, 1), (159, 4)], "1.585"),
        ([(100, 1), (101, 1)], "1.005"),
        ([(100, 2), (101, 1)], "1.0033"),
        ([(100, 1), (101, 2)], "1.0067"),
        ([(100, 7), (101, 1)], "1.0013"),  # 1.00125: half up
        ([(100, 5), (101, 3)], "1.0038"),  # 1.00375: half up
        ([(1_000_000, 10_000), (999_999, 1)], "10000.00"),
        ([(100, 9_999_999_999), (101, 1)], "1.00"),
    ],
)
def test_an_average_price_is_exact_up_to_four_decimals(traded: list[tuple[int, int]], average: str | None) -> None:
    fills = [
        Fill(
            Trade(
                card="pikachu",
                number=number,
                taker_sequence=9,
                maker_sequence=number,
                taker_trader_id=1,
                maker_trader_id=2,
                price_cents=price_cents,
                quantity=quantity,
                taker_side=Side.BUY,
                executed_at=AT,
            ),
            is_taker=True,
        )
        for number, (price_cents, quantity) in enumerate(traded, 1)
    ]

    assert average_price_text(fills) == average


def test_a_repeated_order_is_shown_as_it_is_now() -> None:
    command = commands()[0]
    first = msgspec.structs.replace(
        order_of(command, Accepted(7, AT)), status=Status.FILLED, filled_quantity=command.quantity, closed_at=AT
    )

    assert result_json(command, first).encode() == msgspec.json.encode(order_view(first))


@pytest.mark.parametrize(
    "error",
    [
        Overloaded("9 commands of pikachu wait"),
        ClientOrderIdConflict("a", "pikachu-1"),
        InvalidRequest([Violation("price", "invalid_price", "must be a decimal", '"\\\x00é')]),
        InvalidBody("invalid_body", "Invalid body", "the body must be a JSON object"),
    ],
)
def test_a_refused_order_is_its_problem(error: TcgxError) -> None:
    refused = msgspec.json.decode(result_json(commands()[0], error), type=RefusedView)

    assert refused.error.detail
    assert refused.error.status in (409, 422, 503)
