"""A trader who talks HTTP to an exchange: the one client of the tests."""

from typing import Any

import httpx
import msgspec

from core.model import LATEST
from testing.waiting import until

ANSWER_SECONDS = 20.0
IDLE_SECONDS = 2.0  # uvicorn closes a connection that has been idle for 5
WAIT = {"prefer": "wait=10"}
BATCH_MAX = 500
PAGES_MAX = 1_000

ORDER_FIELDS = {
    *("order_id", "client_order_id", "card", "side", "price", "quantity", "filled_quantity", "status"),
    *("time_in_force", "accepted_at", "closed_at", "post_only", "replaces", "carried_quantity", "reason"),
    "replaced_by",
}

Json = dict[str, Any]


class Answer(msgspec.Struct, frozen=True):
    """Status and decoded body of an HTTP answer."""

    status: int
    body: Any


def http_client(url: str, authorization: str = "", **options: Any) -> httpx.Client:
    """A client with this header, whose idle connections end before the server ends them."""
    return httpx.Client(
        base_url=url,
        headers={"authorization": authorization} if authorization else {},
        timeout=ANSWER_SECONDS,
        limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS),
        trust_env=False,
        **options,
    )


class Trader:
    """The requests of one trader; `http` sends any other request."""

    def __init__(self, http: httpx.Client, trader_id: int = 0) -> None:
        self.http = http
        self.trader_id = trader_id

    def request(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """One request.

        Raises:
            httpx.TransportError: no answer.
        """
        answer = self.http.request(method, path, json=body, headers=headers)
        return Answer(answer.status_code, _body(answer))

    def get(self, path: str, status: int = 200) -> Any:
        """The body of the answer to a GET, which must have this status."""
        answer = self.http.get(path)
        assert answer.status_code == status, f"GET {path}: {answer.status_code} {answer.text}"
        return _body(answer)

    def post(
        self, card: str, side: str, price: str | float, *, headers: dict[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        """The answer to an order."""
        return self.http.post("/orders", json={"card": card, "side": side, "price": price, **fields}, headers=headers)

    def submit(self, card: str, side: str, price: str | float, quantity: int = 1, **fields: Any) -> Json:
        """An order as it was accepted, before it is matched."""
        return _order(self.post(card, side, price, quantity=quantity, **fields), 202)

    def place(self, card: str, side: str, price: str | float, **fields: Any) -> Json:
        """An order after matching, with its trades."""
        return _order(self.post(card, side, price, headers=WAIT, **fields), 200)

    def order(self, order_id: str) -> Json:
        """An order by its id."""
        found: Json = self.get(f"/orders/{order_id}")
        return found

    def latest(self, limit: int = LATEST) -> list[Json]:
        """The latest orders."""
        orders: list[Json] = self.get(f"/orders?limit={limit}")["orders"]
        return orders

    def every(self, path: str, items: str, limit: int) -> list[Json]:
        """All items of a list, page by page. `path` ends with `?` or `&`."""
        found: list[Json] = []
        before = ""
        for _ in range(PAGES_MAX):
            page = self.get(f"{path}limit={limit}{before}")
            assert len(page[items]) <= limit
            found += page[items]
            if page["next"] is None:
                return found
            before = f"&before={page['next']}"
        raise AssertionError(f"more than {PAGES_MAX} pages of {path}")

    def expired(self, card: str, count: int, **fields: Any) -> list[Json]:
        """That many orders which are completed at once: nobody sells at 1.00."""
        return [self.place(card, "buy", "1.00", time_in_force="ioc", **fields) for _ in range(count)]

    def expired_at_once(self, card: str, count: int) -> None:
        """The same by batches, matched."""
        order = {"card": card, "side": "buy", "price": "1.00", "time_in_force": "ioc"}
        for start in range(0, count, BATCH_MAX):
            orders = {"orders": [order] * min(BATCH_MAX, count - start)}
            answer = self.insist("POST", "/orders/batch", orders)  # of a full backlog nothing was accepted
        last = answer.body["results"][-1]["order_id"]
        until(lambda: self.order(last)["status"] == "expired")
        self.expired(card, 1)

    def cancel_all(self) -> None:
        """Cancels all open orders, and waits until that is matched."""
        assert self.http.delete("/orders", headers=WAIT).status_code == 200

    def insist(self, method: str, path: str, body: object = None) -> Answer:
        """The first answer below 500 to a request that is repeated until then, as a careful client repeats it."""

        def tried() -> Answer | None:
            try:
                answer = self.request(method, path, body)
            except httpx.TransportError:
                return None
            return answer if answer.status < 500 else None

        return until(tried, f"an answer to {method} {path}")

    def completed(self, order_id: str) -> Json:
        """The order, once it is completed."""

        def order() -> Json | None:
            answer = self.insist("GET", f"/orders/{order_id}")
            assert answer.status == 200, answer
            return answer.body if answer.body["closed_at"] else None

        return until(order, f"completion of {order_id}")

    def bytes_of(self, method: str, path: str, body: bytes = b"", *, close: bool = False) -> bytes:
        """A whole request, for a connection of another client. `close`: the server is to close the connection."""
        connection = "close" if close else "keep-alive"
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: {connection}\r\ncontent-length: {len(body)}\r\n"
        return f"{head}authorization: {self.http.headers['authorization']}\r\n\r\n".encode() + body

    def close(self) -> None:
        """Closes its connections."""
        self.http.close()


def _order(answer: httpx.Response, status: int) -> Json:
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    found: Json = answer.json()
    return found


def _body(answer: httpx.Response) -> Any:
    return answer.json() if "json" in answer.headers.get("content-type", "") else answer.text


def sequence_of(order: Json) -> int:
    """The sequence in the id of an order."""
    return int(order["order_id"].rpartition("-")[2])


def as_listed(order: Json) -> Json:
    """An order as it stands in lists: without its fills."""
    return {key: order[key] for key in ORDER_FIELDS}


def age(order: Json) -> tuple[str, str, int]:
    """The key by which orders of several cards are sorted."""
    return order["accepted_at"], order["card"], sequence_of(order)


def assert_problem(answer: httpx.Response, status: int, code: str) -> Json:
    """That this is a problem with this status and code; its body."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: Json = answer.json()
    assert problem["status"] == status
    assert problem["code"] == code
    return problem
