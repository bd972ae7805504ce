"""The schema: queries, mutations and subscriptions, each a call of `Exchange` or of the hub of streams."""

from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any

import msgspec
import strawberry
from strawberry.extensions import DisableIntrospection, MaxAliasesLimiter, MaxTokensLimiter, QueryDepthLimiter
from strawberry.schema.config import StrawberryConfig

from api.graphql import types
from api.graphql.door import GraphqlDoor
from api.graphql.limits import CostLimiter
from api.graphql.problems import Problems, error_of
from api.prefer import check_wait
from core.errors import InvalidRequest, RequestError, Violation
from core.model import LATEST, Accepted, Order, PlaceOrder
from core.rules import BatchItem, Draft, check_item_count
from core.settings import Settings
from exchange.archive_reader import HistoryQuery
from exchange.market import CandleQuery
from exchange.order_reader import fill_key
from exchange.service import OrderFilter
from streams.messages import Message

Info = strawberry.Info[Any, Any]
First = Annotated[int, strawberry.argument(description="how many at most")]
After = Annotated[str | None, strawberry.argument(description="`endCursor` of a page: the next one")]
Wait = Annotated[float, strawberry.argument(description="up to how many seconds to wait for the match")]


def door_of(info: Info) -> GraphqlDoor:
    """The door of an operation."""
    door: GraphqlDoor = info.context["door"]
    return door


def draft_of(fields: Any) -> Draft:
    """The fields of an input that are given."""
    values = ((name, getattr(fields, name)) for name in fields.__dataclass_fields__)
    return [(name, value) for name, value in values if value is not strawberry.UNSET]


@strawberry.type
class Card:
    """A card and its market."""

    name: str

    @strawberry.field(description="Price levels, best first. Source: books in Redis.")
    async def book(self, info: Info, depth: First = 20) -> types.Book:
        """The book."""
        return types.book_of(await door_of(info).exchange.book(self.name, depth))

    @strawberry.field(description="The latest trades, newest first. Source: Redis.")
    async def trades(self, info: Info, first: First = LATEST) -> list[types.Trade]:
        """The trades."""
        return [types.trade_of(trade) for trade in await door_of(info).exchange.latest_trades(self.name, first)]

    @strawberry.field(description="Candles, oldest first. Source: the archive, and events that are not archived yet.")
    async def candles(
        self,
        info: Info,
        *,
        interval: str,
        start: str | None = None,
        end: str | None = None,
        fill: str = "none",
        first: First = 500,
    ) -> types.Candles:
        """The candles."""
        query = CandleQuery(interval=interval, start=start, end=end, fill=fill, limit=first)
        return types.candles_of(self.name, interval, await door_of(info).market.candles(self.name, query))

    @strawberry.field(description="Prices now and of 24 hours.")
    async def ticker(self, info: Info) -> types.Ticker:
        """The ticker, with those of all other cards of the query in one read."""
        return types.ticker_of(await door_of(info).tickers.load(self.name))


