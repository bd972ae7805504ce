"""Every error that tcgx raises on purpose. A door turns its kind into a status of its own (HTTP: api/problems.py)."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec

VALUE_CHARACTERS_MAX = 80
"""How much of a wrong value is repeated to its sender."""
AN_ARRAY, AN_OBJECT = "an array", "an object"
"""What stands for a value that is too complex to repeat."""


class Kind(StrEnum):
    """What an error means to a caller, whatever the door."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class Violation(msgspec.Struct, frozen=True):
    """One rule that one field of a request breaks. `rule` follows the field's name; `value` is unset where the field
    is absent."""

    field: str
    code: str
    rule: str
    value: Any = msgspec.UNSET

    @property
    def sentence(self) -> str:
        """Field, rule and value in words."""
        text = f"{self.field} {self.rule}"
        return text if self.value is msgspec.UNSET else f"{text}, got {shown(self.value)}"


def shown(value: Any) -> str:
    """A value of a request as it may be repeated to its sender: bounded in length."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value).encode(errors="backslashreplace").decode()  # a lone surrogate has no UTF-8
    text = text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 3] + "..."
    return f"'{text}'" if isinstance(value, str) and value not in (AN_ARRAY, AN_OBJECT) else text


def reason(error: BaseException) -> str:
    """The text of an error; its type where it has none, as a timeout has."""
    return str(error) or type(error).__name__


class TcgxError(Exception):
    """Base of all errors of this project: the kind, a stable code, a title, and what a caller is told."""

    kind = Kind.INTERNAL
    code = "internal_error"
    title = "Internal error"
    violations: Sequence[Violation] = ()

    @property
    def detail(self) -> str:
        """What a caller is told. The text of the error itself is for the log."""
        return "the server failed; see its log"

    @property
    def _told(self) -> str:
        """The text before its first colon: addresses and causes stand behind that."""
        return str(self).partition(":")[0]


class SettingError(TcgxError):
    """A setting has a value that cannot work; the message names it."""


class StartError(TcgxError):
    """A service cannot start; the message says what is missing and what to do."""


class Refused(TcgxError):
    """A request that cannot be done. The text is for its caller."""

    @property
    def detail(self) -> str:
        """The text."""
        return str(self)


class InvalidRequest(Refused):
    """Fields of a request break rules; the code is that of the first."""

    kind = Kind.INVALID
    title = "Invalid request"

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(violation.sentence for violation in violations))
        self.violations = violations
        self.code = violations[0].code


class Unauthenticated(Refused):
    """The caller has no valid access token or API key."""

    kind = Kind.UNAUTHENTICATED
    title = "Unauthorized"

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class OrderNotFound(Refused):
    """An order that does not exist or is another trader's: one answer for both."""

    kind = Kind.NOT_FOUND
    code = "order_not_found"
    title = "Order not found"

    def __init__(self, name: str, hint: str = "") -> None:
        super().__init__(f"there is no order {shown(name)} of yours{hint}")


class UnknownCard(Refused):
    """A card that is not traded."""

    kind = Kind.NOT_FOUND
    code = "unknown_card"
    title = "Unknown card"

    def __init__(self, card: str, cards: Sequence[str]) -> None:
        super().__init__(f"there is no card {shown(card)}; there are {', '.join(cards)}")


class OrderCompleted(Refused):
    """An order that is to be canceled is completed already."""

    kind = Kind.CONFLICT
    code = "order_completed"
    title = "Order is completed"

    def __init__(self, order_id: str, status: str) -> None:
        super().__init__(f"order {order_id} is {status} already")


class ClientOrderIdConflict(Refused):
    """The trader used this client_order_id on this card before, for an order with other contents."""

    kind = Kind.CONFLICT
    code = "client_order_id_conflict"
    title = "Conflict"

    def __init__(self, client_order_id: str, order_id: str) -> None:
        super().__init__(f"client_order_id {client_order_id!r} already names order {order_id} with other contents")
        self.client_order_id = client_order_id
        self.order_id = order_id


class Overloaded(TcgxError):
    """More waits than may wait; nothing was accepted."""

    kind = Kind.OVERLOADED
    code = "overloaded"
    title = "Overloaded"

    @property
    def detail(self) -> str:
        """What waits."""
        return f"nothing was accepted: {self._told}"


class Unavailable(TcgxError):
    """A server did not answer: what was asked may or may not have happened."""

    kind = Kind.UNAVAILABLE
    code = "unavailable"
    title = "Unavailable"

    @property
    def detail(self) -> str:
        """What did not answer, and that the request may be repeated."""
        return f"{self._told}; repeat the request, an order with the same client_order_id"


class LogGap(Unavailable):
    """Acknowledged commands are missing from a card's log; matching it stops until a person looks."""


class HistoryConflict(TcgxError):
    """Log and archive do not belong together; orders are refused until a person has looked."""

    kind = Kind.UNAVAILABLE
    code = "history_conflict"
    title = "History conflict"

    @property
    def detail(self) -> str:
        """That an operator has to look."""
        return "nothing was accepted: log and archive do not belong together, and an operator has to look"
