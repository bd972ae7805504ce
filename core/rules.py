"""The rules of orders and credentials, for all doors.

A door builds a draft from a message: names with values, which are texts, whole numbers or decimals. The rules check it
field by field and report all violations.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Any

from core.errors import AN_ARRAY, AN_OBJECT, VALUE_CHARACTERS_MAX, InvalidRequest, Violation
from core.model import (
    CANCEL_AFTER_SECONDS_MAX,
    CLIENT_ORDER_ID_PATTERN,
    CLIENT_ORDER_ID_RULE,
    TRADER_ID_MAX,
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
TRADER_ID = re.compile(r"[0-9]{1,10}")
API_KEY_CHARACTERS_MAX = 200
ERRORS_MAX = 100
"""The largest number of violations that are reported for one draft."""


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
        }

    def check(self, draft: Draft, trader_id: int, *, errors_max: int = ERRORS_MAX) -> PlaceOrder:
        """The command to place the order of a draft.

        Raises:
            InvalidRequest: the draft breaks rules; the error names every wrong field.
        """
        values = check_fields(draft, self._checks, required=("card", "side", "price"), errors_max=errors_max)
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


def check_credentials(draft: Draft) -> tuple[int, str]:
    """Trader id and API key of a draft.

    Raises:
        InvalidRequest: the draft breaks rules; the error names every wrong field.
    """
    values = check_fields(draft, {"trader_id": _trader_id, "api_key": _api_key}, required=("trader_id", "api_key"))
    return values["trader_id"], values["api_key"]


def check_cancel_after(draft: Draft) -> int:
    """The seconds of a draft, after which a trader's orders are canceled; 0 for never.

    Raises:
        InvalidRequest: the draft breaks rules; the error names every wrong field.
    """
    seconds: int = check_fields(draft, {"seconds": _cancel_after_seconds}, required=("seconds",))["seconds"]
    return seconds


def check_fields(
    draft: Draft, checks: Mapping[str, Check], *, required: Sequence[str], errors_max: int = ERRORS_MAX
) -> dict[str, Any]:
    """The converted values by field.

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
