"""The messages of streams, as JSON. `api/openapi/stream_messages.py` describes each as a struct; a test compares.

Trades and orders have the form that REST gives them. They are formatted here, since a busy card has thousands of them
a second. No value needs an escape: cards, ids and times have no such characters.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from core.model import Order, order_id, price_text
from streams.book import now


class Message(NamedTuple):
    """A message: the name of its event in SSE, and its JSON."""

    event: bytes
    json: bytes


class Bye(NamedTuple):
    """The end of a stream. `code` is that of the close frame of a WebSocket."""

    code: int
    reason: str
    detail: str
    reconnect_after_ms: int = 0

    def message(self) -> Message:
        """The last message of the stream."""
        return _encode(
            "bye",
            {
                "type": "bye",
                "code": self.reason,
                "detail": self.detail,
                "reconnect_after_ms": self.reconnect_after_ms,
            },
        )


NORMAL, RESTARTING, OVERLOADED = 1000, 1012, 1013
BAD_MESSAGE, UNAUTHORIZED, UNKNOWN_CHANNEL, TOO_LATE = 4400, 4401, 4404, 4408
TOO_SLOW, TOO_MANY, UNAVAILABLE = 4410, 4429, 4503
PLAIN = ',"post_only":false,"replaces":null,"carried_quantity":0,"reason":null,"replaced_by":null}'
"""The end of most orders."""


def _encode(event: str, values: Mapping[str, Any]) -> Message:
    return Message(event.encode(), msgspec.json.encode(values))


def hello(log: str, *, heartbeat_seconds: int, positions: Mapping[str, int], lease: object = None) -> Message:
    """The first message of a stream. `lease`: the one that its trader has, perhaps of another stream."""
    return _encode(
        "hello",
        {
            "type": "hello",
            "at": now(),
            "log": log,
            "heartbeat_seconds": heartbeat_seconds,
            "positions": positions,
            "lease": lease,
        },
    )


def heartbeat(positions: Mapping[str, int], levels: Mapping[str, tuple[int, int]]) -> Message:
    """The message that comes even if nothing happens."""
    return _encode("heartbeat", {"type": "heartbeat", "at": now(), "positions": positions, "levels": levels})


def gap(channel: str, card: str, *, after: int, before: int) -> Message:
    """Messages of the commands `after` + 1 to `before` - 1 are missing."""
    return _encode("gap", {"type": "gap", "channel": channel, "card": card, "after": after, "before": before})


def reset(card: str, position: int) -> Message:
    """The position of a subscriber does not exist. The stream goes on after `position`."""
    return _encode("reset", {"type": "reset", "card": card, "position": position})


def error(code: str, detail: str, request_id: int | str | None = None) -> Message:
    """A request of the client failed, or something else went wrong; the stream goes on."""
    return _encode("error", {"type": "error", "id": request_id, "code": code, "detail": detail})


def subscribed(channels: Sequence[str], request_id: int | str | None) -> Message:
    """The answer to a request: the channels of the stream now."""
    return _encode("subscribed", {"type": "subscribed", "id": request_id, "channels": channels})


def authenticated(expires_at: str, request_id: int | str | None, lease: object = None) -> Message:
    """The answer to `auth`. `lease`: as in `hello`."""
    values = {"type": "authenticated", "id": request_id, "expires_at": expires_at, "lease": lease}
    return _encode("authenticated", values)


def lease(
    request_id: int | str | None, grace_seconds: int, *, cancel_on_close: bool = False, ended: str | None = None
) -> Message:
    """The lease of this stream as it is now; `grace_seconds` is 0 if it has none. `ended`: why it lost it."""
    return _encode(
        "lease",
        {
            "type": "lease",
            "id": request_id,
            "grace_seconds": grace_seconds,
            "cancel_on_close": cancel_on_close,
            "ended": ended,
        },
    )


def pong(request_id: int | str | None) -> Message:
    """The answer to `ping`."""
    return _encode("pong", {"type": "pong", "id": request_id, "at": now()})


def trades(card: str, sequence: int, trade_lines: bytes) -> Message:
    """All trades of a match call."""
    encoded = []
    for line in trade_lines.decode().splitlines():
        number, _, _, _, _, price, quantity, side, at = line.split(",")
        encoded.append(
            f'{{"trade_id":"{card}-t{int(number)}","card":"{card}","price":"{price_text(int(price))}",'
            f'"quantity":{quantity},"taker_side":"{side}","executed_at":"{at}"}}'
        )
    text = (
        f'{{"channel":"trades","card":"{card}","type":"trades","sequence":{sequence},"trades":[{",".join(encoded)}]}}'
    )
    return Message(b"trades", text.encode())


def order_json(order: Order) -> str:
    """An order, as `OrderView` of REST."""
    chain = PLAIN if order.replaces is None and order.reason is None and not order.post_only else _chain_json(order)
    client_order_id = f'"{order.client_order_id}"' if order.client_order_id else "null"
    closed_at = f'"{order.closed_at}"' if order.closed_at else "null"
    return (
        f'{{"order_id":"{order.card}-{order.sequence}","client_order_id":{client_order_id},"card":"{order.card}",'
        f'"side":"{order.side.value}","price":"{price_text(order.price_cents)}","quantity":{order.quantity},'
        f'"filled_quantity":{order.filled_quantity},"status":"{order.status.value}",'
        f'"time_in_force":"{order.time_in_force.value}","accepted_at":"{order.accepted_at}","closed_at":{closed_at}{chain}'
    )


def _chain_json(order: Order) -> str:
    """The end of an order that is post-only, or that a replace concerns."""
    chain = {
        "post_only": order.post_only,
        "replaces": None if order.replaces is None else order_id(order.card, order.replaces),
        "carried_quantity": order.carried_quantity,
        "reason": order.reason,
        "replaced_by": None if order.replaced_by is None else order_id(order.card, order.replaced_by),
    }
    return f",{msgspec.json.encode(chain).decode()[1:]}"


def orders_snapshot(positions: Mapping[str, int], orders: Sequence[Order], *, is_complete: bool) -> Message:
    """The open orders of a trader as they were at these positions; the events after them follow."""
    encoded = ",".join([order_json(order) for order in orders])
    places = msgspec.json.encode(positions).decode()
    text = (
        f'{{"channel":"orders","type":"snapshot","positions":{places},"complete":{"true" if is_complete else "false"},'
        f'"orders":[{encoded}]}}'
    )
    return Message(b"orders", text.encode())


def order_event(order: Order, sequence: int, event: str, *, fill: str = "null") -> Message:
    """An order after an event of its life."""
    reason = f'"{order.reason.value}"' if order.reason else "null"
    text = (
        f'{{"channel":"orders","card":"{order.card}","type":"order","sequence":{sequence},"event":"{event}",'
        f'"order":{order_json(order)},"fill":{fill},"reason":{reason}}}'
    )
    return Message(b"orders", text.encode())


def fill_json(card: str, number: int, price_cents: int, quantity: int, *, is_taker: bool) -> str:
    """The trade that made an event of an order."""
    return (
        f'{{"trade_id":"{card}-t{number}","price":"{price_text(price_cents)}","quantity":{quantity},'
        f'"role":"{"taker" if is_taker else "maker"}"}}'
    )
