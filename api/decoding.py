"""Request bodies. A valid body is decoded in one step; an invalid one becomes a draft for core/rules.py."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, TypeVar

import msgspec

from api.openapi.fields import OrderId, field_meta
from core.errors import VALUE_CHARACTERS_MAX, Kind, RequestError
from core.model import (
    CANCEL_AFTER_SECONDS_MAX,
    COMMANDS_MAX,
    TRADER_ID_MAX,
    Change,
    PlaceOrder,
    Side,
    TimeInForce,
    price_text,
)
from core.rules import (
    API_KEY_CHARACTERS_MAX,
    CLIENT_ORDER_ID,
    ERRORS_MAX,
    ITEM_COUNT_RULE,
    LOGIN_CODE_CHARACTERS_MAX,
    ORDER_ID_CHARACTERS_MAX,
    BatchItem,
    CancelItem,
    Draft,
    Fields,
    OrderRules,
    ReplaceItem,
    RuleViolation,
    check_cancel_after,
    check_credentials,
    check_fields,
    check_login_code,
)
from core.settings import Settings

T = TypeVar("T")

BATCH_ERRORS_MAX = 1_000
"""Violations that the refusals of one batch list together; beyond it each wrong order lists one."""
SLICE_SECONDS = 0.0005
"""Time for which the slow decoding of a batch keeps the event loop before other tasks run."""
LARGE_BYTES = 16_384
"""A larger order, or a larger body that is wrong as a whole, is decoded in a thread: a megabyte takes 0.3 s."""
TOKEN_BYTES_MAX = 4_096
"""The largest body of `POST /auth/token`, which needs no token."""
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""The errors of msgspec for an invalid body; `RecursionError` is for one that is nested too deeply."""
PRICE = "Dollars with at most two decimals: a string, or a number."
NEW_CLIENT_ORDER_ID = (
    "Your own id of the order. Repeated within 24 h on the same card it gives the first order back, and a conflict if "
    "the contents differ."
)
POST_ONLY = (
    "Whether the order may only rest. Where it would trade at once, it expires with `would_cross`. Only with gtc."
)
_QUOTE = ord('"')
_ACTION = b'"action"'
GTC = TimeInForce.GTC  # an attribute of an enum costs more than a comparison


class OrderBody(msgspec.Struct, forbid_unknown_fields=True):
    """An order to place."""

    card: Annotated[str, field_meta("The card to trade.", name="Card")]
    side: Annotated[Side, field_meta("The side of the order.")]
    price: Annotated[msgspec.Raw, field_meta(PRICE, name="order_price")]
    quantity: Annotated[int | msgspec.UnsetType, field_meta("How many of the card.", name="order_quantity")] = (
        msgspec.UNSET
    )
    client_order_id: Annotated[
        str | msgspec.UnsetType | None, field_meta(NEW_CLIENT_ORDER_ID, name="client_order_id")
    ] = msgspec.UNSET
    time_in_force: Annotated[
        TimeInForce | msgspec.UnsetType, field_meta("How long the order waits.", default="gtc")
    ] = msgspec.UNSET
    post_only: Annotated[bool | msgspec.UnsetType, field_meta(POST_ONLY, False, default=False)] = msgspec.UNSET


class PlaceBody(OrderBody, forbid_unknown_fields=True, tag_field="action", tag="place"):
    """An order to place, as an item of a batch. Without `action` it is the same."""


class ChangeBody(msgspec.Struct, forbid_unknown_fields=True):
    """What to change of an order: its price, its quantity, or both. What is not given stays as it is."""

    price: Annotated[msgspec.Raw | msgspec.UnsetType, field_meta(PRICE, name="order_price")] = msgspec.UNSET
    quantity: Annotated[
        int | msgspec.UnsetType,
        field_meta("The new total, which counts what is filled already.", name="new_quantity"),
    ] = msgspec.UNSET
    post_only: Annotated[bool | msgspec.UnsetType, field_meta(POST_ONLY, False)] = msgspec.UNSET
    client_order_id: Annotated[
        str | msgspec.UnsetType | None, field_meta(NEW_CLIENT_ORDER_ID, name="client_order_id")
    ] = msgspec.UNSET


class ReplaceBody(ChangeBody, forbid_unknown_fields=True, kw_only=True, tag_field="action", tag="replace"):
    """An order to replace, as an item of a batch; see `PATCH /orders/{order_id}`."""

    order_id: OrderId


