"""All errors that tcgx raises on purpose. A door maps the kind of an error to a status (HTTP: api/problems.py)."""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec

VALUE_CHARACTERS_MAX = 80
"""An error message repeats at most this many characters of a wrong value."""
AN_ARRAY, AN_OBJECT = "an array", "an object"
"""An error message shows these texts in place of an array or an object."""


class Kind(StrEnum):
    """The category of an error. Each door maps it to a status of its protocol."""

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
    """One rule that one field of a request breaks.

    `rule` completes a sentence that begins with the field's name. `value` is unset if the field is absent.
    """

    field: str
    code: str
    rule: str
    value: Any = msgspec.UNSET

    @property
    def sentence(self) -> str:
        """Field, rule and value as a sentence."""
        text = f"{self.field} {self.rule}"
        return text if self.value is msgspec.UNSET else f"{text}, got {display_text(self.value)}"


def display_text(value: Any) -> str:
    """A value of a request as text for an error message, bounded in length."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value).encode(errors="backslashreplace").decode()  # a lone surrogate has no UTF-8
    text = text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 3] + "..."
    return f"'{text}'" if isinstance(value, str) and value not in (AN_ARRAY, AN_OBJECT) else text


def reason(error: BaseException) -> str:
    """The text of an error. An error without a text, such as a timeout, gives the name of its type."""
    return str(error) or type(error).__name__


class TcgxError(Exception):
    """Base of all errors of this project: a kind, a stable code, a title, and a detail for the caller."""

    kind = Kind.INTERNAL
    code = "internal_error"
    title = "Internal error"
    violations: Sequence[Violation] = ()

    @property
    def detail(self) -> str:
        """The message for the caller. The text of the error itself goes to the log only."""
        return "the server failed; see its log"

    @property
    def _summary(self) -> str:
        """The text up to its first colon. Addresses and causes follow the colon and stay private."""
        return str(self).partition(":")[0]


class SettingError(TcgxError):
    """A setting has an invalid value. The message names the setting."""


class StartError(TcgxError):
    """A service cannot start. The message names the missing part and the remedy."""


class RequestError(TcgxError):
    """A request that the exchange refuses. The text is for the caller."""

    @property
    def detail(self) -> str:
        """The text of the error."""
        return str(self)


class InvalidRequest(RequestError):
    """Fields of a request break rules. The error has the code of the first violation."""

    kind = Kind.INVALID
    title = "Invalid request"

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(violation.sentence for violation in violations))
        self.violations = violations
        self.code = violations[0].code


class Unauthenticated(RequestError):
    """The caller has no valid access token or API key."""

    kind = Kind.UNAUTHENTICATED
    title = "Unauthorized"

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class OrderNotFound(RequestError):
    """The order does not exist or belongs to another trader. The error does not tell which."""

    kind = Kind.NOT_FOUND
    code = "order_not_found"
    title = "Order not found"

    def __init__(self, name: str, hint: str = "") -> None:
        super().__init__(f"there is no order {display_text(name)} of yours{hint}")


class Forbidden(RequestError):
    """The caller is no admin."""

    kind = Kind.FORBIDDEN
    code = "forbidden"
    title = "Forbidden"

    def __init__(self) -> None:
        super().__init__("only an admin may do this")


class TraderNotFound(RequestError):
    """The trader does not exist."""

    kind = Kind.NOT_FOUND
    code = "trader_not_found"
    title = "Trader not found"

    def __init__(self, trader_id: object) -> None:
        super().__init__(f"there is no trader {display_text(trader_id)}")


class KeyNotFound(RequestError):
    """The API key does not exist, or is revoked where a valid one is needed."""

    kind = Kind.NOT_FOUND
    code = "key_not_found"
    title = "API key not found"

    def __init__(self, key_id: str) -> None:
        super().__init__(f"there is no valid API key with the key_id {display_text(key_id)}")


class TooManyKeys(RequestError):
    """The trader has as many API keys as it may have. One of them has to be revoked first."""

    kind = Kind.CONFLICT
    code = "too_many_keys"
    title = "Too many API keys"

    def __init__(self, trader_id: int, keys_max: int) -> None:
        super().__init__(f"trader {trader_id} has {keys_max} valid API keys, and may not have more: revoke one first")


class UnknownCard(RequestError):
    """The card is not traded."""

    kind = Kind.NOT_FOUND
    code = "unknown_card"
    title = "Unknown card"

    def __init__(self, card: str, cards: Sequence[str]) -> None:
        super().__init__(f"there is no card {display_text(card)}; there are {', '.join(cards)}")


class OrderCompleted(RequestError):
    """The order is already completed, so it cannot be canceled."""

    kind = Kind.CONFLICT
    code = "order_completed"
    title = "Order is completed"

    def __init__(self, order_id: str, status: str) -> None:
        super().__init__(f"order {order_id} is {status} already")


class ClientOrderIdConflict(RequestError):
    """The trader has already used this client_order_id on this card for an order with other terms."""

    kind = Kind.CONFLICT
    code = "client_order_id_conflict"
    title = "Conflict"

    def __init__(self, client_order_id: str, order_id: str) -> None:
        super().__init__(f"client_order_id {client_order_id!r} already names order {order_id} with other contents")
        self.client_order_id = client_order_id
        self.order_id = order_id


class TooManyOpenOrders(RequestError):
    """The trader has as many open orders on the card as it may have. One of them has to be completed or canceled."""

    kind = Kind.CONFLICT
    code = "too_many_open_orders"
    title = "Too many open orders"

    def __init__(self, card: str, open_orders_max: int) -> None:
        super().__init__(f"nothing was accepted: you may have {open_orders_max} open orders on {card}")


class RateLimited(RequestError):
    """The caller asks more often than it may. Nothing was accepted.

    `limit`: how much may be asked at once. `retry_seconds`: the time until one more may be asked. `reset_seconds`: the
    time until `limit` may be asked again, if nothing is asked until then.
    """

    kind = Kind.RATE_LIMITED
    code = "rate_limited"
    title = "Too many requests"

    def __init__(self, rule: str, *, limit: int, retry_seconds: float, reset_seconds: float) -> None:
        self.limit = limit
        self.retry_after = max(1, math.ceil(retry_seconds))
        self.reset = max(1, math.ceil(reset_seconds))
        super().__init__(f"nothing was accepted: {rule}; repeat it after {self.retry_after} s")


class Overloaded(TcgxError):
    """A queue is full; the command was not accepted."""

    kind = Kind.OVERLOADED
    code = "overloaded"
    title = "Overloaded"

    @property
    def detail(self) -> str:
        """The queue that is full."""
        return f"nothing was accepted: {self._summary}"


class TooManyExports(RequestError):
    """As many exports go on in this process as may."""

    kind = Kind.OVERLOADED
    code = "too_many_exports"
    title = "Too many exports"

    def __init__(self, exports_max: int) -> None:
        super().__init__(f"{exports_max} exports go on in this API process, and no more may: repeat the request later")


class Unavailable(TcgxError):
    """A server did not answer. The operation may or may not have taken effect."""

    kind = Kind.UNAVAILABLE
    code = "unavailable"
    title = "Unavailable"

    @property
    def detail(self) -> str:
        """The server that did not answer, and the advice to repeat the request."""
        return f"{self._summary}; repeat the request, an order with the same client_order_id"


class CardHalted(TcgxError):
    """An admin has halted the card: new orders are refused, and cancels are taken."""

    kind = Kind.UNAVAILABLE
    code = "card_halted"
    title = "Card is halted"

    def __init__(self, card: str, halted: str) -> None:
        super().__init__(f"{card} is halted")
        since, _, why = halted.partition(" ")
        self._detail = (
            f"nothing was accepted: {card} is halted since {since}{': ' if why else ''}{why}; cancels are taken"
        )

    @property
    def detail(self) -> str:
        """The time and the reason of the halt."""
        return self._detail


class LogGap(Unavailable):
    """The log of a card lacks acknowledged commands. Matching of the card stops until an operator acts."""


class HistoryConflict(TcgxError):
    """Log and archive have different histories. Orders are refused until an operator acts."""

    kind = Kind.UNAVAILABLE
    code = "history_conflict"
    title = "History conflict"

    @property
    def detail(self) -> str:
        """The message that an operator has to act."""
        return "nothing was accepted: log and archive do not belong together, and an operator has to look"
