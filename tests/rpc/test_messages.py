"""What a message asks for: the tables of `ItemReader` against the rules."""

import random
from typing import Any

import pytest

from api.prefer import check_wait
from core.errors import InvalidRequest
from core.model import PlaceOrder
from core.rules import OrderRules
from core.settings import Settings
from rpc.messages import ItemReader, draft_of
from rpc.v1 import exchange_pb2 as pb

VALUES: dict[str, list[Any]] = {
    "card": ["pikachu", "squirtle", "mew", "", None],
    "side": ["buy", "sell", "hold", "", None],
    "price": ["1.00", "10.00", "5.37", "5.5", "7", "0.99", "10.01", "5.370", "5.375", "1e0", "", None],
    "quantity": [1, 7, 10_000, 10_001, 0, -1, 2**40, None],
    "client_order_id": ["a", "x" * 64, "x" * 65, "no spaces", "é", "", None, None, None],
    "time_in_force": ["gtc", "ioc", "fok", "day", "", None, None, None],
    "post_only": [True, False, None, None, None],
}
"""Right and wrong values; None: not set."""


def by_rules(rules: OrderRules, order: pb.NewOrder) -> PlaceOrder | str:
    """The command that the rules give, or the text of their refusal."""
    try:
        return rules.check(draft_of(order), 5)
    except InvalidRequest as error:
        return str(error)


def test_tables_and_rules_agree_on_every_order() -> None:
    choose = random.Random(23)
    reader, rules = ItemReader(Settings()), OrderRules(Settings())
    right = 0
    for _ in range(20_000):
        fields = {name: value for name, values in VALUES.items() if (value := choose.choice(values)) is not None}
        order = pb.NewOrder(**fields)
        found, expected = reader.read(pb.Item(place=order), 5), by_rules(rules, order)
        right += isinstance(expected, PlaceOrder)
        assert (found if isinstance(found, PlaceOrder) else str(found)) == expected
    assert right > 300


def test_an_item_without_an_action_is_refused() -> None:
    found = ItemReader(Settings()).read(pb.Item(), 5)

    assert isinstance(found, InvalidRequest)
    assert found.detail == "action is required"


@pytest.mark.parametrize("seconds", [-1.0, 10.5, float("nan"), float("inf")])
def test_a_wait_has_bounds(seconds: float) -> None:
    with pytest.raises(InvalidRequest, match="wait_seconds must be a number of seconds from 0 to 10"):
        check_wait(seconds, "wait_seconds")
