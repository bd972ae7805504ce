"""The door of GraphQL."""

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import httpx

from tests.doors.door import FieldFault, Json, Refused

SECONDS = 20
ORDER = (
    "orderId clientOrderId card side price quantity filledQuantity status timeInForce acceptedAt closedAt postOnly "
    "replaces carriedQuantity reason replacedBy"
)
TRADE = "tradeId card price quantity takerSide executedAt"
FILL = f"{TRADE} orderId side liquidity"
WITH_FILLS = f"{ORDER} averagePrice fills {{ {FILL} }}"
BOOK = "sequence bids { price quantity } asks { price quantity }"
CANDLE = "start open high low close volume trades closed"
PAGE = "pageInfo { hasNextPage endCursor }"
FIELDS = {"items": "orders"}
"""Fields that have another name in REST."""


class GraphqlDoor:
    """A trader's calls over GraphQL."""

    def __init__(self, url: str, authorization: str) -> None:
        headers = {"authorization": authorization} if authorization else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=SECONDS, trust_env=False)

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def place(self, *, wait: float = 0, **fields: Any) -> Json:
        return self._placed(
            f"mutation ($order: NewOrder!, $wait: Float!) {{ placeOrder(order: $order, wait: $wait) {{ {PLACED} }} }}",
            order=camel(fields),
            wait=wait,
        )

    def replace(self, order_id: str, *, wait: float = 0, **fields: Any) -> Json:
        return self._placed(
            "mutation ($id: String!, $change: OrderChange!, $wait: Float!) "
            f"{{ replaceOrder(orderId: $id, change: $change, wait: $wait) {{ {PLACED} }} }}",
            id=order_id,
            change=camel(fields),
            wait=wait,
        )

    def cancel(self, order_id: str, *, wait: float = 0) -> Json:
        query = (
            "mutation ($id: String!, $wait: Float!) "
            f"{{ cancelOrder(orderId: $id, wait: $wait) {{ order {{ {ORDER} }} }} }}"
        )
        order: Json = self._call(query, id=order_id, wait=wait)["order"]
        return order

    def cancel_all(self, card: str | None = None, *, wait: float = 0) -> list[Json]:
        query = (
            "mutation ($card: String, $wait: Float!) "
            f"{{ cancelOrders(card: $card, wait: $wait) {{ orders {{ {ORDER} }} }} }}"
        )
        orders: list[Json] = self._call(query, card=card, wait=wait)["orders"]
        return orders

    def submit(self, items: list[Json]) -> list[Json]:
        query = (
            f"mutation ($items: [Item!]!) {{ submitOrders(items: $items) {{ order {{ {ORDER} }} "
            "error { code detail status } } }"
        )
        results = self._call(query, items=[item_of(item) for item in items])
        return [each["order"] or {"error": each["error"]} for each in results]

    def order(self, order_id: str) -> Json:
        return with_trades(self._call(f"query ($id: String) {{ order(orderId: $id) {{ {WITH_FILLS} }} }}", id=order_id))

    def order_by_client_id(self, client_order_id: str) -> Json:
        query = f"query ($id: String) {{ order(clientOrderId: $id) {{ {WITH_FILLS} }} }}"
        return with_trades(self._call(query, id=client_order_id))

    def orders(self, **query: Any) -> tuple[list[Json], str | None]:
        return self._page("orders", ORDER, {"status": "String", "card": "String", "side": "String"}, query)

    def fills(self, **query: Any) -> tuple[list[Json], str | None]:
        return self._page("fills", FILL, {"orderId": "String", "card": "String"}, query)

    def book(self, card: str, depth: int | None = None) -> Json:
        asked = "" if depth is None else f"(depth: {depth})"
        query = f"query ($card: String!) {{ card(name: $card) {{ book{asked} {{ {BOOK} }} }} }}"
        book: Json = self._call(query, card=card)["book"]
        return book | {side: [[each["price"], each["quantity"]] for each in book[side]] for side in ("bids", "asks")}

    def trades(self, card: str, limit: int | None = None) -> list[Json]:
        asked = "" if limit is None else f"(first: {limit})"
        query = f"query ($card: String!) {{ card(name: $card) {{ trades{asked} {{ {TRADE} }} }} }}"
        trades: list[Json] = self._call(query, card=card)["trades"]
        return trades

    def candles(self, card: str, *, interval: str, limit: int = 500) -> list[Json]:
        query = (
            "query ($card: String!, $interval: String!, $first: Int!) { card(name: $card) "
            "{ candles(interval: $interval, first: $first) { candles { " + CANDLE + " } } } }"
        )
        candles: list[Json] = self._call(query, card=card, interval=interval, first=limit)["candles"]["candles"]
        return candles

    @contextmanager
    def stream(self, *channels: str) -> Iterator[Iterator[tuple[str, Json]]]:
        """A subscription over server-sent events for each channel. `hello` comes once each is positioned."""
        found: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        with ExitStack() as stack:
            for channel in channels:
                answer = stack.enter_context(self._subscribed(channel))
                threading.Thread(target=_read, args=(channel.partition(":")[0], answer, found), daemon=True).start()
            yield _merged(found, len(channels))

    def _subscribed(self, channel: str) -> AbstractContextManager[httpx.Response]:
        kind, _, card = channel.partition(":")
        fields = {
            "trades": f"sequence trades {{ {TRADE} }}",
            "orders": f"event sequence orders {{ {ORDER} }}",
        }[kind]
        query = f"subscription {{ {kind}{f'(card: {json.dumps(card)})' if card else ''} {{ {fields} }} }}"
        headers = {"accept": "text/event-stream"}
        return self._client.stream("POST", "/graphql", json={"query": query}, headers=headers)

    def _placed(self, query: str, **variables: Any) -> Json:
        found = self._call(query, **variables)
        order: Json = found["order"]
        return (
            with_trades(order)
            if found["matched"]
            else {name: order[name] for name in snake(dict.fromkeys(ORDER.split()))}
        )

    def _page(self, name: str, fields: str, filters: Json, query: Json) -> tuple[list[Json], str | None]:
        given = camel(query)
        renamed = {"limit": "first", "before": "after"}
        variables = {renamed.get(key, key): value for key, value in given.items()}
        types = filters | {"first": "Int!", "after": "String"}
        asked = f"({', '.join(f'${key}: {types[key]}' for key in variables)})" if variables else ""
        arguments = f"({', '.join(f'{key}: ${key}' for key in variables)})" if variables else ""
        page = self._call(
            f"query {asked} {{ {name}{arguments} {{ nodes {{ {fields} }} {PAGE} }} }}",
            **variables,
        )
        assert page["page_info"]["has_next_page"] == (page["page_info"]["end_cursor"] is not None)
        return page["nodes"], page["page_info"]["end_cursor"]

    def _call(self, query: str, **variables: Any) -> Any:
        answer = self._client.post("/graphql", json={"query": query, "variables": variables})
        assert answer.status_code == 200, answer.text
        body = answer.json()
        if body.get("errors"):
            raise refusal(body["errors"][0])
        (found,) = body["data"].values()
        return snake(found)


