"""Every message fits exactly one struct of the AsyncAPI document."""

import json
from typing import Any

import jsonschema_rs
import pytest

from api.openapi.asyncapi import document
from api.openapi.stream_messages import MESSAGES, judge
from core.settings import Settings
from streams import messages
from streams.leases import LeaseText
from testing.clients.stream import EventStream
from testing.exchange import ExchangeServer
from tests.streams.conftest import Socket

Json = dict[str, Any]
REQUESTS: tuple[Json, ...] = (
    {"op": "ping", "id": 1},
    {"op": "subscribe", "channels": ["nothing"]},
    {"op": "subscribe", "channels": ["book:pikachu", "trades:pikachu", "orders", "candles:pikachu:1m", "ticker"]},
    {"op": "dance"},
)


def plain(message: messages.Message) -> Json:
    found: Json = json.loads(message.json)
    return found


@pytest.mark.server
def test_messages_of_a_busy_stream_are_those_of_the_document(exchange: ExchangeServer) -> None:
    trader, other = exchange.trader(), exchange.trader()
    schemas = document(exchange.settings)["components"]
    found: list[Json] = []
    with Socket(exchange, trader_id=trader.trader_id) as socket:
        for request in REQUESTS[:-1]:
            socket.say(**request)
        while not any(message["type"] == "snapshot" and message["channel"] == "book" for message in found):
            found.append(socket.next())
        order = trader.place("pikachu", "sell", "5.60", quantity=3)
        other.place("pikachu", "buy", "5.60", quantity=2)
        trader.http.delete(f"/orders/{order['order_id']}")
        while not any(message.get("event") == "canceled" for message in found):
            found.append(socket.next())
        while not any(message["type"] == "candle" for message in found):
            found.append(socket.next())
        socket.say(**REQUESTS[-1])
        found += socket.until_closed()[0]
    with EventStream(exchange.url, "trades:pikachu", after="pikachu.99999999") as stream:
        found += [stream.next().data, stream.next().data]

    seen = set()
    for message in found:
        name = type(judge(message)).__name__
        seen.add(name)
        schema = {**schemas["schemas"][name], "components": schemas}
        jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(message)
    expected = {"HelloMessage", "SubscribedMessage", "BookSnapshot", "BookUpdate", "TradesMessage", "OrdersSnapshot"}
    assert seen >= expected | {"OrderMessage", "TickerMessage", "CandleMessage", "ErrorMessage", "ByeMessage"}
    assert seen >= {"PongMessage", "ResetMessage"}


def test_messages_that_are_rare_are_those_of_the_document() -> None:
    made = [
        messages.heartbeat({"pikachu": 7}, {"pikachu": (1, 2)}),
        messages.gap("trades", "pikachu", after=1, before=5),
        messages.authenticated("2026-11-22T23:53:06Z", None),
        messages.authenticated("2026-11-22T23:53:06Z", 1, LeaseText(5, "2026-11-22T23:53:16.123Z")),
        messages.lease(7, 5, cancel_on_close=True),
        messages.lease(None, 0, ended="taken_over"),
        messages.Bye(1012, "restarting", "x", 5).message(),
    ]

    assert [type(judge(plain(each))).__name__ for each in made] == [
        *("HeartbeatMessage", "GapMessage", "AuthenticatedMessage", "AuthenticatedMessage"),
        *("LeaseMessage", "LeaseMessage", "ByeMessage"),
    ]


def test_the_document_has_every_message_and_its_references_lead_somewhere() -> None:
    made = document(Settings())

    assert set(made["components"]["messages"]) == {struct.__name__ for struct in MESSAGES} | {"Request"}
    for reference in _references(made):
        part: Any = made
        for name in reference.removeprefix("#/").split("/"):
            part = part[name]


def _references(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [each for value in part.values() for each in _references(value)]
    return [each for value in part for each in _references(value)] if isinstance(part, list) else []


@pytest.mark.server
def test_the_document_is_served(exchange: ExchangeServer) -> None:
    answer = exchange.http.get("/schema/asyncapi.yaml")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/yaml")
    assert answer.json()["asyncapi"] == "3.0.0"
