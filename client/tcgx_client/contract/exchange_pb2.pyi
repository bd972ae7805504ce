from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetTokenRequest(_message.Message):
    __slots__ = ("trader_id", "api_key")
    TRADER_ID_FIELD_NUMBER: _ClassVar[int]
    API_KEY_FIELD_NUMBER: _ClassVar[int]
    trader_id: int
    api_key: str
    def __init__(self, trader_id: _Optional[int] = ..., api_key: _Optional[str] = ...) -> None: ...

class GetTokenResponse(_message.Message):
    __slots__ = ("access_token", "expires_in")
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_FIELD_NUMBER: _ClassVar[int]
    access_token: str
    expires_in: int
    def __init__(self, access_token: _Optional[str] = ..., expires_in: _Optional[int] = ...) -> None: ...

class Order(_message.Message):
    __slots__ = ("order_id", "client_order_id", "card", "side", "price", "quantity", "filled_quantity", "status", "time_in_force", "accepted_at", "closed_at", "post_only", "replaces", "carried_quantity", "reason", "replaced_by")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    FILLED_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TIME_IN_FORCE_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_AT_FIELD_NUMBER: _ClassVar[int]
    CLOSED_AT_FIELD_NUMBER: _ClassVar[int]
    POST_ONLY_FIELD_NUMBER: _ClassVar[int]
    REPLACES_FIELD_NUMBER: _ClassVar[int]
    CARRIED_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REPLACED_BY_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    client_order_id: str
    card: str
    side: str
    price: str
    quantity: int
    filled_quantity: int
    status: str
    time_in_force: str
    accepted_at: str
    closed_at: str
    post_only: bool
    replaces: str
    carried_quantity: int
    reason: str
    replaced_by: str
    def __init__(self, order_id: _Optional[str] = ..., client_order_id: _Optional[str] = ..., card: _Optional[str] = ..., side: _Optional[str] = ..., price: _Optional[str] = ..., quantity: _Optional[int] = ..., filled_quantity: _Optional[int] = ..., status: _Optional[str] = ..., time_in_force: _Optional[str] = ..., accepted_at: _Optional[str] = ..., closed_at: _Optional[str] = ..., post_only: _Optional[bool] = ..., replaces: _Optional[str] = ..., carried_quantity: _Optional[int] = ..., reason: _Optional[str] = ..., replaced_by: _Optional[str] = ...) -> None: ...

class Trade(_message.Message):
    __slots__ = ("trade_id", "card", "price", "quantity", "taker_side", "executed_at")
    TRADE_ID_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    TAKER_SIDE_FIELD_NUMBER: _ClassVar[int]
    EXECUTED_AT_FIELD_NUMBER: _ClassVar[int]
    trade_id: str
    card: str
    price: str
    quantity: int
    taker_side: str
    executed_at: str
    def __init__(self, trade_id: _Optional[str] = ..., card: _Optional[str] = ..., price: _Optional[str] = ..., quantity: _Optional[int] = ..., taker_side: _Optional[str] = ..., executed_at: _Optional[str] = ...) -> None: ...

class Fill(_message.Message):
    __slots__ = ("trade_id", "card", "price", "quantity", "taker_side", "executed_at", "order_id", "side", "liquidity")
    TRADE_ID_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    TAKER_SIDE_FIELD_NUMBER: _ClassVar[int]
    EXECUTED_AT_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    LIQUIDITY_FIELD_NUMBER: _ClassVar[int]
    trade_id: str
    card: str
    price: str
    quantity: int
    taker_side: str
    executed_at: str
    order_id: str
    side: str
    liquidity: str
    def __init__(self, trade_id: _Optional[str] = ..., card: _Optional[str] = ..., price: _Optional[str] = ..., quantity: _Optional[int] = ..., taker_side: _Optional[str] = ..., executed_at: _Optional[str] = ..., order_id: _Optional[str] = ..., side: _Optional[str] = ..., liquidity: _Optional[str] = ...) -> None: ...

