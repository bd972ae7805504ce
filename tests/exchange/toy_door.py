"""A door of lines of text, which shows what a door has to be: a mapping onto `Exchange`, without a rule of its own.

`place card=pikachu side=buy price=5.00`, `cancel pikachu-1`, `list`, `list status=open`; behind an access token and a
blank. Answers are `ok` or the code of what is wrong, and a line for each order.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from core.errors import TcgxError
from core.model import Accepted, Order, order_id
from exchange.service import Exchange, OrderFilter
from exchange.tokens import Caller
from exchange.wiring import Services


class ToyDoor:
    """Answers lines on one exchange."""

    def __init__(self, services: Services) -> None:
        self._exchange: Exchange = services.exchange
        self._authenticate = services.authenticator.authenticate
        self._calls: dict[str, Callable[[Caller, list[str]], Awaitable[str]]] = {
            "place": self._place,
            "cancel": self._cancel,
            "list": self._list,
        }

    async def answer(self, line: str) -> str:
        """The answer to a line."""
        token, call, *words = line.split()
        try:
            return await self._calls[call](self._authenticate(f"Bearer {token}".encode()), words)
        except TcgxError as error:
            return "\n".join([error.code, *(violation.sentence for violation in error.violations)])

    async def _place(self, caller: Caller, words: list[str]) -> str:
        draft = [_field(word) for word in words]
        command = self._exchange.rules.check(draft, caller.trader_id)
        placed = await self._exchange.place(command)
        return f"ok {order_id(command.card, placed.sequence) if isinstance(placed, Accepted) else placed.order_id}"

    async def _cancel(self, caller: Caller, words: list[str]) -> str:
        order, _ = await self._exchange.cancel(caller, words[0], seconds=5)
        return f"ok {_text(order)}"

    async def _list(self, caller: Caller, words: list[str]) -> str:
        which = msgspec.convert(dict(_field(word) for word in words), OrderFilter)
        orders, _ = await self._exchange.orders(caller, which)
        return "\n".join(["ok", *map(_text, orders)])


def _field(word: str) -> tuple[str, Any]:
    name, _, value = word.partition("=")
    return name, int(value) if name == "quantity" and value.isdigit() else value


def _text(order: Order) -> str:
    filled = f"{order.filled_quantity}/{order.quantity}"
    return f"{order.order_id} {order.side.value} {order.price_cents} {filled} {order.status}"
