"""Every error that tcgx raises on purpose; the API turns them into HTTP in one table (api/problems.py)."""


def reason(error: BaseException) -> str:
    """The text of an error; its kind where it has none, as a timeout has."""
    return str(error) or type(error).__name__


class TcgxError(Exception):
    """Base of all errors of this project."""


class SettingError(TcgxError):
    """A setting has a value that cannot work; the message names it."""


class StartError(TcgxError):
    """A service cannot start; the message says what is missing and what to do."""


class Unavailable(TcgxError):
    """A server did not answer: what was asked may or may not have happened (HTTP 503)."""


class Overloaded(TcgxError):
    """More waits than may wait; nothing was accepted (HTTP 503 with Retry-After)."""


class LogGap(TcgxError):
    """Acknowledged commands are missing from a card's log; matching it stops until a person looks."""


class ClientOrderIdConflict(TcgxError):
    """The trader used this client_order_id on this card before, for an order with other contents (HTTP 409)."""

    def __init__(self, client_order_id: str, order_id: str) -> None:
        super().__init__(f"client_order_id {client_order_id!r} already names order {order_id} with other contents")
        self.client_order_id = client_order_id
        self.order_id = order_id


class HistoryConflict(TcgxError):
    """Log and archive do not belong together; orders are refused until a person has looked (HTTP 503)."""
