"""The types of the schema, made from the views of REST: fields have the same texts, and names in camel case."""

from collections.abc import Sequence
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import strawberry

from api.market_views import candles_view, ticker_view
from api.views import fill_view, order_view, trade_view
from core.model import Accepted, PlaceOrder, average_price_text, order_id, price_text
from core.model import Fill as CoreFill
from core.model import Order as CoreOrder
from core.model import Trade as CoreTrade
from engine.book_reader import Depth
from exchange.market import CandlePage
from exchange.market import Ticker as CoreTicker

T = TypeVar("T")


@strawberry.type
class PageInfo:
    """Where a page ends: `first` and `after: endCursor` give the next one."""

    has_next_page: bool
    end_cursor: str | None


@strawberry.type
class Edge(Generic[T]):
    """An item of a page, and its place."""

    cursor: str
    node: T


@strawberry.type
class Connection(Generic[T]):
    """A page of items."""

    edges: list[Edge[T]]
    nodes: list[T]
    page_info: PageInfo


def connection(nodes: Sequence[T], cursors: Sequence[str], following: str | None) -> Connection[T]:
    """Makes a page. `following`: the cursor of the next one; None if this page is the last one."""
    edges = [Edge(cursor=cursor, node=node) for cursor, node in zip(cursors, nodes, strict=True)]
    return Connection(
        edges=edges, nodes=list(nodes), page_info=PageInfo(has_next_page=following is not None, end_cursor=following)
    )


@strawberry.type
class Level:
    """A price level of a book."""

    price: str
    quantity: int


@strawberry.type
class Book:
    """The price levels of a card, best first. `sequence`: the last command that they have."""

    sequence: int
    bids: list[Level]
    asks: list[Level]


@strawberry.type
class Trade:
    """A trade, at the resting order's price."""

    trade_id: str
    card: str
    price: str
    quantity: int
    taker_side: str
    executed_at: str


@strawberry.type
class Fill(Trade):
    """A trade of your own, as one of its two orders has it."""

    order_id: str
    side: str
    liquidity: str


@strawberry.type
class Candle:
    """The trades of a card in an interval."""

    start: str
    open: str
    high: str
    low: str
    close: str
    volume: int
    trades: int
    closed: bool


@strawberry.type
class Candles:
    """Candles, oldest first. `next`: `start` of the next page."""

    candles: list[Candle]
    next: str | None


@strawberry.type
class Ticker:
    """Prices now and of 24 hours."""

    card: str
    sequence: int
    last: str | None
    bid: Level | None
    ask: Level | None
    open: str | None
    high: str | None
    low: str | None
    volume: int | None
    complete: bool
    at: str


@strawberry.type
class Order:
    """An order as it is now."""

    order_id: str
    client_order_id: str | None
    card: str
    side: str
    price: str
    quantity: int
    filled_quantity: int
    status: str
    time_in_force: str
    accepted_at: str
    closed_at: str | None
    post_only: bool
    replaces: str | None
    carried_quantity: int
    reason: str | None
    replaced_by: str | None
    order: strawberry.Private[CoreOrder | None] = None
    known_fills: strawberry.Private[Sequence[CoreFill] | None] = None

    @strawberry.field(description="Its fills, oldest first.")
    async def fills(self, info: strawberry.Info[Any, Any]) -> list[Fill]:
        """The fills, with those of all other orders of the query in one read."""
        return [fill_of(fill) for fill in await self._fills(info)]

    @strawberry.field(description="The average of the prices of its fills, weighted by quantity.")
    async def average_price(self, info: strawberry.Info[Any, Any]) -> str | None:
        """The average price."""
        return average_price_text(await self._fills(info))

    async def _fills(self, info: strawberry.Info[Any, Any]) -> Sequence[CoreFill]:
        if self.known_fills is not None or self.order is None:
            return self.known_fills or ()
        fills: Sequence[CoreFill] = await info.context["door"].fills.load(self.order)
        return fills


@strawberry.type
class FieldError:
    """What is wrong with one field."""

    field: str
    code: str
    rule: str


@strawberry.type
class Error:
    """Why an item of a batch was refused."""

    code: str
    detail: str
    status: int
    errors: list[FieldError]


