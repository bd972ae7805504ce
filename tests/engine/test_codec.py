"""What is written to the log is what is read from it. No server is needed."""

import itertools
from collections.abc import Sequence

import pytest

from core.model import CancelOrder, Command, PlaceOrder, Side, TimeInForce
from engine import codec


def every_order(*, ids: Sequence[str | None]) -> list[Command]:
    """Of every side and time in force, by several traders."""
    terms = itertools.product(Side, TimeInForce, ids)
    return [
        PlaceOrder(
            trader_id=7 * number % 10_000 + 1,
            card="pikachu",
            side=side,
            price_cents=100 + number,
            quantity=1 + number % 3,
            time_in_force=time_in_force,
            client_order_id=client_order_id,
        )
        for number, (side, time_in_force, client_order_id) in enumerate(terms)
    ]


CANCELS: list[Command] = [
    CancelOrder(trader_id=2_147_483_647, card="pikachu", sequence=0),
    CancelOrder(trader_id=3, card="pikachu", sequence=999_999_999_999),
]


@pytest.mark.parametrize("ids", [[None], [None, "A.b_c:d-9"], ["x" * 64]])
@pytest.mark.parametrize("cancels", [[], CANCELS])
def test_commands_are_read_as_they_were_written(ids: list[str | None], cancels: list[Command]) -> None:
    commands = [*cancels[:1], *every_order(ids=ids), *cancels[1:]]

    columns = codec.encode(commands)

    assert bool(columns.clients) is any(ids)
    fields = {name.encode(): text.encode() for name, text in columns._asdict().items() if text and name != "runs"}
    assert codec.decode("pikachu", fields) == commands


def test_columns_are_written_without_spaces() -> None:
    assert codec.encode([*every_order(ids=[None])[:2], CANCELS[1]]) == (
        "GIC",
        '["1","8","3"]',
        "[100,101,999999999999]",
        "[1,2,0]",
        "",
        ["1", 1, "8", 1, "", 1],
        "",
    )
