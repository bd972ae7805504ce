"""A door as the behaviours see it: calls with the names and texts of REST, whatever the protocol is."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

Json = dict[str, Any]


class FieldFault(NamedTuple):
    """What is wrong with one field."""

    field: str
    code: str


class Refused(Exception):
    """The exchange refused a call."""

    def __init__(self, code: str, detail: str, faults: list[FieldFault], retry_after: int = 0) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.faults = faults
        self.retry_after = retry_after


class Door(Protocol):
    """One trader's calls. Orders, fills and trades are as in the JSON of REST. All calls raise `Refused`."""

    def place(self, *, wait: float = 0, **fields: Any) -> Json:
        """Places an order. With `wait` the answer has its fills (`trades`), if it is matched in time."""

    def replace(self, order_id: str, *, wait: float = 0, **fields: Any) -> Json:
        """Replaces an order."""

    def cancel(self, order_id: str, *, wait: float = 0) -> Json:
        """Cancels an order."""

    def cancel_all(self, card: str | None = None, *, wait: float = 0) -> list[Json]:
        """Cancels all open orders."""

    def submit(self, items: list[Json]) -> list[Json]:
        """A batch: items as in the body of REST; results are orders, or `{"error": {"code": …}}`."""

    def order(self, order_id: str) -> Json:
        """An order with its fills (`trades`)."""

    def order_by_client_id(self, client_order_id: str) -> Json:
        """An order by its trader's id, with its fills (`trades`)."""

    def orders(self, **query: Any) -> tuple[list[Json], str | None]:
        """A page of orders, and `before` of the next one."""

    def fills(self, **query: Any) -> tuple[list[Json], str | None]:
        """A page of fills, and `before` of the next one."""

    def book(self, card: str, depth: int | None = None) -> Json:
        """Price levels of a card: `sequence`, `bids` and `asks` as lists of price and quantity."""

    def trades(self, card: str, limit: int | None = None) -> list[Json]:
        """The latest trades of a card."""

    def candles(self, card: str, **query: Any) -> list[Json]:
        """Candles of a card."""

    def stream(self, *channels: str) -> AbstractContextManager[Iterator[tuple[str, Json]]]:
        """Live data: event and data of each message. The stream is positioned when the first one has come."""


def set_fields(fields: Mapping[str, Any]) -> Json:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}
