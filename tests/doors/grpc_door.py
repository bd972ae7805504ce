"""The door of gRPC."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2, status_pb2

from rpc.v1 import exchange_pb2 as pb
from rpc.v1 import exchange_pb2_grpc
from tests.doors.door import FieldFault, Json, Refused, set_fields

SECONDS = 20
DETAILS = "grpc-status-details-bin"
FIELDS = {"items": "orders", "wait_seconds": "Prefer"}
"""Fields that have another name in REST."""


class GrpcDoor:
    """A trader's calls over gRPC."""

    def __init__(self, address: str, authorization: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self.stub: Any = exchange_pb2_grpc.ExchangeServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self.metadata = (("authorization", authorization),) if authorization else ()

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def place(self, *, wait: float = 0, **fields: Any) -> Json:
        return _matched(self._call("PlaceOrder", pb.PlaceOrderRequest(wait_seconds=wait, **fields)))

    def replace(self, order_id: str, *, wait: float = 0, **fields: Any) -> Json:
        request = pb.ReplaceOrderRequest(order_id=order_id, wait_seconds=wait, **fields)
        return _matched(self._call("ReplaceOrder", request))

    def cancel(self, order_id: str, *, wait: float = 0) -> Json:
        return as_json(self._call("CancelOrder", pb.CancelOrderRequest(order_id=order_id, wait_seconds=wait)).order)

    def cancel_all(self, card: str | None = None, *, wait: float = 0) -> list[Json]:
        found = self._call("CancelOrders", pb.CancelOrdersRequest(card=card, wait_seconds=wait))
        return [as_json(order) for order in found.orders]

    def submit(self, items: list[Json]) -> list[Json]:
        found = self._call("SubmitOrders", pb.SubmitOrdersRequest(items=[item_of(item) for item in items]))
        return [result_of(result) for result in found.results]

    def order(self, order_id: str) -> Json:
        return _matched(self._call("GetOrder", pb.GetOrderRequest(order_id=order_id)))

    def order_by_client_id(self, client_order_id: str) -> Json:
        return _matched(self._call("GetOrder", pb.GetOrderRequest(client_order_id=client_order_id)))

    def orders(self, **query: Any) -> tuple[list[Json], str | None]:
        page = self._call("ListOrders", pb.ListOrdersRequest(**query))
        return [as_json(order) for order in page.orders], page.next or None

    def fills(self, **query: Any) -> tuple[list[Json], str | None]:
        page = self._call("ListFills", pb.ListFillsRequest(**query))
        return [as_json(fill) for fill in page.fills], page.next or None

    def book(self, card: str, depth: int | None = None) -> Json:
        book = self._call("GetBook", pb.GetBookRequest(card=card, depth=depth))
        sides = {"bids": book.bids, "asks": book.asks}
        levels = {side: [[level.price, level.quantity] for level in found] for side, found in sides.items()}
        return {"card": book.card, "sequence": book.sequence, **levels}

    def trades(self, card: str, limit: int | None = None) -> list[Json]:
        return [
            as_json(trade) for trade in self._call("ListTrades", pb.ListTradesRequest(card=card, limit=limit)).trades
        ]

    def candles(self, card: str, **query: Any) -> list[Json]:
        found = self._call("ListCandles", pb.ListCandlesRequest(card=card, **query))
        return [as_json(candle) for candle in found.candles]

    @contextmanager
    def stream(self, *channels: str) -> Iterator[Iterator[tuple[str, Json]]]:
        request = pb.StreamEventsRequest(channels=channels)
        call = self.stub.StreamEvents(request, metadata=self.metadata, timeout=SECONDS)
        try:
            yield _events(call)
        finally:
            call.cancel()

    def _call(self, name: str, request: Any) -> Any:
        try:
            return getattr(self.stub, name)(request, metadata=self.metadata, timeout=SECONDS)
        except grpc.RpcError as error:
            raise refusal(error) from error


def _events(call: Any) -> Iterator[tuple[str, Json]]:
    try:
        for message in call:
            yield message.event, json.loads(message.data)
    except grpc.RpcError as error:
        raise refusal(error) from error


def refusal(error: Any) -> Refused:
    """What a status says."""
    details = dict(error.trailing_metadata() or ())
    if DETAILS not in details:
        raise error
    status = status_pb2.Status.FromString(details[DETAILS])
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details:
        for kind in (info, bad, retry):
            if detail.Is(kind.DESCRIPTOR):
                detail.Unpack(kind)
    assert status.message == error.details()
    assert status.code == error.code().value[0]
    faults = [FieldFault(FIELDS.get(each.field, each.field), each.reason.lower()) for each in bad.field_violations]
    return Refused(info.metadata["code"], status.message, faults, retry.retry_delay.seconds)


def as_json(message: Any) -> Json:
    """A message as the JSON of REST: numbers are numbers, and what is absent is null."""
    found: Json = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    for field in message.DESCRIPTOR.fields:
        if field.cpp_type == field.CPPTYPE_INT64 and field.name in found:
            found[field.name] = int(found[field.name])
        if field.has_presence and field.cpp_type != field.CPPTYPE_MESSAGE:
            found.setdefault(field.name, None)
    return found


def _matched(response: Any) -> Json:
    order = as_json(response.order)
    if getattr(response, "matched", True):
        average = response.average_price if response.HasField("average_price") else None
        order |= {"average_price": average, "trades": [as_json(fill) for fill in response.fills]}
    return order


def item_of(item: Json) -> pb.Item:
    """An item of a batch."""
    fields = {name: value for name, value in item.items() if name != "action"}
    action = item.get("action", "place")
    made = {"place": pb.NewOrder, "cancel": pb.Cancel, "replace": pb.Replace}[action](**set_fields(fields))
    return pb.Item(**{action: made})


def result_of(result: pb.Result) -> Json:
    """A result of a batch."""
    if result.WhichOneof("outcome") == "order":
        return as_json(result.order)
    return {"error": {"code": result.error.code, "detail": result.error.detail, "status": result.error.status}}
