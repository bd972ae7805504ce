"""Notifications of match calls inside a process: the wait for one, and the outcomes that it tells. No server needed."""

import asyncio
from typing import cast

import msgspec
import pytest
from redis.asyncio import Redis

from core.model import Accepted, PlaceOrder, Side, Status
from engine.match_notifications import CANCELED_WAITERS_MAX, MatchNotification, MatchNotifier
from engine.nodes import Node, Nodes

ORDER = PlaceOrder(trader_id=1, card="pikachu", side=Side.BUY, price_cents=500)
SECONDS = 5.0
LINES = (
    b"000000000007,000000000012,000000000003,1,5,500,2,buy,2026-11-23T00:00:00.001Z\n"
    b"000000000008,000000000013,000000000012,4,1,500,1,sell,2026-11-23T00:00:00.001Z\n"
    b"000000000003,5,sell,500,2,gtc,,2026-11-22T00:00:00.000Z,2,filled,2026-11-23T00:00:00.001Z\n"
    b"000000000013,4,sell,500,1,gtc,,2026-11-23T00:00:00.000Z,1,filled,2026-11-23T00:00:00.001Z\n"
)
AT = "2026-11-23T00:00:00.000Z"


def test_those_who_have_waited_in_vain_are_forgotten_and_the_others_are_not() -> None:
    async def work() -> None:
        notifier = MatchNotifier(Nodes([Node(cast(Redis, None), cast(Redis, None), ["pikachu"])]))
        patient = [asyncio.create_task(notifier.wait("pikachu", sequence, SECONDS)) for sequence in (3, 1, 2)]
        await asyncio.sleep(0)

        for sequence in range(1_000):
            assert not await notifier.wait("pikachu", 10 + sequence, 0)

        assert len(notifier._waiters["pikachu"]) <= 2 * len(patient) + CANCELED_WAITERS_MAX + 1
        notifier._advance("pikachu", 2)
        await asyncio.wait(patient[1:], timeout=SECONDS)
        assert [task.done() for task in patient] == [False, True, True]
        notifier._advance("pikachu", 3)
        assert await patient[0]

    asyncio.run(work())


def test_what_a_small_call_told_answers_for_its_orders() -> None:
    told = MatchNotification(b"11 14 2\n" + LINES)

    rests, nothing = told.result(ORDER, Accepted(11, AT))
    partly, made = told.result(msgspec.structs.replace(ORDER, quantity=9), Accepted(12, AT))
    filled, sold = told.result(msgspec.structs.replace(ORDER, side=Side.SELL, trader_id=4), Accepted(13, AT))

    assert (told.first, told.last, told.has_details) == (11, 14, True)
    assert (rests.status, rests.filled_quantity, nothing) == (Status.OPEN, 0, [])
    assert (partly.status, partly.filled_quantity) == (Status.PARTIALLY_FILLED, 3)
    assert [(fill.trade.number, fill.trade.quantity, fill.is_taker) for fill in made] == [(7, 2, True), (8, 1, False)]
    assert (filled.status, filled.closed_at) == (Status.FILLED, "2026-11-23T00:00:00.001Z")
    assert [(fill.trade.number, fill.is_taker) for fill in sold] == [(8, True)]


@pytest.mark.parametrize(
    ("text", "sequence", "accepted_at"),
    [(b"11 14", 12, AT), (b"11 14 0\n", 15, AT), (b"11 14 0\n", 10, AT), (b"11 14 0\n", 12, None)],
    ids=["a large call", "a later order", "an earlier order", "a repeated order"],
)
def test_what_was_not_told_is_read(text: bytes, sequence: int, accepted_at: str | None) -> None:
    notifier = MatchNotifier(Nodes([Node(cast(Redis, None), cast(Redis, None), ["pikachu"])]))
    notifier.handle("pikachu", MatchNotification(text))

    assert notifier.result(ORDER, Accepted(sequence, accepted_at)) is None