class FieldError(_message.Message):
    __slots__ = ("field", "code", "rule", "value")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    field: str
    code: str
    rule: str
    value: str
    def __init__(self, field: _Optional[str] = ..., code: _Optional[str] = ..., rule: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "title", "detail", "status", "errors", "retry_after")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    code: str
    title: str
    detail: str
    status: int
    errors: _containers.RepeatedCompositeFieldContainer[FieldError]
    retry_after: int
    def __init__(self, code: _Optional[str] = ..., title: _Optional[str] = ..., detail: _Optional[str] = ..., status: _Optional[int] = ..., errors: _Optional[_Iterable[_Union[FieldError, _Mapping]]] = ..., retry_after: _Optional[int] = ...) -> None: ...

class PlaceOrderRequest(_message.Message):
    __slots__ = ("card", "side", "price", "quantity", "client_order_id", "time_in_force", "post_only", "wait_seconds")
    CARD_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_IN_FORCE_FIELD_NUMBER: _ClassVar[int]
    POST_ONLY_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    card: str
    side: str
    price: str
    quantity: int
    client_order_id: str
    time_in_force: str
    post_only: bool
    wait_seconds: float
    def __init__(self, card: _Optional[str] = ..., side: _Optional[str] = ..., price: _Optional[str] = ..., quantity: _Optional[int] = ..., client_order_id: _Optional[str] = ..., time_in_force: _Optional[str] = ..., post_only: _Optional[bool] = ..., wait_seconds: _Optional[float] = ...) -> None: ...

class PlaceOrderResponse(_message.Message):
    __slots__ = ("order", "matched", "fills", "average_price")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    FILLS_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_PRICE_FIELD_NUMBER: _ClassVar[int]
    order: Order
    matched: bool
    fills: _containers.RepeatedCompositeFieldContainer[Fill]
    average_price: str
    def __init__(self, order: _Optional[_Union[Order, _Mapping]] = ..., matched: _Optional[bool] = ..., fills: _Optional[_Iterable[_Union[Fill, _Mapping]]] = ..., average_price: _Optional[str] = ...) -> None: ...

class ReplaceOrderRequest(_message.Message):
    __slots__ = ("order_id", "price", "quantity", "post_only", "client_order_id", "wait_seconds")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    POST_ONLY_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    price: str
    quantity: int
    post_only: bool
    client_order_id: str
    wait_seconds: float
    def __init__(self, order_id: _Optional[str] = ..., price: _Optional[str] = ..., quantity: _Optional[int] = ..., post_only: _Optional[bool] = ..., client_order_id: _Optional[str] = ..., wait_seconds: _Optional[float] = ...) -> None: ...

class ReplaceOrderResponse(_message.Message):
    __slots__ = ("order", "matched", "fills", "average_price")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    FILLS_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_PRICE_FIELD_NUMBER: _ClassVar[int]
    order: Order
    matched: bool
    fills: _containers.RepeatedCompositeFieldContainer[Fill]
    average_price: str
    def __init__(self, order: _Optional[_Union[Order, _Mapping]] = ..., matched: _Optional[bool] = ..., fills: _Optional[_Iterable[_Union[Fill, _Mapping]]] = ..., average_price: _Optional[str] = ...) -> None: ...

class CancelOrderRequest(_message.Message):
    __slots__ = ("order_id", "wait_seconds")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    wait_seconds: float
    def __init__(self, order_id: _Optional[str] = ..., wait_seconds: _Optional[float] = ...) -> None: ...

class CancelOrderResponse(_message.Message):
    __slots__ = ("order", "matched")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    order: Order
    matched: bool
    def __init__(self, order: _Optional[_Union[Order, _Mapping]] = ..., matched: _Optional[bool] = ...) -> None: ...

class CancelOrdersRequest(_message.Message):
    __slots__ = ("card", "wait_seconds")
    CARD_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    card: str
    wait_seconds: float
    def __init__(self, card: _Optional[str] = ..., wait_seconds: _Optional[float] = ...) -> None: ...

