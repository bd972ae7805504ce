"""Request bodies: decoded in one go when they are right, explained field by field when they are not."""

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, TypeVar

import msgspec

from api.openapi.fields import described
from api.problems import AN_ARRAY, AN_OBJECT, VALUE_CHARACTERS_MAX, ApiError, FieldError, invalid
from core.model import (
    CLIENT_ORDER_ID_PATTERN,
    CLIENT_ORDER_ID_RULE,
    COMMANDS_MAX,
    PlaceOrder,
    Side,
    TimeInForce,
    price_text,
)
from core.settings import Settings
from exchange.tokens import TRADER_ID_MAX

T = TypeVar("T")

CLIENT_ORDER_ID = re.compile(CLIENT_ORDER_ID_PATTERN)
DECIMAL = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")
DIGITS_MAX = 12
CENT, ONE = Decimal("0.01"), Decimal(1)
TRADER_ID = re.compile(r"[0-9]{1,10}")
ERRORS_MAX = 100
"""How many errors of a body are told. Of a batch, each wrong order tells its first, and all together so many more:"""
BATCH_ERRORS_MAX = 1_000
SLICE_SECONDS = 0.002
"""How long a wrong batch is looked at before others are served."""
LARGE_BYTES = 16_384
"""One order that is larger, or a body that is wrong as a whole, is looked at in a thread: a megabyte takes 0.3 s."""
NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for a body that is wrong; the last for one that is nested too deeply."""
API_KEY_CHARACTERS_MAX = 200
PRICE = "Dollars with at most two decimals: a string, or a number."
NEW_CLIENT_ORDER_ID = (
    "Your own id of the order. Repeated within 24 h on the same card it gives the first order back, and a conflict if "
    "the contents differ."
)
_QUOTE = ord('"')
GTC = TimeInForce.GTC  # an attribute of an enum costs more than a comparison


class OrderBody(msgspec.Struct, forbid_unknown_fields=True):
    """An order to place."""

    card: Annotated[str, described("The card to trade.", name="Card")]
    side: Annotated[Side, described("The side of the order.")]
    price: Annotated[msgspec.Raw, described(PRICE, name="order_price")]
    quantity: Annotated[int | msgspec.UnsetType, described("How many of the card.", name="order_quantity")] = (
        msgspec.UNSET
    )
    client_order_id: Annotated[
        str | msgspec.UnsetType | None, described(NEW_CLIENT_ORDER_ID, name="client_order_id")
    ] = msgspec.UNSET
    time_in_force: Annotated[TimeInForce | msgspec.UnsetType, described("How long the order waits.", default="gtc")] = (
        msgspec.UNSET
    )


class BatchBody(msgspec.Struct, forbid_unknown_fields=True):
    """Orders to place. One that is wrong is refused in its place of the answer's `results`, and spoils no other."""

    orders: Annotated[list[OrderBody], described("The orders, in the order in which they are placed.", name="batch")]


class MixedBatchBody(msgspec.Struct, forbid_unknown_fields=True):
    """The same where one is not: each is then decoded on its own, so that it spoils no other."""

    orders: list[msgspec.Raw]


class TokenBody(msgspec.Struct, forbid_unknown_fields=True):
    """An API key to exchange for an access token."""

    trader_id: Annotated[int, described("The trader's number.", 1, minimum=1, maximum=TRADER_ID_MAX)]
    api_key: Annotated[str, described("The trader's API key.", "hYk2…", minLength=1, maxLength=API_KEY_CHARACTERS_MAX)]