PLACED = f"matched order {{ {WITH_FILLS} }}"


def refusal(error: Json) -> Refused:
    """What an error says."""
    extensions = error["extensions"]
    faults = [
        FieldFault(FIELDS.get(each["field"], each["field"]), each["code"]) for each in extensions.get("errors", [])
    ]
    return Refused(extensions["code"], error["message"], faults, extensions.get("retryAfter", 0))


def with_trades(order: Json) -> Json:
    """The fills of an order under their name in REST."""
    return {name: value for name, value in order.items() if name != "fills"} | {"trades": order["fills"]}


def camel(fields: Json) -> Json:
    """Names as in GraphQL."""
    return {_camel(name): value for name, value in fields.items()}


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.title() for word in others)


def snake(value: Any) -> Any:
    """Names as in REST."""
    if isinstance(value, list):
        return [snake(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {"".join(f"_{c.lower()}" if c.isupper() else c for c in name): snake(each) for name, each in value.items()}


def item_of(item: Json) -> Json:
    """An item of a batch."""
    fields = camel({name: value for name, value in item.items() if name != "action"})
    action = item.get("action", "place")
    return {"cancel": fields["orderId"]} if action == "cancel" else {action: fields}


def _read(kind: str, answer: httpx.Response, found: "queue.SimpleQueue[tuple[str, Any]]") -> None:
    try:
        for result in events(answer):
            found.put((kind, result))
    except httpx.HTTPError as error:
        found.put((kind, error))


def _merged(found: "queue.SimpleQueue[tuple[str, Any]]", count: int) -> Iterator[tuple[str, Json]]:
    """The results of all subscriptions, behind `hello`; the first ones only have the positions."""
    for _ in range(count):
        _content(*found.get(timeout=SECONDS))
    yield "hello", {}
    while True:
        kind, result = found.get(timeout=SECONDS)
        yield kind, _content(kind, result)


def _content(kind: str, result: Any) -> Json:
    if result.get("errors"):
        raise refusal(result["errors"][0])
    content: Json = snake(result["data"][kind])
    return content


def events(answer: httpx.Response) -> Iterator[Json]:
    """The results of a subscription over server-sent events."""
    event = ""
    for line in answer.iter_lines():
        name, _, value = line.partition(":")
        if name == "event":
            event = value.strip()
        elif name == "data" and event == "next":
            yield json.loads(value)
        elif event == "complete":
            return
