"""The door of REST."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.doors.door import FieldFault, Json, Refused, set_fields

SECONDS = 20


class RestDoor:
    """A trader's calls over REST."""

    def __init__(self, url: str, authorization: str) -> None:
        headers = {"authorization": authorization} if authorization else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=SECONDS, trust_env=False)

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def place(self, *, wait: float = 0, **fields: Any) -> Json:
        return self._call("POST", "/orders", fields, wait)

    def replace(self, order_id: str, *, wait: float = 0, **fields: Any) -> Json:
        return self._call("PATCH", f"/orders/{order_id}", fields, wait)

    def cancel(self, order_id: str, *, wait: float = 0) -> Json:
        return self._call("DELETE", f"/orders/{order_id}", None, wait)

    def cancel_all(self, card: str | None = None, *, wait: float = 0) -> list[Json]:
        orders: list[Json] = self._call("DELETE", "/orders", None, wait, card=card)["orders"]
        return orders

    def submit(self, items: list[Json]) -> list[Json]:
        results: list[Json] = self._call("POST", "/orders/batch", {"orders": items}, 0)["results"]
        return results

    def order(self, order_id: str) -> Json:
        return self._call("GET", f"/orders/{order_id}", None, 0)

    def order_by_client_id(self, client_order_id: str) -> Json:
        return self._call("GET", f"/orders/by-client-id/{client_order_id}", None, 0)

    def orders(self, **query: Any) -> tuple[list[Json], str | None]:
        page = self._call("GET", "/orders", None, 0, **query)
        return page["orders"], page["next"]

    def fills(self, **query: Any) -> tuple[list[Json], str | None]:
        page = self._call("GET", "/fills", None, 0, **query)
        return page["fills"], page["next"]

    def book(self, card: str, depth: int | None = None) -> Json:
        return self._call("GET", f"/cards/{card}/book", None, 0, depth=depth)

    def trades(self, card: str, limit: int | None = None) -> list[Json]:
        trades: list[Json] = self._call("GET", f"/cards/{card}/trades", None, 0, limit=limit)["trades"]
        return trades

    def candles(self, card: str, **query: Any) -> list[Json]:
        candles: list[Json] = self._call("GET", f"/cards/{card}/candles", None, 0, **query)["candles"]
        return candles

    @contextmanager
    def stream(self, *channels: str) -> Iterator[Iterator[tuple[str, Json]]]:
        with self._client.stream("GET", "/stream", params={"channels": ",".join(channels)}) as answer:
            if answer.status_code != 200:
                answer.read()
                raise _refusal(answer)
            yield _events(answer)

    def _call(self, method: str, path: str, body: Any, wait: float, **query: Any) -> Json:
        headers = {"prefer": f"wait={wait:g}"} if wait else {}
        answer = self._client.request(method, path, json=body, headers=headers, params=set_fields(query))
        if answer.status_code >= 400:
            raise _refusal(answer)
        found: Json = answer.json()
        return found


def _events(answer: httpx.Response) -> Iterator[tuple[str, Json]]:
    event = ""
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield event, json.loads(value)


def _refusal(answer: httpx.Response) -> Refused:
    problem = answer.json()
    faults = [FieldFault(each["field"], each["code"]) for each in problem.get("errors", [])]
    return Refused(problem["code"], problem["detail"], faults, int(answer.headers.get("retry-after", 0)))
