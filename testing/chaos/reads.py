"""What the API answers to reads once everything is archived: single orders, a trader's latest ones, a card's trades."""

import http.client
import random
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from core.model import LATEST
from testing.chaos.ledger import Ledger
from testing.chaos.load import CLIENTS, Door

SAMPLE = 30
"""How many orders are read one by one."""
ANSWER_SECONDS = 5.0
OK = 200


class Reads(msgspec.Struct, kw_only=True):
    """Bodies of answers: by order_id, by card and trader, and by card. `failed` has the reads without an answer."""

    orders: dict[str, Any] = msgspec.field(default_factory=dict)
    latest: dict[tuple[str, int], list[Any]] = msgspec.field(default_factory=dict)
    trades: dict[str, list[Any]] = msgspec.field(default_factory=dict)
    failed: list[str] = msgspec.field(default_factory=list)


class Reader:
    """Reads through the API with the token of each trader."""

    def __init__(self, door: Door, insist: Callable[[Callable[[], bool], str], None]) -> None:
        """`insist` calls a function until it returns True, and raises after a time."""
        self._door = door
        self._insist = insist
        self._tokens: Mapping[int, str] = {number: door.token(number) for number in range(1, CLIENTS + 1)}

    def read(self, ledger: Ledger, seed: int) -> Reads:
        """The reads of a round. Orders are chosen by the seed from those that were acknowledged."""
        reads = Reads()
        acknowledged = [placed for placed in ledger.placed if placed.sequences]
        choose = random.Random(f"reads {seed}")
        for placed in choose.sample(acknowledged, min(SAMPLE, len(acknowledged))):
            order_id = f"{placed.command.card}-{placed.sequences[0]}"
            reads.orders[order_id] = self._get(reads, f"/orders/{order_id}", placed.command.trader_id)
        for card in self._door.cards:
            for trader_id in self._tokens:
                found = self._get(reads, f"/orders?card={card}&limit={LATEST}", trader_id)
                reads.latest[card, trader_id] = found.get("orders", [])
            reads.trades[card] = self._get(reads, f"/cards/{card}/trades", 1).get("trades", [])
        return reads

    def _get(self, reads: Reads, path: str, trader_id: int) -> Any:
        """The body of a 200; empty after any other answer but 5xx, which is repeated."""
        answers: list[tuple[int, Any]] = []

        def is_answered() -> bool:
            answers[:] = [self._request(path, trader_id)]
            return 0 < answers[0][0] < 500

        self._insist(is_answered, f"GET {path} is not answered")
        status, body = answers[0]
        if status == OK:
            return body
        reads.failed.append(f"GET {path} of trader {trader_id}: {status} {body}")
        return {}

    def _request(self, path: str, trader_id: int) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._door.port, timeout=ANSWER_SECONDS)
        try:
            connection.request("GET", path, headers={"authorization": f"Bearer {self._tokens[trader_id]}"})
            response = connection.getresponse()
            return response.status, msgspec.json.decode(response.read())
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()