class CancelBody(msgspec.Struct, forbid_unknown_fields=True, tag_field="action", tag="cancel"):
    """An order to cancel, as an item of a batch; see `DELETE /orders/{order_id}`."""

    order_id: OrderId


class BatchBody(msgspec.Struct, forbid_unknown_fields=True):
    """What to do, in this order: place orders, and with `action` also cancel and replace them. An item that is wrong is
    refused in its place of the answer's `results`, and spoils no other."""

    orders: Annotated[list[OrderBody], field_meta("The items, in the order in which they are done.", name="batch")]


class RawBatchBody(msgspec.Struct, forbid_unknown_fields=True):
    """A batch whose items are not decoded yet. Each is decoded on its own, so that a wrong one spoils no other."""

    orders: list[msgspec.Raw]


class TokenBody(msgspec.Struct, forbid_unknown_fields=True):
    """An API key to exchange for an access token."""

    trader_id: Annotated[int, field_meta("The trader's number.", 1, minimum=1, maximum=TRADER_ID_MAX)]
    api_key: Annotated[str, field_meta("The trader's API key.", "hYk2…", minLength=1, maxLength=API_KEY_CHARACTERS_MAX)]


class LoginCodeBody(msgspec.Struct, forbid_unknown_fields=True):
    """A login code to exchange for an access token."""

    login_code: Annotated[
        str, field_meta("The code of a link.", "0zXw…", minLength=1, maxLength=LOGIN_CODE_CHARACTERS_MAX)
    ]


class CancelAfterBody(msgspec.Struct, forbid_unknown_fields=True):
    """A time after which the caller's orders are canceled."""

    seconds: Annotated[int, field_meta("From now on; 0: never.", 60, minimum=0, maximum=CANCEL_AFTER_SECONDS_MAX)]


class Turn:
    """The time for which one request may keep the event loop, `SLICE_SECONDS`."""

    def __init__(self) -> None:
        self._ends_at = time.perf_counter() + SLICE_SECONDS

    def is_over(self) -> bool:
        """Whether other tasks have to run."""
        return time.perf_counter() > self._ends_at

    async def next(self) -> None:
        """Lets other tasks run, and begins another turn."""
        await asyncio.sleep(0)
        self._ends_at = time.perf_counter() + SLICE_SECONDS