@strawberry.type
class Query:
    """What can be read. Own orders and fills need a token. A field that fails is null, and spoils no other."""

    @strawberry.field(description="All cards.")
    async def cards(self, info: Info) -> list[Card] | None:
        """The cards."""
        return [Card(name=card) for card in door_of(info).exchange.cards]

    @strawberry.field(description="One card.")
    async def card(self, info: Info, name: str) -> Card | None:
        """A card, which its own fields check."""
        door_of(info).check_traded(name)
        return Card(name=name)

    @strawberry.field(description="An order of yours, by its orderId or its clientOrderId.")
    async def order(
        self, info: Info, order_id: str | None = None, client_order_id: str | None = None
    ) -> types.Order | None:
        """An order."""
        door = door_of(info)
        if order_id is None and client_order_id is not None:
            return types.order_of(await door.exchange.find_by_client_id(door.caller, client_order_id))
        found = await door.administration.find_order(door.exchange, door.caller, door.actor, order_id or "")
        return types.order_of(found)

    @strawberry.field(description="Your orders, newest first, with live status.")
    async def orders(
        self,
        info: Info,
        *,
        first: First = LATEST,
        after: After = None,
        status: str | None = None,
        card: str | None = None,
        side: str | None = None,
    ) -> types.Connection[types.Order] | None:
        """A page of orders."""
        door = door_of(info)
        wanted = OrderFilter(status=status, card=card, side=side, before=after, limit=first)
        orders, following = await door.exchange.orders(door.caller, wanted)
        return _orders(orders, None if following is None else following.order_id)

    @strawberry.field(description="Your fills, newest first.")
    async def fills(
        self,
        info: Info,
        *,
        first: First = 50,
        after: After = None,
        card: str | None = None,
        order_id: str | None = None,
    ) -> types.Connection[types.Fill] | None:
        """A page of fills."""
        door = door_of(info)
        found, following = await door.exchange.fills(door.caller, card=card, name=order_id, before=after, limit=first)
        fills = [types.fill_of(fill) for fill in found]
        return types.connection(fills, [fill_key(fill).text for fill in found], following)

    @strawberry.field(description="Your completed orders, newest first. Source: the archive.")
    async def history_orders(
        self,
        info: Info,
        *,
        first: First = 50,
        after: After = None,
        card: str | None = None,
        status: str | None = None,
        side: str | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> types.Connection[types.Order] | None:
        """A page of completed orders."""
        door = door_of(info)
        query = HistoryQuery(card=card, status=status, side=side, since=since, until=until, before=after, limit=first)
        page = await door.archive_reader.orders(door.caller, query)
        return _orders(page.orders, page.older)

    @strawberry.field(description="The trades of a card, newest first. Source: the archive.")
    async def history_trades(
        self,
        info: Info,
        *,
        card: str,
        first: First = 50,
        after: After = None,
        side: str | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> types.Connection[types.Trade] | None:
        """A page of trades."""
        query = HistoryQuery(card=card, side=side, since=since, until=until, before=after, limit=first)
        page = await door_of(info).archive_reader.trades(query)
        trades = [types.trade_of(trade) for trade in page.trades]
        return types.connection(trades, [trade.trade_id for trade in trades], page.older)


def _orders(orders: Sequence[Order], following: str | None) -> types.Connection[types.Order]:
    found = [types.order_of(order) for order in orders]
    return types.connection(found, [order.order_id for order in found], following)


@strawberry.type
class Mutation:
    """What traders do with orders. Each call needs a token, and is durable when it is answered.

    A call that fails is null, so that it takes no result of another call in the document with it.
    """

    @strawberry.mutation(description="Places an order.")
    async def place_order(self, info: Info, order: types.NewOrder, wait: Wait = 0.0) -> types.Placed | None:
        """Places an order."""
        door = door_of(info)
        command = door.exchange.rules.check(draft_of(order), door.caller.trader_id)
        seconds = check_wait(wait, "wait")
        placed = await (door.exchange.place_and_wait(command, seconds) if seconds else door.exchange.place(command))
        if isinstance(placed, tuple):
            return types.Placed(order=types.order_of(*placed), matched=True)
        return types.Placed(order=_placed(command, placed), matched=False)

    @strawberry.mutation(description="Changes price, quantity or both of an order in one step.")
    async def replace_order(
        self, info: Info, order_id: str, change: types.OrderChange, wait: Wait = 0.0
    ) -> types.Placed | None:
        """Replaces an order."""
        door = door_of(info)
        wanted = door.exchange.rules.check_change(draft_of(change))
        replaced = await door.exchange.replace(door.caller, order_id, wanted, check_wait(wait, "wait"))
        if isinstance(replaced, tuple):
            return types.Placed(order=types.order_of(*replaced), matched=True)
        return types.Placed(order=types.order_of(replaced), matched=False)

    @strawberry.mutation(description="Cancels an order.")
    async def cancel_order(self, info: Info, order_id: str, wait: Wait = 0.0) -> types.Placed | None:
        """Cancels an order."""
        door = door_of(info)
        order, matched = await door.administration.cancel_order(
            door.exchange, door.caller, door.actor, order_id, check_wait(wait, "wait")
        )
        return types.Placed(order=types.order_of(order), matched=matched)

    @strawberry.mutation(description="Cancels all your open orders, on one card or on all.")
    async def cancel_orders(self, info: Info, card: str | None = None, wait: Wait = 0.0) -> types.Canceled | None:
        """Cancels all open orders."""
        door = door_of(info)
        orders, matched = await door.exchange.cancel_all(door.caller, card, check_wait(wait, "wait"))
        return types.Canceled(orders=[types.order_of(order) for order in orders], matched=matched)

    @strawberry.mutation(description="Places, cancels and replaces up to 1,000 orders; each item has its own result.")
    async def submit_orders(self, info: Info, items: list[types.Item]) -> list[types.Result] | None:
        """A batch."""
        door = door_of(info)
        caller = door.caller
        check_item_count(len(items))
        door.exchange.check_room(caller)
        asked = [_asked(door, item, caller.trader_id) for item in items]
        outcomes = await door.exchange.submit(caller, asked)
        return [_result(item, outcome) for item, outcome in zip(asked, outcomes, strict=True)]


def _placed(command: PlaceOrder, placed: Accepted | Order) -> types.Order:
    return types.accepted_order(command, placed) if isinstance(placed, Accepted) else types.order_of(placed)


def _asked(door: GraphqlDoor, item: types.Item, trader_id: int) -> BatchItem | RequestError:
    """What an item asks for, or why it is refused."""
    rules = door.exchange.rules
    try:
        if item.place:
            return rules.check(draft_of(item.place), trader_id)
        if item.replace:
            return rules.check_item([("action", "replace"), *draft_of(item.replace)], trader_id)
        if isinstance(item.cancel, str):
            return rules.check_item([("action", "cancel"), ("order_id", item.cancel)], trader_id)
    except InvalidRequest as error:
        return error
    return InvalidRequest([Violation("action", "missing_field", "is required")])


def _result(item: BatchItem | RequestError, outcome: Any) -> types.Result:
    if isinstance(outcome, Accepted) and isinstance(item, PlaceOrder):
        return types.Result(order=types.accepted_order(item, outcome), error=None)
    if isinstance(outcome, Order):
        return types.Result(order=types.order_of(outcome), error=None)
    return types.Result(order=None, error=error_of(outcome))


@strawberry.type
class Subscription:
    """Live data. Each of them is a stream of the hub, with its limits; it ends with an error that says why."""

    @strawberry.subscription(description="The trades of a card. `after`: the last `sequence` that you have.")
    async def trades(self, info: Info, card: str, after: int | None = None) -> AsyncGenerator[types.TradesEvent, None]:
        """Trades as they happen."""
        positions = "" if after is None else f"{card}.{after}"
        async for message in door_of(info).follow([f"trades:{card}"], positions):
            data = _data(message, b"trades")
            if message.event == b"hello":
                yield types.TradesEvent(sequence=msgspec.json.decode(message.json)["positions"][card], trades=[])
            if data:
                trades = [types.Trade(**trade) for trade in data["trades"]]
                yield types.TradesEvent(sequence=data["sequence"], trades=trades)

    @strawberry.subscription(description="The book of a card: a snapshot, and then the levels that change.")
    async def book(self, info: Info, card: str) -> AsyncGenerator[types.BookEvent, None]:
        """The book as it changes."""
        async for message in door_of(info).follow([f"book:{card}"]):
            data = _data(message, b"book")
            if data:
                bids, asks = types.levels_of(data["bids"]), types.levels_of(data["asks"])
                yield types.BookEvent(type=data["type"], sequence=data["sequence"], bids=bids, asks=asks)

    @strawberry.subscription(description="Your orders: the open ones, and then each after an event of its life.")
    async def orders(self, info: Info) -> AsyncGenerator[types.OrdersEvent, None]:
        """Own orders as they change."""
        async for message in door_of(info).follow(["orders"]):
            data = _data(message, b"orders")
            if data and data["type"] == "snapshot":
                found = [types.Order(**order) for order in data["orders"]]
                yield types.OrdersEvent(event="snapshot", sequence=None, orders=found)
            elif data:
                found = [types.Order(**data["order"])]
                yield types.OrdersEvent(event=data["event"], sequence=data["sequence"], orders=found)


def _data(message: Message, event: bytes) -> dict[str, Any] | None:
    """The content of a message of this event; None for another one."""
    return msgspec.json.decode(message.json) if message.event == event else None


def make_schema(settings: Settings) -> strawberry.Schema:
    """The schema with its limits."""
    cost_max, aliases_max = settings.graphql_cost_max, settings.graphql_aliases_max
    depth_max, tokens_max = settings.graphql_depth_max, settings.graphql_tokens_max
    return strawberry.Schema(
        query=Query,
        mutation=Mutation,
        subscription=Subscription,
        config=StrawberryConfig(disable_field_suggestions=settings.graphql != "explore"),
        extensions=[
            Problems,
            lambda: MaxTokensLimiter(max_token_count=tokens_max),
            lambda: MaxAliasesLimiter(max_alias_count=aliases_max),
            lambda: QueryDepthLimiter(max_depth=depth_max),
            lambda: CostLimiter(cost_max),
            *([] if settings.graphql == "explore" else [DisableIntrospection]),
        ],
    )
