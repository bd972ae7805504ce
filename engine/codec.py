"""Encoding and decoding of log entries, order lines and trade lines.

docs/data.md describes the formats. Lua writes and reads log entries in lua/parts/log.lua, order lines in
lua/parts/order_line.lua, and trade lines in lua/match.lua.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from core.model import SEQUENCE_MAX, CancelOrder, Command, Order, PlaceOrder, Side, Status, TimeInForce, Trade

COMMAND_CODES = {
    (side, time_in_force): letter.lower() if side is Side.SELL else letter
    for side in Side
    for time_in_force, letter in ((TimeInForce.GTC, "G"), (TimeInForce.IOC, "I"), (TimeInForce.FOK, "F"))
}
TERMS_BY_CODE = {letter: terms for terms, letter in COMMAND_CODES.items()}
CANCEL = "C"
BUY, GTC = Side.BUY, TimeInForce.GTC  # cached: reading an attribute of an enum costs more than the rest of a line

ORDER_COLUMNS = (
    "sequence",
    "trader_id",
    "side",
    "price_cents",
    "quantity",
    "time_in_force",
    "client_order_id",
    "accepted_at",
    "filled_quantity",
    "status",
    "closed_at",
)
"""The columns of a completed order's line, in the order that `COPY` takes."""

TRADE_COLUMNS = (
    "trade_number",
    "taker_sequence",
    "maker_sequence",
    "taker_trader_id",
    "maker_trader_id",
    "price_cents",
    "quantity",
    "taker_side",
    "executed_at",
)
"""The columns of a trade line, in the order that `COPY` takes."""

SEQUENCE_DIGITS = len(str(SEQUENCE_MAX))


def sequence_text(sequence: int) -> str:
    """A sequence as 12 digits, as in the members of books, fields of hashes, and lines."""
    return str(sequence).zfill(SEQUENCE_DIGITS)


def command_code(command: PlaceOrder | Order) -> str:
    """Side and time in force as the letter of the log; a capital letter is a buy."""
    if command.time_in_force is GTC:
        return "G" if command.side is BUY else "g"
    return COMMAND_CODES[command.side, command.time_in_force]


def order_terms(command: PlaceOrder | Order) -> str:
    """The terms in which orders with the same client_order_id must agree: code, price and quantity."""
    return f"{command_code(command)},{command.price_cents},{command.quantity}"


