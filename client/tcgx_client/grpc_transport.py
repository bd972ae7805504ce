"""Requests over gRPC: each is translated into a call of the contract, and its answer into the one that HTTP has.

So retries, exceptions and pages are the same as over HTTP. What the contract does not have (cards, tickers, history,
exports, cancel-after) and streams go over HTTP.
"""

import json
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

import grpc
import grpc.aio
import httpx2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from tcgx_client.contract import exchange_pb2 as pb

SERVICE = "/tcgx.v1.ExchangeService/"
DETAILS = "grpc-status-details-bin"
NO_CONNECTION = re.compile(r"failed to connect|connection refused|name resolution|DNS", re.IGNORECASE)
NOT_BEGUN = grpc.StatusCode.RESOURCE_EXHAUSTED
"""The server's own refusal of a call beyond its bound: nothing of it was done."""

Json = dict[str, Any]
SENT = ("authorization", "x-request-id")
"""Headers that go as metadata."""

MESSAGE_BYTES_MAX = 16_000_000
OPTIONS = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]


class Rpc(NamedTuple):
    """A call: its name, its request, the type of its response, and what becomes of that."""

    name: str
    request: Message
    response: type[Message]
    view: Callable[[Json], Json]


class _Asked(NamedTuple):
    """A request over HTTP. `name`: the part of its path that names something."""

    name: str
    query: Mapping[str, str]
    body: Json
    wait_seconds: float


def _same(response: Json) -> Json:
    return response


def _order_view(response: Json) -> Json:
    """The order, with its fills if the answer has them."""
    order: Json = response["order"]
    if response.get("matched", True) and "fills" in response:
        order |= {"trades": response["fills"], "average_price": response.get("average_price")}
    return order


def _book_view(response: Json) -> Json:
    sides = {side: [[level["price"], level["quantity"]] for level in response[side]] for side in ("bids", "asks")}
    return response | sides


def _results_view(response: Json) -> Json:
    return {
        "results": [
            one["order"] if "order" in one else {"error": _error_view(one["error"])} for one in response["results"]
        ]
    }


def _error_view(error: Json) -> Json:
    errors = [each | {"value": json.loads(each["value"]) if each["value"] else None} for each in error["errors"]]
    return error | {"errors": errors, "retry_after": error["retry_after"] or None}


def _item(item: Json) -> pb.Item:
    action = item.get("action", "place")
    fields = {name: value for name, value in item.items() if name != "action"}
    if action == "cancel":
        return pb.Item(cancel=pb.Cancel(**fields))
    if action == "replace":
        return pb.Item(replace=pb.Replace(**fields))
    return pb.Item(place=pb.NewOrder(**fields))


def _with_numbers(query: Mapping[str, str]) -> Json:
    return {name: int(value) if name in ("limit", "depth") else value for name, value in query.items()}


def _order_by_id(asked: _Asked) -> Rpc:
    return Rpc("GetOrder", pb.GetOrderRequest(order_id=asked.name), pb.GetOrderResponse, _order_view)


def _order_by_client_id(asked: _Asked) -> Rpc:
    return Rpc("GetOrder", pb.GetOrderRequest(client_order_id=asked.name), pb.GetOrderResponse, _order_view)


def _token(asked: _Asked) -> Rpc:
    return Rpc("GetToken", pb.GetTokenRequest(**asked.body), pb.GetTokenResponse, _same)


def _place(asked: _Asked) -> Rpc:
    request = pb.PlaceOrderRequest(**asked.body, wait_seconds=asked.wait_seconds)
    return Rpc("PlaceOrder", request, pb.PlaceOrderResponse, _order_view)


def _replace(asked: _Asked) -> Rpc:
    request = pb.ReplaceOrderRequest(order_id=asked.name, **asked.body, wait_seconds=asked.wait_seconds)
    return Rpc("ReplaceOrder", request, pb.ReplaceOrderResponse, _order_view)


def _cancel(asked: _Asked) -> Rpc:
    request = pb.CancelOrderRequest(order_id=asked.name, wait_seconds=asked.wait_seconds)
    return Rpc("CancelOrder", request, pb.CancelOrderResponse, _order_view)


def _cancel_all(asked: _Asked) -> Rpc:
    request = pb.CancelOrdersRequest(**asked.query, wait_seconds=asked.wait_seconds)
    return Rpc("CancelOrders", request, pb.CancelOrdersResponse, _same)


def _submit(asked: _Asked) -> Rpc:
    request = pb.SubmitOrdersRequest(items=[_item(item) for item in asked.body["orders"]])
    return Rpc("SubmitOrders", request, pb.SubmitOrdersResponse, _results_view)


