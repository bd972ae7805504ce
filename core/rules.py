"""The rules of orders and credentials, for all doors.

A door builds a draft from a message: names with values, which are texts, whole numbers or decimals. The rules check it
field by field and report all violations.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Any

import msgspec

from core.errors import AN_ARRAY, AN_OBJECT, VALUE_CHARACTERS_MAX, InvalidRequest, Violation
from core.model import (
    CANCEL_AFTER_SECONDS_MAX,
    CLIENT_ORDER_ID_PATTERN,
    CLIENT_ORDER_ID_RULE,
    COMMANDS_MAX,
    TRADER_ID_MAX,
    Change,
    PlaceOrder,
    Side,
    TimeInForce,
    price_text,
)
from core.settings import Settings

Draft = Sequence[tuple[str, Any]]
"""Names and values of fields in the order of the request. A repeated name is listed each time."""

Check = Callable[[Any], Any]
"""Converts the value of a field.

Raises:
    RuleViolation: the value breaks the rule of the field.
"""

CLIENT_ORDER_ID = re.compile(CLIENT_ORDER_ID_PATTERN)
DECIMAL = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")
DIGITS_MAX = 12
CENT, ONE = Decimal("0.01"), Decimal(1)
CANCEL_AFTER_RULE = f"must be a whole number of seconds from 0 to {CANCEL_AFTER_SECONDS_MAX}"
ITEM_COUNT_RULE = f"must be a list of 1 to {COMMANDS_MAX} orders"
TRADER_ID = re.compile(r"[0-9]{1,10}")
API_KEY_CHARACTERS_MAX = 200
LOGIN_CODE_CHARACTERS_MAX = 100
ORDER_ID_CHARACTERS_MAX = 100
ERRORS_MAX = 100
"""The largest number of violations that are reported for one draft."""


ACTIONS = ("place", "cancel", "replace")
"""What an item of a batch may ask for."""


class CancelItem(msgspec.Struct, frozen=True, gc=False):
    """An item of a batch that cancels an order."""

    order_id: str


class ReplaceItem(msgspec.Struct, frozen=True, gc=False):
    """An item of a batch that replaces an order."""

    order_id: str
    change: Change


BatchItem = PlaceOrder | CancelItem | ReplaceItem


class Fields(list[tuple[str, Any]]):
    """The fields of an object within a draft. The type distinguishes an object from an array."""


class RuleViolation(Exception):
    """A value breaks the rule of its field. `check_fields` turns this error into a `Violation`."""

    def __init__(self, code: str, rule: str) -> None:
        super().__init__(rule)
        self.code = code
        self.rule = rule


class OrderRules:
    """The rules of orders. Cards, prices and quantities are bounded by the settings."""

    def __init__(self, settings: Settings) -> None:
        self._cards = frozenset(settings.cards)
        self._settings = settings
        self._checks: dict[str, Check] = {
            "card": self._card,
            "side": one_of("invalid_side", tuple(Side)),
            "price": self._price,
            "quantity": self._quantity,
            "client_order_id": _client_order_id,
            "time_in_force": one_of("invalid_time_in_force", tuple(TimeInForce)),
            "post_only": _flag,
        }
        self._change_checks = {
            field: self._checks[field] for field in ("price", "quantity", "post_only", "client_order_id")
        }

    def check(self, draft: Draft, trader_id: int, *, errors_max: int = ERRORS_MAX) -> PlaceOrder:
        """The command to place the order of a draft.

        Raises:
            InvalidRequest: the draft breaks rules; the error names every wrong field.
        """
        return self._order(draft, trader_id, self._checks, errors_max)

    def check_change(self, draft: Draft, *, errors_max: int = ERRORS_MAX) -> Change:
        """What a draft changes of an order.

        Raises:
            InvalidRequest: the draft breaks rules, or has neither price nor quantity.
        """
        return _change(check_fields(draft, self._change_checks, required=(), also=_needs_change, errors_max=errors_max))

    def check_item(self, draft: Draft, trader_id: int, *, errors_max: int = ERRORS_MAX) -> BatchItem:
        """The item of a batch. An item without `action` places an order.

        Raises:
            InvalidRequest: the draft breaks the rules of its action.
        """
        actions = [value for field, value in draft if field == "action"]
        action = actions[0] if actions else "place"
        own_checks: dict[str, Check] = {"action": one_of("invalid_action", ACTIONS)}
        if action == "cancel":
            checks = own_checks | {"order_id": _order_id}
            return CancelItem(check_fields(draft, checks, required=("order_id",), errors_max=errors_max)["order_id"])
        if action == "replace":
            checks = own_checks | {"order_id": _order_id} | self._change_checks
            values = check_fields(draft, checks, required=("order_id",), also=_needs_change, errors_max=errors_max)
            return ReplaceItem(values["order_id"], _change(values))
        return self._order(draft, trader_id, own_checks | self._checks if actions else self._checks, errors_max)

    def _order(self, draft: Draft, trader_id: int, checks: Mapping[str, Check], errors_max: int) -> PlaceOrder:
        values = check_fields(
            draft, checks, required=("card", "side", "price"), also=_rests_if_post_only, errors_max=errors_max
        )
        return PlaceOrder(
            trader_id=trader_id,
            card=values["card"],
            side=Side(values["side"]),
            price_cents=values["price"],
            quantity=values.get("quantity", 1),
            time_in_force=TimeInForce(values.get("time_in_force", "gtc")),
            client_order_id=values.get("client_order_id"),
            post_only=values.get("post_only", False),
        )

    def _card(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self._cards:
            raise RuleViolation("unknown_card", "must be one of " + ", ".join(self._settings.cards))
        return value

    def _price(self, value: Any) -> int:
        low, high = self._settings.price_cents_min, self._settings.price_cents_max
        rule = f"must be a decimal from {price_text(low)} to {price_text(high)} with at most two decimals"
        price = decimal(value, CENT)
        if price is None or not low <= price * 100 <= high:
            raise RuleViolation("invalid_price", rule)
        return int(price * 100)

    def _quantity(self, value: Any) -> int:
        rule = f"a whole number from 1 to {self._settings.max_quantity}"
        if isinstance(value, str):
            raise RuleViolation("invalid_quantity", f"must be a number, not a string: {rule}")
        number = decimal(value, ONE)
        if number is None or not 1 <= number <= self._settings.max_quantity:
            raise RuleViolation("invalid_quantity", f"must be {rule}")
        return int(number)


def check_item_count(count: int) -> None:
    """Checks the number of the items of a batch.

    Raises:
        InvalidRequest: it is not from 1 to `COMMANDS_MAX`.
    """
    if not 1 <= count <= COMMANDS_MAX:
        raise InvalidRequest([Violation("items", "invalid_orders", ITEM_COUNT_RULE, count)])


def check_credentials(draft: Draft) -> tuple[int, str]:
    """Trader id and API key of a draft.

    Raises:
        InvalidRequest: the draft breaks rules; the error names every wrong field.
    """
    values = check_fields(draft, {"trader_id": _trader_id, "api_key": _api_key}, required=("trader_id", "api_key"))
    return values["trader_id"], values["api_key"]


def check_login_code(draft: Draft) -> str:
    """The login code of a draft.

    Raises:
        InvalidRequest: the draft breaks rules; the error names every wrong field.
    """
    code: str = check_fields(draft, {"login_code": _login_code}, required=("login_code",))["login_code"]
    return code


def _change(values: Mapping[str, Any]) -> Change:
    return Change(
        price_cents=values.get("price"),
        quantity=values.get("quantity"),
        post_only=values.get("post_only"),
        client_order_id=values.get("client_order_id"),
    )


def _needs_change(_: Mapping[str, Any], seen: AbstractSet[str]) -> list[Violation]:
    if seen.isdisjoint(("price", "quantity")):
        return [Violation("price", "missing_field", "or quantity is required")]
    return []


def _rests_if_post_only(values: Mapping[str, Any], _: AbstractSet[str]) -> list[Violation]:
    time_in_force = values.get("time_in_force", "gtc")
    if values.get("post_only") and time_in_force != "gtc":
        return [Violation("post_only", "invalid_post_only", f"must be false with time_in_force {time_in_force}", True)]
    return []


def check_cancel_after(draft: Draft) -> int:
    """The seconds of a draft, after which a trader's orders are canceled; 0 for never.

    Raises:
        InvalidRequest: the draft breaks rules; the error names every wrong field.
    """
    seconds: int = check_fields(draft, {"seconds": _cancel_after_seconds}, required=("seconds",))["seconds"]
    return seconds


def check_fields(
    draft: Draft,
    checks: Mapping[str, Check],
    *,
    required: Sequence[str],
    also: Callable[[Mapping[str, Any], AbstractSet[str]], list[Violation]] = lambda _values, _seen: [],
    errors_max: int = ERRORS_MAX,
) -> dict[str, Any]:
    """The converted values by field. `also` checks the values that are right, and the names of all, together.

    Raises:
        InvalidRequest: a field breaks its rule, is unknown or repeated, or a required one is absent. The violations
            keep the order of the draft, at most `errors_max` of them; absent fields come last.
    """
    values: dict[str, Any] = {}
    errors: list[Violation] = []
    seen: set[str] = set()
    for field, value in draft:
        result = _check_field(field, value, checks, seen)
        seen.add(field)
        if not isinstance(result, Violation):
            values[field] = result
        elif len(errors) < errors_max:
            errors.append(result)
        else:
            errors.append(Violation("body", "too_many_errors", "has more that is wrong"))
            seen.update(field for field, _ in draft)
            break
    errors += also(values, seen)
    errors += [Violation(field, "missing_field", "is required") for field in required if field not in seen]
    if errors:
        raise InvalidRequest(errors)
    return values


def _check_field(field: str, value: Any, checks: Mapping[str, Check], seen: AbstractSet[str]) -> Any:
    """The converted value of a field, or the rule that it breaks."""
    if field in seen:
        return Violation(printable(field), "duplicate_field", "must be given once")
    if field not in checks:
        return Violation(printable(field), "unknown_field", "is not a field of this request")
    try:
        return checks[field](value)
    except RuleViolation as violation:
        return Violation(field, violation.code, violation.rule, _echo(value))


def decimal(value: Any, unit: Decimal) -> Decimal | None:
    """A number, or a text of plain digits, as a multiple of `unit`. None if the value is neither, or no multiple.

    The length is checked first: arithmetic of `Decimal` rounds to 28 digits and can overflow.
    """
    if isinstance(value, str) and not DECIMAL.fullmatch(value):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    number = Decimal(value)
    if not number.is_finite() or number.adjusted() >= DIGITS_MAX:
        return None
    rounded = number.quantize(unit)
    return rounded if rounded == number else None


def one_of(code: str, allowed: Sequence[str]) -> Check:
    """A check for a field that admits only these texts."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise RuleViolation(code, "must be one of " + ", ".join(allowed))
        return value

    return check


