"""Encoding and decoding of log entries, order lines and trade lines.

docs/data.md describes the formats. Lua writes and reads log entries in lua/parts/log.lua, order lines in
lua/parts/order_line.lua, and trade lines in lua/match.lua.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from core.model import (
    SEQUENCE_MAX,
    CancelOrder,
    Command,
    Order,
    PlaceOrder,
    Reason,
    ReplaceOrder,
    Side,
    Status,
    TimeInForce,
    Trade,
)

COMMAND_CODES = {
    (side, time_in_force): letter.lower() if side is Side.SELL else letter
    for side in Side
    for time_in_force, letter in ((TimeInForce.GTC, "G"), (TimeInForce.IOC, "I"), (TimeInForce.FOK, "F"))
}
POST_ONLY, REPLACE, REPLACE_POST_ONLY = "P", "R", "Q"
TERMS_BY_CODE = {letter: terms for terms, letter in COMMAND_CODES.items()} | {
    letter.lower() if side is Side.SELL else letter: (side, TimeInForce.GTC)
    for side in Side
    for letter in (POST_ONLY, REPLACE, REPLACE_POST_ONLY)
}
POST_ONLY_CODES = frozenset("PpQq")
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

CHAIN_COLUMNS = ("post_only", "replaces", "carried_quantity", "reason", "replaced_by")
"""The columns that `archive_lines` adds to lines of post-only orders and of those that a replace concerns."""

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
    """The kind of an order as the letter of the log; a capital letter is a buy."""
    if command.post_only or _replaces(command):
        letter = POST_ONLY if not _replaces(command) else REPLACE_POST_ONLY if command.post_only else REPLACE
        return letter if command.side is BUY else letter.lower()
    if command.time_in_force is GTC:
        return "G" if command.side is BUY else "g"
    return COMMAND_CODES[command.side, command.time_in_force]


def _replaces(command: PlaceOrder | Order) -> int:
    """The sequence of the order that a command or an order replaces; 0 for none."""
    return command.replaces or 0 if isinstance(command, Order | ReplaceOrder) else 0


def order_terms(command: PlaceOrder | Order) -> str:
    """The terms in which commands with the same client_order_id must agree: code, price and quantity.

    The terms of a replace also name its order; a quantity that it keeps is 0.
    """
    keeps_quantity = isinstance(command, ReplaceOrder) and command.keeps_quantity
    quantity = 0 if keeps_quantity else command.quantity
    return f"{command_code(command)}{_replaces(command) or ''},{command.price_cents},{quantity}"


class Columns(NamedTuple):
    """The columns of a log entry.

    `kinds` has one letter per command; the next columns are JSON arrays. `clients` is empty if no command has an id,
    `targets` if none replaces an order. `runs` has alternately a trader id and the number of successive orders of this
    trader. The id of cancels is empty.
    """

    kinds: str
    traders: str
    prices: str
    quantities: str
    clients: str
    runs: list[str | int]
    targets: str = ""

    def arguments(self) -> list[str | int]:
        """The columns as arguments of lua/append.lua."""
        kinds, traders, prices, quantities, clients, runs, targets = self
        return [kinds, traders, prices, quantities, clients, targets, len(runs) // 2, *runs]


def encode(commands: Sequence[Command]) -> Columns:
    """Encodes commands as the columns of a log entry.

    Batches of orders alone, none post-only, are the common case. The code for them does not test each command's type,
    which halves the time.
    """
    orders = [command for command in commands if type(command) is PlaceOrder and not command.post_only]
    if len(orders) < len(commands):
        return _encode_mixed(commands)
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


def _encode_mixed(commands: Sequence[Command]) -> Columns:
    targets = [command.replaces if isinstance(command, ReplaceOrder) else 0 for command in commands]
    clients = [(isinstance(command, PlaceOrder) and command.client_order_id) or 0 for command in commands]
    return Columns(
        "".join([command_code(command) if isinstance(command, PlaceOrder) else CANCEL for command in commands]),
        _json([str(command.trader_id) for command in commands]),
        _json([command.price_cents if isinstance(command, PlaceOrder) else command.sequence for command in commands]),
        _json([_quantity(command) for command in commands]),
        _json(clients) if any(clients) else "",
        _runs([str(command.trader_id) if isinstance(command, PlaceOrder) else "" for command in commands]),
        _json(targets) if any(targets) else "",
    )


def _quantity(command: Command) -> int:
    """The quantity of a command in the log: 0 of a cancel, negative where a replace keeps what its order has."""
    if isinstance(command, CancelOrder):
        return 0
    return -command.quantity if isinstance(command, ReplaceOrder) and command.keeps_quantity else command.quantity


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
    columns += [json.loads(fields[name]) if name in fields else [0] * len(kinds) for name in (b"clients", b"targets")]
    return [_command(card, values) for values in zip(kinds, *columns, strict=True)]


def _command(card: str, values: Sequence[int | str]) -> Command:
    letter, trader_id, price_cents, quantity, client, target = values
    if letter == CANCEL:
        return CancelOrder(trader_id=int(trader_id), card=card, sequence=int(price_cents))
    side, time_in_force = TERMS_BY_CODE[str(letter)]
    terms: dict[str, Any] = {
        "trader_id": int(trader_id),
        "card": card,
        "side": side,
        "price_cents": int(price_cents),
        "quantity": abs(int(quantity)),
        "time_in_force": time_in_force,
        "client_order_id": client if isinstance(client, str) else None,
        "post_only": letter in POST_ONLY_CODES,
    }
    if target:
        return ReplaceOrder(**terms, replaces=int(target), keeps_quantity=int(quantity) < 0)
    return PlaceOrder(**terms)


def order(card: str, values: Sequence[str], *, accepted: bool = False) -> Order:
    """Decodes an order from the values of its line.

    The line of an open order has the columns up to accepted_at, and filled_quantity if the order has fills. The line
    of a completed order has all columns. `accepted`: the order is not matched yet.
    """
    filled = int(values[8]) if len(values) > 8 else 0
    if len(values) > 9:
        status, closed_at = values[9], values[10] if len(values) > 10 else None
    else:
        status, closed_at = "partially_filled" if filled else "open", None
    if "/" in values[5] or "/" in status:
        return _chained_order(card, values, filled, "accepted" if accepted else status, closed_at)
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
        status=Status.ACCEPTED if accepted else Status(status),
        closed_at=closed_at,
    )


def _chained_order(card: str, values: Sequence[str], filled: int, status_text: str, closed_at: str | None) -> Order:
    """Decodes a post-only order, or one that a replace concerns: see lua/parts/order_line.lua."""
    time_in_force, post_only, replaces, carried = _parts(values[5], 4)
    status, reason, replaced_by = _parts(status_text, 3)
    return Order(
        card=card,
        sequence=int(values[0]),
        trader_id=int(values[1]),
        side=Side(values[2]),
        price_cents=int(values[3]),
        quantity=int(values[4]),
        time_in_force=TimeInForce(time_in_force),
        client_order_id=values[6] or None,
        accepted_at=values[7],
        filled_quantity=filled,
        status=Status(status),
        closed_at=closed_at,
        post_only=bool(post_only),
        replaces=int(replaces) if replaces else None,
        carried_quantity=int(carried or 0),
        reason=Reason(reason) if reason else None,
        replaced_by=int(replaced_by) if replaced_by else None,
    )


def _parts(text: str, count: int) -> list[str]:
    parts = text.split("/")
    return parts + [""] * (count - len(parts))


def archive_lines(lines: bytes) -> tuple[bytes, bytes]:
    """The order lines of events as rows in the text format of COPY: plain ones, and those with `CHAIN_COLUMNS`."""
    if b"/" not in lines:
        return lines, b""
    plain, chained = [], []
    for line in lines.splitlines(keepends=True):
        if b"/" in line:
            chained.append(_archive_line(line.decode()))
        else:
            plain.append(line)
    return b"".join(plain), "".join(chained).encode()


def _archive_line(line: str) -> str:
    values = line.rstrip("\n").split(",")
    values[5], post_only, replaces, carried = _parts(values[5], 4)
    values[9], reason, replaced_by = _parts(values[9], 3)
    carried = "" if carried == "0" else carried
    return ",".join([*values, "true" if post_only else "", replaces, carried, reason, replaced_by]) + "\n"


def _time_in_force_text(order: Order) -> str:
    if not order.post_only and order.replaces is None:
        return order.time_in_force.value
    chain = ("", "") if order.replaces is None else (str(order.replaces), str(order.carried_quantity))
    return "/".join([order.time_in_force.value, "p" if order.post_only else "", *chain])


def _status_text(order: Order) -> str:
    if order.reason is None:
        return order.status.value
    return f"{order.status.value}/{order.reason.value}/{order.replaced_by or ''}"


def order_line(order: Order) -> str:
    """The line of a completed order, as lua/match.lua writes it."""
    values = [
        sequence_text(order.sequence),
        order.trader_id,
        order.side.value,
        order.price_cents,
        order.quantity,
        _time_in_force_text(order),
        order.client_order_id or "",
        order.accepted_at,
        order.filled_quantity,
        _status_text(order),
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
