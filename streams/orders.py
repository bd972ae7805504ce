"""The messages about orders that one match call causes, for each trader. They are a function of its event alone.

The event has the trades, the completed orders, and (lua/parts/watching.lua) the orders that rest after it. So the state
of an order after each of its fills is its last state less the fills that follow.
"""

from collections import defaultdict
from typing import NamedTuple

from msgspec import structs

from core.model import Fill, Order, Status
from engine import codec
from engine.events import Event
from streams.messages import Message, fill_json, order_event

ENDS = {Status.CANCELED: "canceled", Status.EXPIRED: "expired"}
LAST_PLACE = 10**12
"""Beyond every trade number."""


class _Placed(NamedTuple):
    """A message with its time: the sequence of the command that caused it, and the number of the trade."""

    time: int
    place: int
    message: Message


def messages_by_trader(event: Event) -> dict[int, list[Message]]:
    """The messages of an event by trader. Those of an order are in the order in which they happened.

    The event must have `opened_lines`. An order that came to rest and was canceled within the event was never open.
    """
    fills: dict[int, list[Fill]] = defaultdict(list)
    for trade in event.trades:
        fills[trade.maker_sequence].append(Fill(trade, is_taker=False))
        fills[trade.taker_sequence].append(Fill(trade, is_taker=True))
    found: dict[int, list[_Placed]] = defaultdict(list)
    time = 0
    for order in event.orders:
        own = fills[order.sequence]
        # Cancels have no sequence in the event: a cancel is placed after the order that was completed before it.
        time = max(time, own[-1].trade.taker_sequence if own else 0, order.sequence * (order.sequence >= event.first))
        found[order.trader_id] += _messages(order, event, own, ended=time)
    for order in codec.orders(event.card, event.opened_lines or b""):
        found[order.trader_id] += _messages(order, event, fills[order.sequence], ended=0)
    return {trader_id: [placed.message for placed in sorted(each, key=_key)] for trader_id, each in found.items()}


def _key(placed: _Placed) -> tuple[int, int]:
    return placed.time, placed.place


def _messages(order: Order, event: Event, fills: list[Fill], *, ended: int) -> list[_Placed]:
    made = []
    has_rested = order.status in (Status.OPEN, Status.PARTIALLY_FILLED) or any(not fill.is_taker for fill in fills)
    if order.sequence >= event.first and has_rested and not (fills and fills[0].is_taker):
        opened = order_event(_state(order, 0, Status.OPEN), event.last, "open")
        made.append(_Placed(order.sequence, 0, opened))
    filled = order.filled_quantity - sum(fill.trade.quantity for fill in fills)
    for fill in fills:
        trade = fill.trade
        filled += trade.quantity
        is_end = order.status is Status.FILLED and fill is fills[-1]
        state = order if is_end else _state(order, filled, Status.PARTIALLY_FILLED)
        text = fill_json(event.card, trade.number, trade.price_cents, trade.quantity, is_taker=fill.is_taker)
        message = order_event(state, event.last, "fill", fill=text)
        made.append(_Placed(trade.taker_sequence, trade.number, message))
    if order.status in ENDS:
        message = order_event(order, event.last, ENDS[order.status])
        made.append(_Placed(ended, LAST_PLACE, message))
    return made


def _state(order: Order, filled: int, status: Status) -> Order:
    return structs.replace(order, filled_quantity=filled, status=status, closed_at=None)