class Columns(NamedTuple):
    """The columns of a log entry.

    `kinds` has one letter per command; the next four are JSON arrays. `clients` is empty if no command has an id.
    `runs` has alternately a trader id and the number of successive orders of this trader. The id of cancels is empty.
    """

    kinds: str
    traders: str
    prices: str
    quantities: str
    clients: str
    runs: list[str | int]

    def arguments(self) -> list[str | int]:
        """The columns as arguments of lua/append.lua."""
        kinds, traders, prices, quantities, clients, runs = self
        return [kinds, traders, prices, quantities, clients, len(runs) // 2, *runs]


def encode(commands: Sequence[Command]) -> Columns:
    """Encodes commands as the columns of a log entry.

    Batches without cancels are the common case. The code for them does not test each command's type, which halves the
    time.
    """
    orders = [command for command in commands if type(command) is PlaceOrder]
    if len(orders) < len(commands):
        return _encode_with_cancels(commands)
    clients = [order.client_order_id or 0 for order in orders]
    traders = [str(order.trader_id) for order in orders]
    return Columns(
        "".join(
            [
                ("G" if order.side is BUY else "g")
                if order.time_in_force is GTC
                else COMMAND_CODES[order.side, order.time_in_force]
                for order in orders
            ]
        ),
        _json(traders),
        _json([order.price_cents for order in orders]),
        _json([order.quantity for order in orders]),
        _json(clients) if any(clients) else "",
        _runs(traders),
    )


def _encode_with_cancels(commands: Sequence[Command]) -> Columns:
    clients = [(isinstance(command, PlaceOrder) and command.client_order_id) or 0 for command in commands]
    return Columns(
        "".join([command_code(command) if isinstance(command, PlaceOrder) else CANCEL for command in commands]),
        _json([str(command.trader_id) for command in commands]),
        _json([command.price_cents if isinstance(command, PlaceOrder) else command.sequence for command in commands]),
        _json([command.quantity if isinstance(command, PlaceOrder) else 0 for command in commands]),
        _json(clients) if any(clients) else "",
        _runs([str(command.trader_id) if isinstance(command, PlaceOrder) else "" for command in commands]),
    )


def _runs(traders: list[str]) -> list[str | int]:
    if traders.count(traders[0]) == len(traders):
        return [traders[0], len(traders)]
    return [part for trader, run in itertools.groupby(traders) for part in (trader, sum(1 for _ in run))]


def _json(values: Sequence[object]) -> str:
    return msgspec.json.encode(values).decode()


def decode(card: str, fields: Mapping[bytes, bytes]) -> list[Command]:
    """Decodes the commands of a log entry from its fields."""
    kinds = fields[b"kinds"].decode()
    columns = [json.loads(fields[name]) for name in (b"traders", b"prices", b"quantities")]
    clients = json.loads(fields[b"clients"]) if b"clients" in fields else [0] * len(kinds)
    return [_command(card, values) for values in zip(kinds, *columns, clients, strict=True)]


def _command(card: str, values: Sequence[int | str]) -> Command:
    letter, trader_id, price_cents, quantity, client = values
    if letter == CANCEL:
        return CancelOrder(trader_id=int(trader_id), card=card, sequence=int(price_cents))
    side, time_in_force = TERMS_BY_CODE[str(letter)]
    return PlaceOrder(
        trader_id=int(trader_id),
        card=card,
        side=side,
        price_cents=int(price_cents),
        quantity=int(quantity),
        time_in_force=time_in_force,
        client_order_id=client if isinstance(client, str) else None,
    )


def order(card: str, values: Sequence[str], *, accepted: bool = False) -> Order:
    """Decodes an order from the values of its line.

    The line of an open order has the columns up to accepted_at, and filled_quantity if the order has fills. The line
    of a completed order has all columns. `accepted`: the order is not matched yet.
    """
    filled = int(values[8]) if len(values) > 8 else 0
    if len(values) > 9:
        status, closed_at = Status(values[9]), values[10] if len(values) > 10 else None
    else:
        status, closed_at = Status.PARTIALLY_FILLED if filled else Status.OPEN, None
    return Order(
        card=card,
        sequence=int(values[0]),
        trader_id=int(values[1]),
        side=Side(values[2]),
        price_cents=int(values[3]),
        quantity=int(values[4]),
        time_in_force=TimeInForce(values[5]),
        client_order_id=values[6] or None,
        accepted_at=values[7],
        filled_quantity=filled,
        status=Status.ACCEPTED if accepted else status,
        closed_at=closed_at,
    )


def order_line(order: Order) -> str:
    """The line of a completed order, as lua/match.lua writes it."""
    values = [
        sequence_text(order.sequence),
        order.trader_id,
        order.side.value,
        order.price_cents,
        order.quantity,
        order.time_in_force.value,
        order.client_order_id or "",
        order.accepted_at,
        order.filled_quantity,
        order.status.value,
        order.closed_at or "",
    ]
    return ",".join(map(str, values))


def orders(card: str, lines: bytes) -> list[Order]:
    """Decodes the order lines of an event."""
    return [order(card, line.split(",")) for line in lines.decode().splitlines()]


def trade(card: str, line: str) -> Trade:
    """Decodes a trade line."""
    values = line.split(",")
    numbers = [int(value) for value in values[:7]]
    return Trade(
        card=card,
        number=numbers[0],
        taker_sequence=numbers[1],
        maker_sequence=numbers[2],
        taker_trader_id=numbers[3],
        maker_trader_id=numbers[4],
        price_cents=numbers[5],
        quantity=numbers[6],
        taker_side=Side(values[7]),
        executed_at=values[8],
    )


def trade_line(trade: Trade) -> str:
    """The line of a trade, as lua/match.lua writes it."""
    values = [
        *(sequence_text(number) for number in (trade.number, trade.taker_sequence, trade.maker_sequence)),
        trade.taker_trader_id,
        trade.maker_trader_id,
        trade.price_cents,
        trade.quantity,
        trade.taker_side.value,
        trade.executed_at,
    ]
    return ",".join(map(str, values))


def trades(card: str, lines: bytes) -> list[Trade]:
    """Decodes the trade lines of an event."""
    return [trade(card, line) for line in lines.decode().splitlines()]