class InvalidBody(RequestError):
    """A body is no JSON object."""

    kind = Kind.INVALID

    def __init__(self, code: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.title = title


class OrderDecoder:
    """Decodes bodies into commands by the rules of an exchange with these settings."""

    def __init__(self, settings: Settings) -> None:
        self._rules = OrderRules(settings)
        self._cards = frozenset(settings.cards)
        self._quantity_max = settings.max_quantity
        self._decode = msgspec.json.Decoder(OrderBody).decode
        self._decode_batch = msgspec.json.Decoder(BatchBody).decode
        self._decode_raw_batch = msgspec.json.Decoder(RawBatchBody).decode
        self._decode_change = msgspec.json.Decoder(ChangeBody).decode
        self._decode_item = msgspec.json.Decoder(PlaceBody | CancelBody | ReplaceBody).decode
        self._prices = _price_spellings(settings.price_cents_min, settings.price_cents_max)
        self._slow_decoding = asyncio.Lock()
        self._large_decoding = asyncio.Lock()

    def decode_order(self, body: bytes, trader_id: int, errors_max: int = ERRORS_MAX) -> PlaceOrder:
        """Decodes the order of a body.

        Raises:
            InvalidBody: the body is no JSON object.
            InvalidRequest: fields break rules; the error names every one, up to `errors_max`.
        """
        commands = self._decode_valid_order(body, trader_id)
        return commands[0] if commands else self._decode_with_errors(body, trader_id, errors_max)

    def decode_change(self, body: bytes) -> Change:
        """Decodes the body of `PATCH /orders/{order_id}`.

        Raises:
            InvalidBody: the body is no JSON object.
            InvalidRequest: fields break rules; the error names every one.
        """
        try:
            change = self._fast_change(self._decode_change(body), body, quotes=0)
        except DECODE_ERRORS:
            change = None
        return change or self._rules.check_change(draft_of(body))

    async def offload(self, decode: Callable[..., T], body: bytes, *arguments: Any) -> T:
        """Runs a decoder, for a large body in a thread so that other requests are served meanwhile.

        One large body waits for another: together they would take the processor from everybody else.
        """
        if len(body) <= LARGE_BYTES:
            return decode(body, *arguments)
        async with self._slow_decoding:
            return await asyncio.to_thread(decode, body, *arguments)

    async def decode_orders(
        self, body: bytes, trader_id: int, check_room: Callable[[], None] = lambda: None
    ) -> list[BatchItem | RequestError]:
        """Decodes the body of `POST /orders/batch`: an item or an error for each of its orders.

        Large batches that arrive together are decoded one in each turn of the event loop, so that other requests are
        served between them. The slow decoding of an invalid batch yields to other requests, and one such batch waits
        for another.

        `check_room` raises if the batch would be refused whatever it has. It is called before the work, since a refusal
        must cost less than an append: first, and again when the turn of a large batch has come.

        Raises:
            InvalidBody: the body is no JSON object.
            InvalidRequest: the body has a field beside `orders`, or not 1 to `COMMANDS_MAX` orders.
        """
        check_room()
        if len(body) <= LARGE_BYTES:
            items = self._decode_valid_batch(body, trader_id)
        else:
            async with self._large_decoding:
                await asyncio.sleep(0)
                check_room()
                items = self._decode_valid_batch(body, trader_id)
        if items:
            return list(items)
        async with self._slow_decoding:
            raws = self._split_batch(body)
            whole = len(body) > LARGE_BYTES and not _is_unambiguous(body, raws)
            found = await asyncio.to_thread(_batch_orders, body, raws) if whole else _batch_orders(body, raws)
            return await self._decode_each(found, trader_id)

    def _decode_valid_order(self, body: bytes, trader_id: int) -> list[PlaceOrder]:
        """The command of an order; empty if it is invalid.

        The error of msgspec ends here. As the context of the error that explains it, it would form a cycle with its
        frames, and collecting the cycles of a batch takes 50 ms.
        """
        try:
            return self._decode_fast([self._decode(body)], body, trader_id)
        except DECODE_ERRORS:
            return []

    def _decode_valid_batch(self, body: bytes, trader_id: int) -> Sequence[BatchItem]:
        """The items of a batch; empty if anything in it is invalid."""
        if _ACTION in body:
            return self._decode_valid_items(body, trader_id)
        try:
            orders = self._decode_batch(body).orders
        except DECODE_ERRORS:
            return []
        return self._decode_fast(orders, body, trader_id, names=1) if 1 <= len(orders) <= COMMANDS_MAX else []

    def _decode_valid_items(self, body: bytes, trader_id: int) -> list[BatchItem]:
        """The items of a batch that also cancels or replaces orders; empty if anything in it is invalid."""
        raws = self._split_batch(body)
        if not _is_unambiguous(body, raws):
            return []
        items: list[BatchItem] = []
        for raw in raws:
            item = self._decode_valid_item(bytes(raw), trader_id)
            if item is None:
                return []
            items.append(item)
        return items

    def _decode_valid_item(self, body: bytes, trader_id: int) -> BatchItem | None:
        """An item of a batch; None if it is invalid."""
        if _ACTION not in body:
            orders = self._decode_valid_order(body, trader_id)
            return orders[0] if orders else None
        try:
            decoded = self._decode_item(body)
        except DECODE_ERRORS:
            return None
        if isinstance(decoded, PlaceBody):
            orders = self._decode_fast([decoded], body, trader_id, names=2)
            return orders[0] if orders else None
        if not 1 <= len(decoded.order_id) <= ORDER_ID_CHARACTERS_MAX:
            return None
        if isinstance(decoded, CancelBody):
            return CancelItem(decoded.order_id) if body.count(b'"') == 8 and b"\\" not in body else None
        change = self._fast_change(decoded, body, quotes=4)
        return None if change is None else ReplaceItem(decoded.order_id, change)

    def _fast_change(self, asked: ChangeBody, body: bytes, *, quotes: int) -> Change | None:
        """Checks a decoded change as `_decode_fast` checks orders. `quotes`: names and texts that the body also has."""
        unset = msgspec.UNSET
        price_cents = quantity = client_order_id = None
        if asked.price is not unset:
            price = bytes(asked.price)
            price_cents = self._prices.get(price)
            quotes += 1 + (price[0] == _QUOTE)
        if asked.quantity is not unset:
            quantity = asked.quantity if 1 <= asked.quantity <= self._quantity_max else None
            quotes += 1
        if asked.client_order_id is not unset:
            client_order_id = asked.client_order_id
            quotes += 1 if client_order_id is None else 2
        is_wrong = (
            (price_cents is None) != (asked.price is unset)
            or (quantity is None) != (asked.quantity is unset)
            or (price_cents is None and quantity is None)
            or (client_order_id is not None and not CLIENT_ORDER_ID.fullmatch(client_order_id))
        )
        post_only = None if asked.post_only is unset else asked.post_only
        quotes += post_only is not None
        if is_wrong or body.count(b'"') != 2 * quotes or b"\\" in body:
            return None
        return Change(price_cents=price_cents, quantity=quantity, post_only=post_only, client_order_id=client_order_id)

    def _decode_fast(
        self, orders: Sequence[OrderBody], body: bytes, trader_id: int, *, names: int = 0
    ) -> list[PlaceOrder]:
        """Checks decoded orders and returns their commands; empty if any order is invalid. The slow way explains why.

        msgspec keeps the last of a field that is given twice. The quotes of the body reveal it: they are more than
        those of the known names (`names` of them around the orders) and of the kept texts. An escape could hide a
        quote, so a body with a backslash goes the slow way. The function is long and flat because every order passes
        through it.
        """
        if b"\\" in body:
            return []
        prices, cards, quantity_max = self._prices, self._cards, self._quantity_max
        unset = msgspec.UNSET
        commands = []
        quoted = names + 5 * len(orders)  # the names card, side and price; the texts of card and side
        for order in orders:
            price = bytes(order.price)
            price_cents = prices.get(price)
            quantity = order.quantity
            client_order_id = order.client_order_id
            time_in_force = order.time_in_force
            quoted += price[0] == _QUOTE
            if quantity is unset:
                quantity = 1
            else:
                quoted += 1
            if client_order_id is unset:
                client_order_id = None
            elif client_order_id is None:
                quoted += 1
            elif CLIENT_ORDER_ID.fullmatch(client_order_id):
                quoted += 2
            else:
                return []
            if time_in_force is unset:
                time_in_force = GTC
            else:
                quoted += 2
            post_only = order.post_only is True
            quoted += order.post_only is not unset
            if (
                price_cents is None
                or order.card not in cards
                or not 1 <= quantity <= quantity_max
                or (post_only and time_in_force is not GTC)
            ):
                return []
            commands.append(
                PlaceOrder(
                    trader_id=trader_id,
                    card=order.card,
                    side=order.side,
                    price_cents=price_cents,
                    quantity=quantity,
                    time_in_force=time_in_force,
                    client_order_id=client_order_id,
                    post_only=post_only,
                )
            )
        return commands if body.count(b'"') == 2 * quoted else []

    def _split_batch(self, body: bytes) -> list[msgspec.Raw]:
        """Returns the orders of a batch without decoding them; empty if the body is invalid."""
        try:
            body.decode()
            return self._decode_raw_batch(body).orders
        except DECODE_ERRORS:
            return []

    async def _decode_each(
        self, orders: Sequence[msgspec.Raw] | Sequence[Any], trader_id: int
    ) -> list[BatchItem | RequestError]:
        """The slow way for a batch: decodes each item on its own."""
        outcomes: list[BatchItem | RequestError] = []
        errors_left = BATCH_ERRORS_MAX
        turn = Turn()
        for order in orders:
            errors_max = max(1, min(ERRORS_MAX, errors_left))
            try:
                if isinstance(order, msgspec.Raw):
                    body = bytes(order)
                    if len(body) <= LARGE_BYTES:
                        outcomes.append(self._decode_one(body, trader_id, errors_max))
                    else:
                        outcomes.append(await asyncio.to_thread(self._decode_one, body, trader_id, errors_max))
                else:
                    outcomes.append(self._rules.check_item(_object_fields(order), trader_id, errors_max=errors_max))
            except RequestError as error:
                errors_left -= len(error.violations)
                outcomes.append(error.with_traceback(None))  # the traceback would keep all decoded values alive
            if turn.is_over():
                await turn.next()
        return outcomes

    def _decode_one(self, body: bytes, trader_id: int, errors_max: int) -> BatchItem:
        """Decodes an item of a batch.

        Raises:
            InvalidBody, InvalidRequest: see `decode_order`.
        """
        item = self._decode_valid_item(body, trader_id)
        return item or self._rules.check_item(draft_of(body), trader_id, errors_max=errors_max)

    def _decode_with_errors(self, body: bytes, trader_id: int, errors_max: int = ERRORS_MAX) -> PlaceOrder:
        """The slow way for an order: checks every rule, so that the error can name every wrong field."""
        return self._rules.check(draft_of(body), trader_id, errors_max=errors_max)


def _is_unambiguous(body: bytes, raws: Sequence[msgspec.Raw]) -> bool:
    """Whether msgspec's reading of a batch is the only possible one: one field `orders`, and no escapes."""
    return 1 <= len(raws) <= COMMANDS_MAX and body.count(b'"orders"') == 1 and b"\\" not in body


def _batch_orders(body: bytes, raws: list[msgspec.Raw]) -> Sequence[msgspec.Raw] | Sequence[Any]:
    """Returns the orders of a batch: `raws` if they are unambiguous, else as the json module reads them.

    If the two decoders disagree, the json module decides, because its reading explains the errors.

    Raises:
        InvalidBody, InvalidRequest: the body is invalid as a whole.
    """
    if _is_unambiguous(body, raws):
        return raws

    def orders(value: Any) -> list[Any]:
        if not isinstance(value, list) or isinstance(value, Fields) or not 1 <= len(value) <= COMMANDS_MAX:
            raise RuleViolation("invalid_orders", ITEM_COUNT_RULE)
        return value

    found: list[Any] = check_fields(draft_of(body), {"orders": orders}, required=("orders",))["orders"]
    return raws if len(raws) == len(found) else found


def decode_token_body(body: bytes) -> TokenBody:
    """Decodes the body of `POST /auth/token`.

    Raises:
        InvalidBody: the body is no JSON object.
        InvalidRequest: fields break rules; the error names every one.
    """
    trader_id, api_key = check_credentials(draft_of(body))
    return TokenBody(trader_id=trader_id, api_key=api_key)


def decode_login_code_body(body: bytes) -> str:
    """Decodes the body of `POST /auth/login-code`. Returns its code.

    Raises:
        InvalidBody: the body is no JSON object.
        InvalidRequest: fields break rules; the error names every one.
    """
    return check_login_code(draft_of(body))


def decode_cancel_after_body(body: bytes) -> int:
    """Decodes the body of `PUT /orders/cancel-after`. Returns its seconds.

    Raises:
        InvalidBody: the body is no JSON object.
        InvalidRequest: fields break rules; the error names every one.
    """
    return check_cancel_after(draft_of(body))


def draft_of(body: bytes) -> Draft:
    """Reads the fields of a JSON object in order, duplicates included; numbers with a point become decimals.

    Raises:
        InvalidBody: the body is not JSON, or no object.
    """
    if not body.strip():
        raise InvalidBody("invalid_json", "Invalid JSON", "the body is empty: send a JSON object")
    try:
        # json.loads would guess UTF-16 and UTF-32 from bytes, and let lone surrogates pass.
        parsed = json.loads(
            body.decode(), object_pairs_hook=_fields, parse_float=_real, parse_int=_integer, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise InvalidBody("invalid_json", "Invalid JSON", f"the body is not JSON: {str(error)[:200]}") from None
    return _object_fields(parsed)


def _object_fields(parsed: Any) -> Draft:
    """Returns the fields of a decoded JSON value.

    Raises:
        InvalidBody: the value is no object.
    """
    if not isinstance(parsed, Fields):
        raise InvalidBody("invalid_body", "Invalid body", "the body must be a JSON object")
    return list(parsed)


def _fields(pairs: list[tuple[str, Any]]) -> Fields:
    """Makes the fields of an object. A Python function lets other threads run; the bare type would hold the GIL."""
    return Fields(pairs)


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < 20 else Decimal(digits)


def _real(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"the exponent of {text[:VALUE_CHARACTERS_MAX]} is too large") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _price_spellings(low: int, high: int) -> dict[bytes, int]:
    """Cents by every usual spelling of a price in JSON: 5.5, 5.50, "5.5", "5.50", and 5 for 5.00."""
    spellings: dict[bytes, int] = {}
    for cents in range(low, high + 1):
        text = price_text(cents)
        for spelling in {text, text[:-1] if text.endswith("0") else text, text[:-3] if text.endswith("00") else text}:
            spellings[spelling.encode()] = cents
            spellings[f'"{spelling}"'.encode()] = cents
    return spellings