def _orders(asked: _Asked) -> Rpc:
    request = pb.ListOrdersRequest(**_with_numbers(asked.query))
    return Rpc("ListOrders", request, pb.ListOrdersResponse, _same)


def _fills(asked: _Asked) -> Rpc:
    return Rpc("ListFills", pb.ListFillsRequest(**_with_numbers(asked.query)), pb.ListFillsResponse, _same)


def _book(asked: _Asked) -> Rpc:
    request = pb.GetBookRequest(card=asked.name, **_with_numbers(asked.query))
    return Rpc("GetBook", request, pb.GetBookResponse, _book_view)


def _trades(asked: _Asked) -> Rpc:
    request = pb.ListTradesRequest(card=asked.name, **_with_numbers(asked.query))
    return Rpc("ListTrades", request, pb.ListTradesResponse, _same)


def _candles(asked: _Asked) -> Rpc:
    request = pb.ListCandlesRequest(card=asked.name, **_with_numbers(asked.query))
    return Rpc("ListCandles", request, pb.ListCandlesResponse, _same)


CALLS: list[tuple[str, re.Pattern[str], Callable[[_Asked], Rpc]]] = [
    (method, re.compile(path), call)
    for method, path, call in (
        ("POST", r"/auth/token()", _token),
        ("POST", r"/orders()", _place),
        ("POST", r"/orders/batch()", _submit),
        ("GET", r"/orders()", _orders),
        ("DELETE", r"/orders()", _cancel_all),
        ("GET", r"/orders/by-client-id/([^/]+)", _order_by_client_id),
        ("GET", r"/orders/(?!by-client-id/|cancel-after$)([^/]+)", _order_by_id),
        ("PATCH", r"/orders/([^/]+)", _replace),
        ("DELETE", r"/orders/(?!cancel-after$)([^/]+)", _cancel),
        ("GET", r"/fills()", _fills),
        ("GET", r"/cards/([^/]+)/book", _book),
        ("GET", r"/cards/([^/]+)/trades", _trades),
        ("GET", r"/cards/([^/]+)/candles", _candles),
    )
]
"""The requests that the contract has a call for."""


def rpc_of(request: httpx2.Request, prefix: str) -> Rpc | None:
    """The call for a request; None where the contract has none, or its fields are of other types.

    The exchange says what is wrong with such a field over HTTP.
    """
    path = request.url.raw_path.partition(b"?")[0].decode("ascii").removeprefix(prefix)
    for method, pattern, call in CALLS:
        found = pattern.fullmatch(path) if method == request.method else None
        if found is None:
            continue
        wait = request.headers.get("prefer", "").removeprefix("wait=")
        body = json.loads(request.content) if request.content else {}
        query = dict(request.url.params.multi_items())
        try:
            return call(_Asked(unquote(found[1]), query, body, float(wait or 0)))
        except (TypeError, ValueError):
            return None
    return None


def json_of(message: Message) -> Json:
    """A message as the JSON that HTTP has: names as they are, numbers as numbers, and null for what is not set."""
    return {field.name: _value(message, field) for field in message.DESCRIPTOR.fields if _is_there(message, field)}


def _is_there(message: Message, field: Any) -> bool:
    # Of a `oneof` only the field that is set is shown. An optional field is in a `oneof` of its own.
    one = field.containing_oneof
    return one is None or len(one.fields) == 1 or message.WhichOneof(one.name) == field.name


