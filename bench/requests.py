"""Requests, encoded beforehand: the bytes that clients send, so that making them is no part of what is measured."""

from collections.abc import Iterable, Sequence

import msgspec

from bench.options import Options
from core.model import Command, PlaceOrder, price_text
from exchange import tokens
from testing.flows import FLOWS

TOKEN_SECONDS = 86_400
REQUESTS = 20_000
"""So many different single orders are made for a closed loop, and sent again and again."""
TOKENS = 1_000
"""So many traders have a token; a flow's trader n uses token n modulo this."""


class OrderBody(msgspec.Struct, omit_defaults=True):
    """An order as the API takes it."""

    card: str
    side: str
    price: str
    quantity: int = 1
    time_in_force: str = "gtc"


def body_of(command: Command) -> OrderBody:
    """A command that places an order, as a body.

    Raises:
        TypeError: it is a cancel.
    """
    if not isinstance(command, PlaceOrder):
        raise TypeError("this flow has cancels, which are no bodies of POST /orders")
    return OrderBody(
        command.card,
        command.side.value,
        price_text(command.price_cents),
        command.quantity,
        command.time_in_force.value,
    )


def access_tokens(secret: str, count: int = TOKENS) -> list[str]:
    """Access tokens of the traders 1 to `count`."""
    return [tokens.issue_token(secret, trader_id, "trader", TOKEN_SECONDS) for trader_id in range(1, count + 1)]


def post(path: str, body: bytes, token: str, *, headers: str = "") -> bytes:
    """A whole request. `headers`: more of them, each with its line end."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n{headers}"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def single_orders(options: Options, secret: str, count: int, *, headers: str = "") -> list[bytes]:
    """`POST /orders` for so many commands of the flow, by many traders."""
    known = access_tokens(secret)
    commands: Iterable[Command] = FLOWS[options.flow](options.seed, count)
    return [
        post("/orders", msgspec.json.encode(body_of(one)), known[one.trader_id % len(known)], headers=headers)
        for one in commands
    ]


def batch_body(commands: Sequence[Command]) -> bytes:
    """The body of `POST /orders/batch`."""
    return msgspec.json.encode({"orders": [body_of(command) for command in commands]})
