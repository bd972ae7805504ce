"""The messages about orders that one match call causes, for each trader. They are a function of its event alone.

The event has the trades, the completed orders, and (lua/parts/watching.lua) the orders that rest after it, and the
replaces that kept the place of their order. The state of an order after a change is its last state less what follows.
"""

from collections import defaultdict
from typing import NamedTuple

from msgspec import structs

from core.model import Fill, Order, Reason, Status
from engine import codec
from engine.events import Amendment, Event
from streams.messages import Message, fill_json, order_event

ENDS = {Status.CANCELED: "canceled", Status.EXPIRED: "expired"}
LAST_PLACE = 10**12
"""Beyond every trade number."""
BEFORE_TRADES = -1


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
    amendments: dict[int, list[Amendment]] = defaultdict(list)
    for amendment in event.amendments:
        amendments[amendment.target].append(amendment)
    found: dict[int, list[_Placed]] = defaultdict(list)
    time = 0
    for order in event.orders:
        own = fills[order.sequence]
        # Cancels have no sequence in the event: a cancel is placed after the order that was completed before it.
        time = max(
            time,
            own[-1].trade.taker_sequence if own else 0,
            order.sequence * (order.sequence >= event.first),
            order.replaced_by or 0,
        )
        found[order.trader_id] += _messages(order, event, own, amendments[order.sequence], ended=time)
    for order in codec.orders(event.card, event.opened_lines or b""):
        found[order.trader_id] += _messages(order, event, fills[order.sequence], amendments[order.sequence], ended=0)
    return {trader_id: [placed.message for placed in sorted(each, key=_key)] for trader_id, each in found.items()}


def _key(placed: _Placed) -> tuple[int, int]:
    return placed.time, placed.place


def _messages(
    order: Order, event: Event, fills: list[Fill], amendments: list[Amendment], *, ended: int
) -> list[_Placed]:
    made = []
    filled = order.filled_quantity - sum(fill.trade.quantity for fill in fills)
    quantity = amendments[0].before if amendments else order.quantity
    has_rested = order.status in (Status.OPEN, Status.PARTIALLY_FILLED) or any(not fill.is_taker for fill in fills)
    if order.sequence >= event.first and has_rested and not (fills and fills[0].is_taker):
        opened = order_event(_state(order, filled, quantity), event.last, "open")
        made.append(_Placed(order.sequence, 0, opened))
    changes: list[Fill | Amendment] = [*fills, *amendments]
    for change in sorted(changes, key=_time_of):
        if isinstance(change, Amendment):
            quantity = change.after
            message = order_event(_state(order, filled, quantity), event.last, "replaced")
            made.append(_Placed(change.sequence, 0, message))
            continue
        trade = change.trade
        filled += trade.quantity
        is_end = order.status is Status.FILLED and change is fills[-1]
        state = order if is_end else _state(order, filled, quantity)
        text = fill_json(event.card, trade.number, trade.price_cents, trade.quantity, is_taker=change.is_taker)
        message = order_event(state, event.last, "fill", fill=text)
        made.append(_Placed(trade.taker_sequence, trade.number, message))
    if order.status in ENDS:
        is_replaced = order.reason is Reason.REPLACED
        message = order_event(order, event.last, "replaced" if is_replaced else ENDS[order.status])
        made.append(_Placed(ended, BEFORE_TRADES if is_replaced else LAST_PLACE, message))
    return made


def _time_of(change: Fill | Amendment) -> tuple[int, int]:
    if isinstance(change, Amendment):
        return change.sequence, 0
    return change.trade.taker_sequence, change.trade.number


def _state(order: Order, filled: int, quantity: int) -> Order:
    """An order while it rests, or between the fills of an incoming one."""
    status = Status.PARTIALLY_FILLED if filled else Status.OPEN
    return structs.replace(
        order, filled_quantity=filled, quantity=quantity, status=status, closed_at=None, reason=None, replaced_by=None
    )