def _value(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.is_repeated:
        return [json_of(each) if isinstance(each, Message) else each for each in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return json_of(value) if isinstance(value, Message) else value


def _answer(rpc: Rpc, response: Message) -> httpx2.Response:
    return httpx2.Response(200, json=rpc.view(json_of(response)))


def _refusal(error: grpc.RpcError, request: httpx2.Request) -> httpx2.Response:
    """The answer that HTTP has for an error of the exchange.

    Raises:
        httpx2.TransportError: it is no error of the exchange.
    """
    call: Any = error  # it is a grpc.Call, too
    code, detail = call.code(), call.details() or ""
    found = _details(dict(call.trailing_metadata() or ()))
    if found is not None:
        return _problem(*found, detail)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        raise httpx2.ReadTimeout(detail, request=request)
    if code is NOT_BEGUN:
        body = {"code": "overloaded", "title": "overloaded", "detail": detail}
        return httpx2.Response(503, json=body, headers={"retry-after": "1"})
    if code is grpc.StatusCode.UNAVAILABLE and NO_CONNECTION.search(detail):
        raise httpx2.ConnectError(detail, request=request)
    raise httpx2.ReadError(f"{code.name}: {detail}", request=request)


def _details(metadata: Mapping[str, Any]) -> tuple[error_details_pb2.ErrorInfo, list[Json], int, str] | None:
    """What the exchange says about an error: its kind, its fields, seconds until another try, the id of the request."""
    if DETAILS not in metadata:
        return None
    info, errors, seconds = error_details_pb2.ErrorInfo(), list[Json](), 0
    bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for one in status_pb2.Status.FromString(metadata[DETAILS]).details:
        if one.Unpack(bad):
            errors = [
                {"field": each.field, "code": each.reason.lower(), "rule": each.description}
                for each in bad.field_violations
            ]
        elif one.Unpack(retry):
            seconds = retry.retry_delay.seconds
        else:
            one.Unpack(info)
    return info, errors, seconds, str(metadata.get("x-request-id", ""))


def _problem(
    info: error_details_pb2.ErrorInfo, errors: list[Json], seconds: int, request_id: str, detail: str
) -> httpx2.Response:
    known = info.metadata
    body = {"code": known["code"], "title": known["title"], "detail": detail, "errors": errors}
    headers = {"x-request-id": request_id} | ({"retry-after": str(seconds)} if seconds else {})
    return httpx2.Response(int(known["http_status"]), json=body, headers=headers)


def _credentials(verify: ssl.SSLContext | bool) -> grpc.ChannelCredentials:
    if verify is False:
        raise ValueError("gRPC checks every certificate: give its authority as verify=ssl.create_default_context(…)")
    if verify is True:
        return grpc.ssl_channel_credentials()
    pem = "".join(ssl.DER_cert_to_PEM_cert(der) for der in verify.get_ca_certs(binary_form=True))
    return grpc.ssl_channel_credentials(root_certificates=pem.encode())


def _metadata(request: httpx2.Request) -> tuple[tuple[str, str | bytes], ...]:
    return tuple((name, request.headers[name]) for name in SENT if name in request.headers)


def _seconds(request: httpx2.Request) -> float | None:
    found: float | None = request.extensions.get("timeout", {}).get("read")
    return found


def _channel(kind: Any, target: str, credentials: grpc.ChannelCredentials | None) -> Any:
    """A channel. `kind`: `grpc`, or `grpc.aio`."""
    return (
        kind.insecure_channel(target, OPTIONS)
        if credentials is None
        else kind.secure_channel(target, credentials, OPTIONS)
    )


def _started(channel: Any, rpc: Rpc, request: httpx2.Request) -> Any:
    """The answer to a call over a channel of `grpc`; over one of `grpc.aio` what gives it when it is awaited."""
    call = channel.unary_unary(
        SERVICE + rpc.name,
        request_serializer=type(rpc.request).SerializeToString,
        response_deserializer=rpc.response.FromString,
    )
    return call(rpc.request, timeout=_seconds(request), metadata=_metadata(request))


class GrpcTransport(httpx2.BaseTransport):
    """Sends what the contract has over gRPC, and the rest over HTTP."""

    def __init__(self, target: str, *, prefix: str, is_tls: bool, verify: ssl.SSLContext | bool) -> None:
        """`target`: host and port of gRPC. `prefix`: what the paths of requests begin with."""
        self._prefix = prefix
        self._channel = _channel(grpc, target, _credentials(verify) if is_tls else None)
        self._http = httpx2.HTTPTransport(verify=verify)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends a request."""
        request.read()
        rpc = rpc_of(request, self._prefix)
        if rpc is None:
            return self._http.handle_request(request)
        try:
            return _answer(rpc, _started(self._channel, rpc, request))
        except grpc.RpcError as error:
            return _refusal(error, request)

    def close(self) -> None:
        """Closes the connections."""
        self._channel.close()
        self._http.close()


class AsyncGrpcTransport(httpx2.AsyncBaseTransport):
    """The same for asyncio. The channel belongs to the loop that the first request runs in."""

    def __init__(self, target: str, *, prefix: str, is_tls: bool, verify: ssl.SSLContext | bool) -> None:
        """`target`: host and port of gRPC. `prefix`: what the paths of requests begin with."""
        self._prefix = prefix
        self._target = target
        self._credentials = _credentials(verify) if is_tls else None
        self._channel: Any = None
        self._http = httpx2.AsyncHTTPTransport(verify=verify)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends a request."""
        await request.aread()
        rpc = rpc_of(request, self._prefix)
        if rpc is None:
            return await self._http.handle_async_request(request)
        if self._channel is None:
            self._channel = _channel(grpc.aio, self._target, self._credentials)
        try:
            return _answer(rpc, await _started(self._channel, rpc, request))
        except grpc.RpcError as error:
            return _refusal(error, request)

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._channel is not None:
            await self._channel.close()
        await self._http.aclose()