def _client_order_id(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not CLIENT_ORDER_ID.fullmatch(value):
        raise RuleViolation("invalid_client_order_id", CLIENT_ORDER_ID_RULE)
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise RuleViolation("invalid_post_only", "must be true or false")
    return value


def _order_id(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= ORDER_ID_CHARACTERS_MAX:
        raise RuleViolation("invalid_order_id", "must be an order_id of yours, like pikachu-1001")
    return value


def _trader_id(value: Any) -> int:
    """A text is admitted too, since users copy the id from files and shells."""
    if isinstance(value, str):
        number: Any = int(value) if TRADER_ID.fullmatch(value) else None
    else:
        number = decimal(value, ONE)
    if number is None or not 1 <= number <= TRADER_ID_MAX:
        raise RuleViolation("invalid_trader_id", f"must be a whole number from 1 to {TRADER_ID_MAX}")
    return int(number)


def _cancel_after_seconds(value: Any) -> int:
    number = None if isinstance(value, str) else decimal(value, ONE)
    if number is None or not 0 <= number <= CANCEL_AFTER_SECONDS_MAX:
        raise RuleViolation("invalid_seconds", CANCEL_AFTER_RULE)
    return int(number)


def _api_key(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= API_KEY_CHARACTERS_MAX:
        raise RuleViolation("invalid_api_key", f"must be a string of 1 to {API_KEY_CHARACTERS_MAX} characters")
    return value


def _login_code(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= LOGIN_CODE_CHARACTERS_MAX:
        raise RuleViolation("invalid_login_code", f"must be a string of 1 to {LOGIN_CODE_CHARACTERS_MAX} characters")
    return value


def _echo(value: Any) -> Any:
    """A wrong value in the form that a violation repeats: bounded in length, decimals exact."""
    if isinstance(value, Decimal):
        text = str(value)
        return value if len(text) <= VALUE_CHARACTERS_MAX else text[:VALUE_CHARACTERS_MAX]
    if isinstance(value, str):
        return printable(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    return AN_OBJECT if isinstance(value, Fields | Mapping) else AN_ARRAY


def printable(text: str) -> str:
    """A text that can be encoded as UTF-8, bounded in length. A lone surrogate becomes its escape."""
    return text[:VALUE_CHARACTERS_MAX].encode(errors="backslashreplace").decode()