class CancelOrdersResponse(_message.Message):
    __slots__ = ("orders", "matched")
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    orders: _containers.RepeatedCompositeFieldContainer[Order]
    matched: bool
    def __init__(self, orders: _Optional[_Iterable[_Union[Order, _Mapping]]] = ..., matched: _Optional[bool] = ...) -> None: ...

class NewOrder(_message.Message):
    __slots__ = ("card", "side", "price", "quantity", "client_order_id", "time_in_force", "post_only")
    CARD_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_IN_FORCE_FIELD_NUMBER: _ClassVar[int]
    POST_ONLY_FIELD_NUMBER: _ClassVar[int]
    card: str
    side: str
    price: str
    quantity: int
    client_order_id: str
    time_in_force: str
    post_only: bool
    def __init__(self, card: _Optional[str] = ..., side: _Optional[str] = ..., price: _Optional[str] = ..., quantity: _Optional[int] = ..., client_order_id: _Optional[str] = ..., time_in_force: _Optional[str] = ..., post_only: _Optional[bool] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("order_id",)
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    def __init__(self, order_id: _Optional[str] = ...) -> None: ...

class Replace(_message.Message):
    __slots__ = ("order_id", "price", "quantity", "post_only", "client_order_id")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    POST_ONLY_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    price: str
    quantity: int
    post_only: bool
    client_order_id: str
    def __init__(self, order_id: _Optional[str] = ..., price: _Optional[str] = ..., quantity: _Optional[int] = ..., post_only: _Optional[bool] = ..., client_order_id: _Optional[str] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("place", "cancel", "replace")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    place: NewOrder
    cancel: Cancel
    replace: Replace
    def __init__(self, place: _Optional[_Union[NewOrder, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., replace: _Optional[_Union[Replace, _Mapping]] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("order", "error")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    order: Order
    error: Error
    def __init__(self, order: _Optional[_Union[Order, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class SubmitOrdersRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ...) -> None: ...

class SubmitOrdersResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[Result]
    def __init__(self, results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ...) -> None: ...

class StreamOrdersRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ...) -> None: ...

class StreamOrdersResponse(_message.Message):
    __slots__ = ("results", "error")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[Result]
    error: Error
    def __init__(self, results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class GetOrderRequest(_message.Message):
    __slots__ = ("order_id", "client_order_id")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    client_order_id: str
    def __init__(self, order_id: _Optional[str] = ..., client_order_id: _Optional[str] = ...) -> None: ...

class GetOrderResponse(_message.Message):
    __slots__ = ("order", "fills", "average_price")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    FILLS_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_PRICE_FIELD_NUMBER: _ClassVar[int]
    order: Order
    fills: _containers.RepeatedCompositeFieldContainer[Fill]
    average_price: str
    def __init__(self, order: _Optional[_Union[Order, _Mapping]] = ..., fills: _Optional[_Iterable[_Union[Fill, _Mapping]]] = ..., average_price: _Optional[str] = ...) -> None: ...

class ListOrdersRequest(_message.Message):
    __slots__ = ("status", "card", "side", "before", "limit")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    status: str
    card: str
    side: str
    before: str
    limit: int
    def __init__(self, status: _Optional[str] = ..., card: _Optional[str] = ..., side: _Optional[str] = ..., before: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListOrdersResponse(_message.Message):
    __slots__ = ("orders", "next")
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    orders: _containers.RepeatedCompositeFieldContainer[Order]
    next: str
    def __init__(self, orders: _Optional[_Iterable[_Union[Order, _Mapping]]] = ..., next: _Optional[str] = ...) -> None: ...

class ListFillsRequest(_message.Message):
    __slots__ = ("card", "order_id", "before", "limit")
    CARD_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    card: str
    order_id: str
    before: str
    limit: int
    def __init__(self, card: _Optional[str] = ..., order_id: _Optional[str] = ..., before: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListFillsResponse(_message.Message):
    __slots__ = ("fills", "next")
    FILLS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    fills: _containers.RepeatedCompositeFieldContainer[Fill]
    next: str
    def __init__(self, fills: _Optional[_Iterable[_Union[Fill, _Mapping]]] = ..., next: _Optional[str] = ...) -> None: ...

class GetBookRequest(_message.Message):
    __slots__ = ("card", "depth")
    CARD_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    card: str
    depth: int
    def __init__(self, card: _Optional[str] = ..., depth: _Optional[int] = ...) -> None: ...

class Level(_message.Message):
    __slots__ = ("price", "quantity")
    PRICE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    price: str
    quantity: int
    def __init__(self, price: _Optional[str] = ..., quantity: _Optional[int] = ...) -> None: ...

class GetBookResponse(_message.Message):
    __slots__ = ("card", "sequence", "bids", "asks")
    CARD_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    BIDS_FIELD_NUMBER: _ClassVar[int]
    ASKS_FIELD_NUMBER: _ClassVar[int]
    card: str
    sequence: int
    bids: _containers.RepeatedCompositeFieldContainer[Level]
    asks: _containers.RepeatedCompositeFieldContainer[Level]
    def __init__(self, card: _Optional[str] = ..., sequence: _Optional[int] = ..., bids: _Optional[_Iterable[_Union[Level, _Mapping]]] = ..., asks: _Optional[_Iterable[_Union[Level, _Mapping]]] = ...) -> None: ...

class ListTradesRequest(_message.Message):
    __slots__ = ("card", "limit")
    CARD_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    card: str
    limit: int
    def __init__(self, card: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListTradesResponse(_message.Message):
    __slots__ = ("trades",)
    TRADES_FIELD_NUMBER: _ClassVar[int]
    trades: _containers.RepeatedCompositeFieldContainer[Trade]
    def __init__(self, trades: _Optional[_Iterable[_Union[Trade, _Mapping]]] = ...) -> None: ...

class ListCandlesRequest(_message.Message):
    __slots__ = ("card", "interval", "start", "end", "fill", "limit")
    CARD_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    FILL_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    card: str
    interval: str
    start: str
    end: str
    fill: str
    limit: int
    def __init__(self, card: _Optional[str] = ..., interval: _Optional[str] = ..., start: _Optional[str] = ..., end: _Optional[str] = ..., fill: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class Candle(_message.Message):
    __slots__ = ("start", "open", "high", "low", "close", "volume", "trades", "closed")
    START_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    TRADES_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    start: str
    open: str
    high: str
    low: str
    close: str
    volume: int
    trades: int
    closed: bool
    def __init__(self, start: _Optional[str] = ..., open: _Optional[str] = ..., high: _Optional[str] = ..., low: _Optional[str] = ..., close: _Optional[str] = ..., volume: _Optional[int] = ..., trades: _Optional[int] = ..., closed: _Optional[bool] = ...) -> None: ...

class ListCandlesResponse(_message.Message):
    __slots__ = ("candles", "next")
    CANDLES_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    candles: _containers.RepeatedCompositeFieldContainer[Candle]
    next: str
    def __init__(self, candles: _Optional[_Iterable[_Union[Candle, _Mapping]]] = ..., next: _Optional[str] = ...) -> None: ...

class StreamEventsRequest(_message.Message):
    __slots__ = ("channels", "after", "interval_ms")
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    channels: _containers.RepeatedScalarFieldContainer[str]
    after: str
    interval_ms: int
    def __init__(self, channels: _Optional[_Iterable[str]] = ..., after: _Optional[str] = ..., interval_ms: _Optional[int] = ...) -> None: ...

class StreamEventsResponse(_message.Message):
    __slots__ = ("event", "data", "positions")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    event: str
    data: str
    positions: str
    def __init__(self, event: _Optional[str] = ..., data: _Optional[str] = ..., positions: _Optional[str] = ...) -> None: ...