@strawberry.type
class Placed:
    """An order, and whether it is matched."""

    order: Order
    matched: bool


@strawberry.type
class Canceled:
    """Orders, and whether their cancels are matched."""

    orders: list[Order]
    matched: bool


@strawberry.type
class Result:
    """The result of an item of a batch: an order or an error."""

    order: Order | None
    error: Error | None


@strawberry.input
class NewOrder:
    """An order to place."""

    card: str | None = strawberry.UNSET
    side: str | None = strawberry.UNSET
    price: str | None = strawberry.UNSET
    quantity: int | None = strawberry.UNSET
    client_order_id: str | None = strawberry.UNSET
    time_in_force: str | None = strawberry.UNSET
    post_only: bool | None = strawberry.UNSET


@strawberry.input
class OrderChange:
    """What a replace changes. `quantity` is the new total."""

    price: str | None = strawberry.UNSET
    quantity: int | None = strawberry.UNSET
    post_only: bool | None = strawberry.UNSET
    client_order_id: str | None = strawberry.UNSET


@strawberry.input
class Replace(OrderChange):
    """An item of a batch that replaces an order."""

    order_id: str


@strawberry.input
class Item:
    """An item of a batch: one of the three."""

    place: NewOrder | None = strawberry.UNSET
    cancel: Annotated[str | None, strawberry.argument(description="an order_id")] = strawberry.UNSET
    replace: Replace | None = strawberry.UNSET


@strawberry.type
class TradesEvent:
    """The trades of a match. `sequence`: the last matched command, to resume with. The first event has no trades."""

    sequence: int
    trades: list[Trade]


@strawberry.type
class BookEvent:
    """Price levels. A `snapshot` is the whole book; an `update` has the levels that changed, with 0 for those gone."""

    type: str
    sequence: int
    bids: list[Level]
    asks: list[Level]


@strawberry.type
class OrdersEvent:
    """An order of yours after an event of its life; of a `snapshot`, the first event, all open ones."""

    event: str
    sequence: int | None
    orders: list[Order]


def order_of(order: CoreOrder, fills: Sequence[CoreFill] | None = None) -> Order:
    """The order of the schema."""
    return Order(**msgspec.structs.asdict(order_view(order)), order=order, known_fills=fills)


def accepted_order(command: PlaceOrder, accepted: Accepted) -> Order:
    """An order that is in the log and not matched yet."""
    return Order(
        order_id=order_id(command.card, accepted.sequence),
        client_order_id=command.client_order_id,
        card=command.card,
        side=command.side.value,
        price=price_text(command.price_cents),
        quantity=command.quantity,
        filled_quantity=0,
        status="accepted",
        time_in_force=command.time_in_force.value,
        accepted_at=accepted.accepted_at or "",
        closed_at=None,
        post_only=command.post_only,
        replaces=None,
        carried_quantity=0,
        reason=None,
        replaced_by=None,
    )


def fill_of(fill: CoreFill) -> Fill:
    """The fill of the schema."""
    return Fill(**msgspec.structs.asdict(fill_view(fill)))


def trade_of(trade: CoreTrade) -> Trade:
    """The trade of the schema."""
    return Trade(**msgspec.structs.asdict(trade_view(trade)))


def book_of(depth: Depth) -> Book:
    """The book of the schema."""
    sides = {"bids": depth.bids, "asks": depth.asks}
    levels = {
        name: [Level(price=price_text(cents), quantity=each) for cents, each in side] for name, side in sides.items()
    }
    return Book(sequence=depth.sequence, **levels)


def ticker_of(ticker: CoreTicker) -> Ticker:
    """The ticker of the schema."""
    values = msgspec.structs.asdict(ticker_view(ticker))
    values |= {side: None if values[side] is None else levels_of([values[side]])[0] for side in ("bid", "ask")}
    return Ticker(**values)


def levels_of(pairs: Sequence[Sequence[Any]]) -> list[Level]:
    """Price levels of a message of streams."""
    return [Level(price=price, quantity=quantity) for price, quantity in pairs]


def candles_of(card: str, interval: str, page: CandlePage) -> Candles:
    """The candles of the schema."""
    view = candles_view(card, interval, page)
    return Candles(candles=[Candle(**msgspec.structs.asdict(candle)) for candle in view.candles], next=view.next)
