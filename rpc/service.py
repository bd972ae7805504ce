"""The calls of the contract, each a mapping onto `Exchange`."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc
import msgspec
import structlog

from api.common_headers import request_id
from api.decoding import Turn
from api.market_views import candles_view
from api.prefer import check_wait
from archiver.audit import Actor
from core.errors import InvalidRequest, Overloaded, RequestError, TcgxError, Unauthenticated, Violation
from core.model import LATEST, Accepted
from core.rules import BatchItem, check_credentials, check_item_count
from core.settings import Settings
from exchange.administration import actor_of
from exchange.market import CandleQuery
from exchange.service import OrderFilter
from exchange.tokens import Caller
from exchange.wiring import Services
from rpc import messages, metrics
from rpc.problems import STATUS_OF_KIND, error_message, trailing_metadata
from rpc.streams import Sink, until_gone
from rpc.v1 import exchange_pb2 as pb
from rpc.v1 import exchange_pb2_grpc
from streams import channels as names
from streams import connection
from streams.hub import Hub
from streams.session import INTERVAL_MS, INTERVAL_MS_MAX, Session

log = structlog.get_logger()
T = TypeVar("T")

Context = Any  # grpc.aio.ServicerContext is generic over messages
BOOK_LEVELS, FILLS, CANDLES = 20, 50, 500
"""How many of each a call gives that names no number, as REST does."""


class ExchangeService(exchange_pb2_grpc.ExchangeServiceServicer):
    """The calls on one exchange."""

    def __init__(self, settings: Settings, services: Services, hub: Hub) -> None:
        self._exchange = services.exchange
        self._rules = services.exchange.rules
        self._items = messages.ItemReader(settings)
        self._services = services
        self._hub = hub
        self._reading: set[asyncio.Future[Any]] = set()
        self._is_stopping = False

    # -- orders in

    async def GetToken(self, request: pb.GetTokenRequest, context: Context) -> pb.GetTokenResponse:
        """An access token for an API key."""

        async def answer() -> pb.GetTokenResponse:
            trader_id, api_key = check_credentials(messages.draft_of(request))
            token, seconds = await self._services.authenticator.token_for(trader_id, api_key, _address(context))
            return pb.GetTokenResponse(access_token=token, expires_in=seconds)

        return await _answered(context, "GetToken", answer)

    async def PlaceOrder(self, request: pb.PlaceOrderRequest, context: Context) -> pb.PlaceOrderResponse:
        """Places an order."""

        async def answer(caller: Caller) -> pb.PlaceOrderResponse:
            command = self._rules.check(messages.draft_of(request, "wait_seconds"), caller.trader_id)
            seconds = check_wait(request.wait_seconds, "wait_seconds")
            place = self._exchange.place_and_wait(command, seconds) if seconds else self._exchange.place(command)
            placed = await place
            if isinstance(placed, tuple):
                return pb.PlaceOrderResponse(matched=True, **messages.matched_fields(*placed))
            if isinstance(placed, Accepted):
                return pb.PlaceOrderResponse(order=messages.accepted_message(command, placed))
            return pb.PlaceOrderResponse(order=messages.order_message(placed))

        return await self._answered(context, "PlaceOrder", answer)

    async def ReplaceOrder(self, request: pb.ReplaceOrderRequest, context: Context) -> pb.ReplaceOrderResponse:
        """Replaces an order."""

        async def answer(caller: Caller) -> pb.ReplaceOrderResponse:
            seconds = check_wait(request.wait_seconds, "wait_seconds")
            change = self._rules.check_change(messages.draft_of(request, "order_id", "wait_seconds"))
            replaced = await self._exchange.replace(caller, request.order_id, change, seconds)
            if isinstance(replaced, tuple):
                return pb.ReplaceOrderResponse(matched=True, **messages.matched_fields(*replaced))
            return pb.ReplaceOrderResponse(order=messages.order_message(replaced))

        return await self._answered(context, "ReplaceOrder", answer)

    async def CancelOrder(self, request: pb.CancelOrderRequest, context: Context) -> pb.CancelOrderResponse:
        """Cancels an order."""

        async def answer(caller: Caller) -> pb.CancelOrderResponse:
            order, matched = await self._services.administration.cancel_order(
                self._exchange,
                caller,
                _actor(caller, context),
                request.order_id,
                check_wait(request.wait_seconds, "wait_seconds"),
            )
            return pb.CancelOrderResponse(order=messages.order_message(order), matched=matched)

        return await self._answered(context, "CancelOrder", answer)

    async def CancelOrders(self, request: pb.CancelOrdersRequest, context: Context) -> pb.CancelOrdersResponse:
        """Cancels all open orders."""

        async def answer(caller: Caller) -> pb.CancelOrdersResponse:
            seconds = check_wait(request.wait_seconds, "wait_seconds")
            orders, matched = await self._exchange.cancel_all(caller, messages.optional(request, "card"), seconds)
            return pb.CancelOrdersResponse(orders=messages.order_messages(orders), matched=matched)

        return await self._answered(context, "CancelOrders", answer)

    async def SubmitOrders(self, request: pb.SubmitOrdersRequest, context: Context) -> pb.SubmitOrdersResponse:
        """Places, cancels and replaces orders."""

        async def answer(caller: Caller) -> pb.SubmitOrdersResponse:
            return pb.SubmitOrdersResponse(results=await self._submit(caller, request.items))

        return await self._answered(context, "SubmitOrders", answer)

    async def StreamOrders(
        self, _: AsyncIterator[pb.StreamOrdersRequest], context: Context
    ) -> AsyncIterator[pb.StreamOrdersResponse]:
        """Batches, one after the other. The next one is read once the client has taken the response to this one."""
        caller = await self._admitted(context, "StreamOrders")
        while (request := await self._next(context)) is not None:
            began = time.perf_counter()
            try:
                self._services.authenticator.check(caller)
                response = pb.StreamOrdersResponse(results=await self._submit(caller, request.items))
                metrics.observe("StreamOrders", grpc.StatusCode.OK.name, time.perf_counter() - began)
            except Unauthenticated as error:
                await _abort(context, error, "StreamOrders", began)
            except TcgxError as error:
                metrics.observe("StreamOrders", STATUS_OF_KIND[error.kind].name, time.perf_counter() - began)
                response = pb.StreamOrdersResponse(error=error_message(error))
            yield response

    # -- orders out

    async def GetOrder(self, request: pb.GetOrderRequest, context: Context) -> pb.GetOrderResponse:
        """One order with its fills."""

        async def answer(caller: Caller) -> pb.GetOrderResponse:
            if request.WhichOneof("name") == "client_order_id":
                order = await self._exchange.find_by_client_id(caller, request.client_order_id)
            else:
                actor = _actor(caller, context)
                order = await self._services.administration.find_order(self._exchange, caller, actor, request.order_id)
            return pb.GetOrderResponse(**messages.matched_fields(order, await self._exchange.fills_of(order)))

        return await self._answered(context, "GetOrder", answer)

    async def ListOrders(self, request: pb.ListOrdersRequest, context: Context) -> pb.ListOrdersResponse:
        """A page of orders."""

        async def answer(caller: Caller) -> pb.ListOrdersResponse:
            wanted = OrderFilter(
                status=messages.optional(request, "status"),
                card=messages.optional(request, "card"),
                side=messages.optional(request, "side"),
                before=messages.optional(request, "before"),
                limit=request.limit if request.HasField("limit") else LATEST,
            )
            orders, following = await self._exchange.orders(caller, wanted)
            return pb.ListOrdersResponse(
                orders=messages.order_messages(orders), next=None if following is None else following.order_id
            )

        return await self._answered(context, "ListOrders", answer)

    async def ListFills(self, request: pb.ListFillsRequest, context: Context) -> pb.ListFillsResponse:
        """A page of fills."""

        async def answer(caller: Caller) -> pb.ListFillsResponse:
            fills, following = await self._exchange.fills(
                caller,
                card=messages.optional(request, "card"),
                name=messages.optional(request, "order_id"),
                before=messages.optional(request, "before"),
                limit=request.limit if request.HasField("limit") else FILLS,
            )
            return pb.ListFillsResponse(fills=messages.fill_messages(fills), next=following)

        return await self._answered(context, "ListFills", answer)

    # -- market data

    async def GetBook(self, request: pb.GetBookRequest, context: Context) -> pb.GetBookResponse:
        """The price levels of a card."""

        async def answer() -> pb.GetBookResponse:
            levels = request.depth if request.HasField("depth") else BOOK_LEVELS
            depth = await self._exchange.book(request.card, levels)
            bids, asks = messages.level_messages(depth.bids), messages.level_messages(depth.asks)
            return pb.GetBookResponse(card=request.card, sequence=depth.sequence, bids=bids, asks=asks)

        return await _answered(context, "GetBook", answer)

    async def ListTrades(self, request: pb.ListTradesRequest, context: Context) -> pb.ListTradesResponse:
        """The latest trades of a card."""

        async def answer() -> pb.ListTradesResponse:
            limit = request.limit if request.HasField("limit") else LATEST
            trades = await self._exchange.latest_trades(request.card, limit)
            return pb.ListTradesResponse(trades=messages.trade_messages(trades))

        return await _answered(context, "ListTrades", answer)

    async def ListCandles(self, request: pb.ListCandlesRequest, context: Context) -> pb.ListCandlesResponse:
        """Candles of a card."""

        async def answer() -> pb.ListCandlesResponse:
            query = CandleQuery(
                interval=request.interval,
                start=messages.optional(request, "start"),
                end=messages.optional(request, "end"),
                fill=request.fill if request.HasField("fill") else "none",
                limit=request.limit if request.HasField("limit") else CANDLES,
            )
            page = await self._services.market.candles(request.card, query)
            view = candles_view(request.card, request.interval, page)
            candles = [pb.Candle(**msgspec.structs.asdict(candle)) for candle in view.candles]
            return pb.ListCandlesResponse(candles=candles, next=view.next)

        return await _answered(context, "ListCandles", answer)

    async def StreamEvents(self, request: pb.StreamEventsRequest, context: Context) -> None:
        """Live data until the stream ends."""

        async def open_stream() -> Session:
            interval = request.interval_ms if request.HasField("interval_ms") else INTERVAL_MS
            if not 0 <= interval <= INTERVAL_MS_MAX:
                rule = f"must be a whole number from 0 to {INTERVAL_MS_MAX}"
                raise InvalidRequest([Violation("interval_ms", "invalid_interval_ms", rule, interval)])
            wanted = names.parse_list(",".join(request.channels), self._hub.cards)
            positions = names.parse_positions(request.after, self._hub.cards)
            token = _authorization(context)
            caller = None if token is None else self._services.authenticator.authenticate(token)
            return await self._hub.begin(
                wanted, positions, address=_address(context), interval_ms=interval, caller=caller
            )

        session = await _answered(context, "StreamEvents", open_stream)
        await connection.serve(self._hub, session, Sink(context), until_gone(context))

    # -- internal

    async def _submit(self, caller: Caller, items: Any) -> list[pb.Result]:
        """The results of a batch. A thousand items take milliseconds, so other tasks run between them."""
        check_item_count(len(items))
        self._exchange.check_room(caller)
        asked: list[BatchItem | RequestError] = []
        turn = Turn()
        for item in items:
            asked.append(self._items.read(item, caller.trader_id))
            if turn.is_over():
                await turn.next()
        outcomes = await self._exchange.submit(caller, asked)
        results = []
        for item, outcome in zip(asked, outcomes, strict=True):
            results.append(messages.result(item, outcome))
            if turn.is_over():
                await turn.next()
        return results

    async def _next(self, context: Context) -> pb.StreamOrdersRequest | None:
        """The next message of a stream; None at its end. A stop of the process ends the call with an error."""
        reading = asyncio.ensure_future(context.read())
        self._reading.add(reading)
        if self._is_stopping:
            reading.cancel()
        try:
            await asyncio.wait({reading})
        except BaseException:
            reading.cancel()
            raise
        finally:
            self._reading.discard(reading)
        if reading.cancelled():
            await _abort(context, Overloaded("the server is about to stop"), "StreamOrders", time.perf_counter())
        request = reading.result()
        return None if request is grpc.aio.EOF else request

    def stop_reading(self) -> None:
        """Ends the streams of batches that wait for a message, now and later."""
        self._is_stopping = True
        for reading in self._reading:
            reading.cancel()

    async def _answered(self, context: Context, call: str, answer: Callable[[Caller], Awaitable[T]]) -> T:
        """The answer to a call of an authenticated caller, or the end of the call with an error."""

        async def for_caller() -> T:
            return await answer(self._services.authenticator.authenticate(_authorization(context)))

        return await _answered(context, call, for_caller)

    async def _admitted(self, context: Context, call: str) -> Caller:
        async def admitted(caller: Caller) -> Caller:
            return caller

        return await self._answered(context, call, admitted)


async def _answered(context: Context, call: str, answer: Callable[[], Awaitable[T]]) -> T:
    began = time.perf_counter()
    try:
        found = await answer()
    except TcgxError as error:
        return await _abort(context, error, call, began)
    except Exception as error:
        log.error("a call failed", operation=call, request_id=_request_id(context), exc_info=error)
        return await _abort(context, TcgxError(str(error)), call, began)
    metrics.observe(call, grpc.StatusCode.OK.name, time.perf_counter() - began)
    return found


async def _abort(context: Context, error: TcgxError, call: str, began: float) -> NoReturn:
    """Ends a call with an error."""
    status = STATUS_OF_KIND[error.kind]
    metrics.observe(call, status.name, time.perf_counter() - began)
    context.set_trailing_metadata(trailing_metadata(error, _request_id(context)))
    await context.abort(status, error.detail)
    raise AssertionError("abort has returned")


def _metadata(context: Context, name: str) -> bytes | None:
    """The first value of a name in the metadata of a call."""
    for key, value in context.invocation_metadata() or ():
        if key == name:
            return value if isinstance(value, bytes) else str(value).encode("latin-1", "replace")
    return None


def _authorization(context: Context) -> bytes | None:
    return _metadata(context, "authorization")


def _request_id(context: Context) -> str:
    return request_id(_metadata(context, "x-request-id"))


def _address(context: Context) -> str:
    """The address of the client, without its port."""
    kind, _, rest = str(context.peer()).partition(":")
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]") if kind.startswith("ipv") else ""


def _actor(caller: Caller, context: Context) -> Actor:
    return actor_of(caller, _address(context))