class OrderDecoder:
    """Turns bodies into commands, by the rules of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._cards = frozenset(settings.cards)
        self._settings = settings
        self._decode = msgspec.json.Decoder(OrderBody).decode
        self._decode_batch = msgspec.json.Decoder(BatchBody).decode
        self._decode_mixed_batch = msgspec.json.Decoder(MixedBatchBody).decode
        self._prices = _spellings(settings.price_cents_min, settings.price_cents_max)
        self._explaining = asyncio.Lock()

    def place_order(self, body: bytes, trader_id: int, errors_max: int = ERRORS_MAX) -> PlaceOrder:
        """The order that a body asks for.

        Raises:
            ApiError: it is no JSON object, or breaks rules; every wrong field is named.
        """
        try:
            order = self._decode(body)
        except NOT_DECODED:
            return self._explained(body, trader_id, errors_max)
        commands = self._taken([order], body, trader_id)
        return commands[0] if commands else self._explained(body, trader_id, errors_max)

    async def apart(self, decode: Callable[..., T], body: bytes, *arguments: Any) -> T:
        """What a decoder makes of a body. Where that may take long, others are served meanwhile; one such body waits
        for another."""
        if len(body) <= LARGE_BYTES:
            return decode(body, *arguments)
        async with self._explaining:
            return await asyncio.to_thread(decode, body, *arguments)

    async def place_orders(self, body: bytes, trader_id: int) -> list[PlaceOrder | ApiError]:
        """The orders that the body of `POST /orders/batch` asks for, or what is wrong with each: as many as it has.

        A batch that is wrong takes long to look at: others are served in between, and one such batch waits for another.

        Raises:
            ApiError: the body is no JSON object with `orders` alone, or has none or more than `COMMANDS_MAX`.
        """
        try:
            orders = self._decode_batch(body).orders
        except NOT_DECODED:
            orders = []
        commands = self._taken(orders, body, trader_id, names=1) if 1 <= len(orders) <= COMMANDS_MAX else None
        if commands:
            return list(commands)
        async with self._explaining:
            raws = self._raws(body)
            whole = len(body) > LARGE_BYTES and not _is_sure(body, raws)
            found = await asyncio.to_thread(_orders_of, body, raws) if whole else _orders_of(body, raws)
            return await self._one_by_one(found, trader_id)

    def _taken(self, orders: Sequence[OrderBody], body: bytes, trader_id: int, *, names: int = 0) -> list[PlaceOrder]:
        """The commands of a body that is right, every order of it; otherwise none, and the slow ways say why.

        A field that is given twice, of which the decoder keeps the last, shows in the quotes of the body: there are
        more than those of each name (`names` around the orders) and each text that was kept. Nor is a body taken if an
        escape could hide a quote.
        """
        if b"\\" in body:
            return []
        prices, cards, quantity_max = self._prices, self._cards, self._settings.max_quantity
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
            if price_cents is None or order.card not in cards or not 1 <= quantity <= quantity_max:
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
                )
            )
        return commands if body.count(b'"') == 2 * quoted else []

    def _raws(self, body: bytes) -> list[msgspec.Raw]:
        """The orders of a batch, none of them decoded yet; empty if the body is wrong."""
        try:
            body.decode()
            return self._decode_mixed_batch(body).orders
        except NOT_DECODED:
            return []

    async def _one_by_one(
        self, orders: Sequence[msgspec.Raw] | Sequence[Any], trader_id: int
    ) -> list[PlaceOrder | ApiError]:
        """The slow way for a batch: each order on its own."""
        outcomes: list[PlaceOrder | ApiError] = []
        errors_left = BATCH_ERRORS_MAX
        until = time.perf_counter() + SLICE_SECONDS
        for order in orders:
            errors_max = max(1, min(ERRORS_MAX, errors_left))
            try:
                if isinstance(order, msgspec.Raw):
                    body = bytes(order)
                    if len(body) <= LARGE_BYTES:
                        outcomes.append(self.place_order(body, trader_id, errors_max))
                    else:
                        outcomes.append(await asyncio.to_thread(self.place_order, body, trader_id, errors_max))
                else:
                    outcomes.append(self._checked(_object(order), trader_id, errors_max))
            except ApiError as error:
                errors_left -= len(error.problem.errors)
                outcomes.append(error.with_traceback(None))  # which would keep all that was decoded
            if time.perf_counter() > until:
                await asyncio.sleep(0)
                until = time.perf_counter() + SLICE_SECONDS
        return outcomes

    def _explained(self, body: bytes, trader_id: int, errors_max: int = ERRORS_MAX) -> PlaceOrder:
        """The slow way: every rule, one by one."""
        return self._checked(fields_of(body), trader_id, errors_max)

    def _checked(self, pairs: list[tuple[str, Any]], trader_id: int, errors_max: int) -> PlaceOrder:
        checks: dict[str, Callable[[Any], Any]] = {
            "card": self._card,
            "side": _one_of("invalid_side", tuple(Side)),
            "price": self._price,
            "quantity": self._quantity,
            "client_order_id": _client_order_id,
            "time_in_force": _one_of("invalid_time_in_force", tuple(TimeInForce)),
        }
        values, errors = checked_fields(pairs, checks, required=("card", "side", "price"), errors_max=errors_max)
        if errors:
            raise invalid(errors)
        return PlaceOrder(
            trader_id=trader_id,
            card=values["card"],
            side=Side(values["side"]),
            price_cents=values["price"],
            quantity=values.get("quantity", 1),
            time_in_force=TimeInForce(values.get("time_in_force", "gtc")),
            client_order_id=values.get("client_order_id"),
        )

    def _card(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self._cards:
            raise _Wrong("unknown_card", "must be one of " + ", ".join(self._settings.cards))
        return value

    def _price(self, value: Any) -> int:
        low, high = self._settings.price_cents_min, self._settings.price_cents_max
        rule = f"must be a decimal from {price_text(low)} to {price_text(high)} with at most two decimals"
        price = _decimal(value, CENT)
        if price is None or not low <= price * 100 <= high:
            raise _Wrong("invalid_price", rule)
        return int(price * 100)

    def _quantity(self, value: Any) -> int:
        rule = f"a whole number from 1 to {self._settings.max_quantity}"
        if isinstance(value, str):
            raise _Wrong("invalid_quantity", f"must be a number, not a string: {rule}")
        number = _decimal(value, ONE)
        if number is None or not 1 <= number <= self._settings.max_quantity:
            raise _Wrong("invalid_quantity", f"must be {rule}")
        return int(number)


class _Wrong(Exception):
    """A value breaks the rule of its field; a verdict within this file, never an error that leaves it."""

    def __init__(self, code: str, rule: str) -> None:
        super().__init__(rule)
        self.code = code
        self.rule = rule


def _is_sure(body: bytes, raws: Sequence[msgspec.Raw]) -> bool:
    """Whether nothing speaks against the orders that were found in the body of a batch."""
    return 1 <= len(raws) <= COMMANDS_MAX and body.count(b'"orders"') == 1 and b"\\" not in body


def _orders_of(body: bytes, raws: list[msgspec.Raw]) -> Sequence[msgspec.Raw] | Sequence[Any]:
    """The orders of a batch: `raws` where nothing speaks against them, else as the explaining decoder reads them. Where
    the two decoders disagree, that one is right: it says what is wrong.

    Raises:
        ApiError: the body is wrong as a whole.
    """
    if _is_sure(body, raws):
        return raws

    def orders(value: Any) -> list[Any]:
        if not isinstance(value, list) or isinstance(value, _Fields) or not 1 <= len(value) <= COMMANDS_MAX:
            raise _Wrong("invalid_orders", f"must be a list of 1 to {COMMANDS_MAX} orders")
        return value

    values, errors = checked_fields(fields_of(body), {"orders": orders}, required=("orders",))
    if errors:
        raise invalid(errors)
    found: list[Any] = values["orders"]
    return raws if len(raws) == len(found) else found


def token_body(body: bytes) -> TokenBody:
    """The body of `POST /auth/token`.

    Raises:
        ApiError: it is no JSON object, or breaks rules; every wrong field is named.
    """
    checks: dict[str, Callable[[Any], Any]] = {"trader_id": _trader_id, "api_key": _api_key}
    values, errors = checked_fields(fields_of(body), checks, required=("trader_id", "api_key"))
    if errors:
        raise invalid(errors)
    return TokenBody(trader_id=values["trader_id"], api_key=values["api_key"])


def fields_of(body: bytes) -> list[tuple[str, Any]]:
    """The fields of a JSON object in order, duplicates included; numbers with a point as decimals.

    Raises:
        ApiError: it is not JSON, or not an object.
    """
    if not body.strip():
        raise ApiError(422, "invalid_json", "Invalid JSON", "the body is empty: send a JSON object")
    try:
        # Decoded here: json.loads would guess UTF-16 and UTF-32, and let lone surrogates pass.
        parsed = json.loads(
            body.decode(), object_pairs_hook=_fields, parse_float=_real, parse_int=_integer, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise ApiError(422, "invalid_json", "Invalid JSON", f"the body is not JSON: {str(error)[:200]}") from None
    return _object(parsed)


def _object(parsed: Any) -> list[tuple[str, Any]]:
    """The fields of what was decoded.

    Raises:
        ApiError: it is not an object.
    """
    if not isinstance(parsed, _Fields):
        raise ApiError(422, "invalid_body", "Invalid body", "the body must be a JSON object")
    return list(parsed)


def checked_fields(
    pairs: list[tuple[str, Any]],
    checks: dict[str, Callable[[Any], Any]],
    *,
    required: Sequence[str],
    errors_max: int = ERRORS_MAX,
) -> tuple[dict[str, Any], list[FieldError]]:
    """Values by field, and every rule that is broken, in the order of the body; of very many, the first `errors_max`,
    and what is missing."""
    values: dict[str, Any] = {}
    errors: list[FieldError] = []
    seen: set[str] = set()
    for field, value in pairs:
        error = None
        if field in seen:
            error = FieldError(_printable(field), "duplicate_field", "must be given once")
        elif field not in checks:
            error = FieldError(_printable(field), "unknown_field", "is not a field of this request")
        else:
            try:
                values[field] = checks[field](value)
            except _Wrong as wrong:
                error = FieldError(field, wrong.code, wrong.rule, _echo(value))
        seen.add(field)
        if error is not None and len(errors) == errors_max:
            errors.append(FieldError("body", "too_many_errors", "has more that is wrong"))
            break
        if error is not None:
            errors.append(error)
    given = {field for field, _ in pairs}
    errors += [FieldError(field, "missing_field", "is required") for field in required if field not in given]
    return values, errors


class _Fields(list[tuple[str, Any]]):
    """The fields of an object, told apart from an array."""


def _fields(pairs: list[tuple[str, Any]]) -> _Fields:
    """A function of Python, where another thread may go on; the type alone would hold all of them up to the end."""
    return _Fields(pairs)


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < 20 else Decimal(digits)


def _real(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"the exponent of {text[:VALUE_CHARACTERS_MAX]} is too large") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _decimal(value: Any, unit: Decimal) -> Decimal | None:
    """A JSON number or a string of plain digits as that many units; None if it is neither, or no whole number of
    units. Exact: arithmetic rounds to 28 digits and overflows, so it comes after these bounds."""
    if isinstance(value, str) and not DECIMAL.fullmatch(value):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    number = Decimal(value)
    if number.adjusted() >= DIGITS_MAX:
        return None
    rounded = number.quantize(unit)
    return rounded if rounded == number else None


def _one_of(code: str, allowed: Sequence[str]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise _Wrong(code, "must be one of " + ", ".join(allowed))
        return value

    return check


def _client_order_id(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not CLIENT_ORDER_ID.fullmatch(value):
        raise _Wrong("invalid_client_order_id", CLIENT_ORDER_ID_RULE)
    return value


def _trader_id(value: Any) -> int:
    """Also as text: it is copied from files and shells, where everything is."""
    if isinstance(value, str):
        number: Any = int(value) if TRADER_ID.fullmatch(value) else None
    else:
        number = _decimal(value, ONE)
    if number is None or not 1 <= number <= TRADER_ID_MAX:
        raise _Wrong("invalid_trader_id", f"must be a whole number from 1 to {TRADER_ID_MAX}")
    return int(number)


def _api_key(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= API_KEY_CHARACTERS_MAX:
        raise _Wrong("invalid_api_key", f"must be a string of 1 to {API_KEY_CHARACTERS_MAX} characters")
    return value


def _echo(value: Any) -> Any:
    """A wrong value as it is repeated in the problem: short; numbers with a point as exact texts."""
    if isinstance(value, Decimal):
        text = str(value)
        return value if len(text) <= VALUE_CHARACTERS_MAX else text[:VALUE_CHARACTERS_MAX]
    if isinstance(value, str):
        return _printable(value)
    if value is None or isinstance(value, bool | int):
        return value
    return AN_OBJECT if isinstance(value, _Fields) else AN_ARRAY


def _printable(text: str) -> str:
    """A text as it can be repeated: short, and a lone surrogate, which has no UTF-8, as its escape."""
    return text[:VALUE_CHARACTERS_MAX].encode(errors="backslashreplace").decode()


def _spellings(low: int, high: int) -> dict[bytes, int]:
    """Every usual spelling of every price as it stands in JSON: 5.5, 5.50, "5.5", "5.50", and 5 for 5.00."""
    spellings: dict[bytes, int] = {}
    for cents in range(low, high + 1):
        text = price_text(cents)
        for spelling in {text, text[:-1] if text.endswith("0") else text, text[:-3] if text.endswith("00") else text}:
            spellings[spelling.encode()] = cents
            spellings[f'"{spelling}"'.encode()] = cents
    return spellings
