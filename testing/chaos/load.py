"""The load: clients that place orders, batches and cancels over HTTP, and repeat what was not answered."""

import http.client
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jwt
import msgspec

from core.model import CancelOrder, PlaceOrder, ReplaceOrder, Side, TimeInForce, price_text
from exchange import tokens
from testing.chaos.ledger import Ledger, Placed
from testing.waiting import until

CLIENTS = 4
PAUSE_SECONDS = 0.02
"""The mean pause of a client between two requests."""
ANSWER_SECONDS = (0.5, 3.0)
"""A client waits for an answer for a time between these."""
REPEAT_SECONDS = (0.02, 0.2)
TOKEN_SECONDS = 86_400
"""Tokens outlive every step of the clock of an API process."""
ORDERS_A_BATCH = (2, 30)
RECENT_MAX = 50
"""Cancels and repeats concern one of the latest acknowledged orders of a client."""
LIFETIMES = (TimeInForce.GTC, TimeInForce.GTC, TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK)
POST_ONLY = 0.1
"""The share of orders that may only rest, of those that may rest."""
WAITING = 0.1
"""The share of orders that wait for their match (`Prefer: wait`)."""
PRICES = {Side.BUY: (505, 525), Side.SELL: (515, 535)}
"""Half of the prices cross, so that many orders trade and many rest until they are canceled."""
TOO_MANY = 429
NOT_FOUND = 404
CONFLICT = 409


class Door(NamedTuple):
    """Where clients reach the exchange, and what signs their tokens. With several hosts they go on at another one."""

    port: int
    jwt_secret: str
    cards: Sequence[str]
    hosts: Sequence[str] = ("127.0.0.1",)

    def token(self, trader_id: int) -> str:
        """A token without `iat`: an API process whose clock is behind would refuse one from its future."""
        claims = {
            "iss": tokens.ISSUER,
            "sub": str(trader_id),
            "role": "trader",
            "exp": int(time.time()) + TOKEN_SECONDS,
        }
        return jwt.encode(claims, self.jwt_secret, tokens.ALGORITHM)


class Abandoned(Exception):
    """The load was ended before a request was answered."""


class Answer(NamedTuple):
    """Status and body."""

    status: int
    body: Any


class Client:
    """One trader in a thread of its own. Its requests follow from the seed; answers decide how far it comes."""

    def __init__(
        self, door: Door, ledger: Ledger, trader_id: int, seed: int, ends: "Ends", *, is_plain: bool = False
    ) -> None:
        token = door.token(trader_id)
        self._headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        self._door = door
        self._ledger = ledger
        self._trader_id = trader_id
        self._choose = random.Random(f"client {seed} {trader_id}")
        self._ends = ends
        self._is_plain = is_plain
        self._numbers = itertools.count(1)
        self._recent: list[Placed] = []
        self._connection: http.client.HTTPConnection | None = None
        first = trader_id % len(door.hosts)
        self._hosts = itertools.cycle([*door.hosts[first:], *door.hosts[:first]])
        self._thread = threading.Thread(target=self._run)
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def works(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Waits for its end."""
        self._thread.join()

    def _run(self) -> None:
        acts: list[Callable[[], None]] = [
            *(self._place, self._place_batch, self._cancel, self._cancel_all, self._repeat, self._replace),
        ]
        try:
            while not self._ends.stopping.is_set():
                self._choose.choices(acts, (70, 8, 15, 1, 6, 0 if self._is_plain else 10))[0]()
                self._ends.stopping.wait(self._choose.expovariate(1 / PAUSE_SECONDS))
        except Abandoned:
            return
        except BaseException as error:  # noqa: BLE001 - the load raises it where it is joined
            self.failure = error
        finally:
            self._disconnect()

    # -- what it does

    def _place(self) -> None:
        (placed,) = self._ledger.enter([self._command()], time.monotonic())
        self._send_order(placed)

    def _place_batch(self) -> None:
        commands = [self._command() for _ in range(self._choose.randint(*ORDERS_A_BATCH))]
        waiting = self._ledger.enter(commands, time.monotonic())
        while waiting:
            with self._ends.in_batch():
                answer = self._insist(
                    "POST", "/orders/batch", {"orders": [order_body(placed.command) for placed in waiting]}
                )
            if answer.status != 202:
                for placed in waiting:
                    placed.refusal = str(answer)
                return
            pairs = zip(waiting, answer.body["results"], strict=True)
            waiting = [placed for placed, result in pairs if not self._enter(placed, result)]
            if waiting:
                self._pause()

    def _cancel(self) -> None:
        if not self._recent:
            return
        placed = self._choose.choice(self._recent)
        card, sequence = placed.command.card, placed.sequences[0]
        status = self._insist("DELETE", f"/orders/{card}-{sequence}").status
        if status == 202:
            self._ledger.canceled.append(CancelOrder(trader_id=self._trader_id, card=card, sequence=sequence))
        elif status != CONFLICT:
            self._ledger.unfound.append(f"{card}-{sequence} (status {status})")

    def _replace(self) -> None:
        """Replaces an order at another price, so that the new one has an id of its own."""
        if not self._recent:
            return
        before = self._choose.choice(self._recent)
        side, card = before.command.side, before.command.card
        prices = [price for price in range(*PRICES[side]) if price != before.command.price_cents]
        command = ReplaceOrder(
            trader_id=self._trader_id,
            card=card,
            side=side,
            price_cents=self._choose.choice(prices),
            quantity=self._choose.randint(1, 20),
            client_order_id=f"{self._trader_id}-{next(self._numbers)}",
            post_only=self._choose.random() < POST_ONLY,
            replaces=before.sequences[0],
        )
        (placed,) = self._ledger.enter([command], time.monotonic())
        self._send_replace(placed, command)

    def _send_replace(self, placed: Placed, command: ReplaceOrder) -> None:
        body = {name: order_body(command)[name] for name in ("price", "quantity", "client_order_id")}
        body["post_only"] = command.post_only
        answer = self._insist("PATCH", f"/orders/{command.card}-{command.replaces}", body)
        if answer.status == 202:
            self._enter(placed, answer.body)
        elif not placed.sequences and answer.status == CONFLICT and answer.body["code"] == "order_completed":
            self._ledger.withdraw(placed)
        elif answer.status == NOT_FOUND or (answer.status == CONFLICT and answer.body["code"] == "order_completed"):
            # The order is lost; or the acknowledged replace is lost, and the archive has the completed order.
            if not placed.sequences:
                self._ledger.withdraw(placed)
            self._ledger.unfound.append(f"{command.card}-{command.replaces} (status {answer.status})")
        else:
            placed.refusal = str(answer)

    def _cancel_all(self) -> None:
        answer = self._insist("DELETE", "/orders")
        for order in answer.body["orders"]:
            card, _, sequence = order["order_id"].rpartition("-")
            self._ledger.canceled_with_all.append((card, int(sequence)))

    def _repeat(self) -> None:
        """Sends an acknowledged order again, as a client does that has lost its notes."""
        if self._recent:
            self._send_order(self._choose.choice(self._recent))

    def _send_order(self, placed: Placed) -> None:
        if isinstance(placed.command, ReplaceOrder):
            self._send_replace(placed, placed.command)
            return
        prefer = {"prefer": "wait=1"} if self._choose.random() < WAITING else {}
        answer = self._insist("POST", "/orders", order_body(placed.command), **prefer)
        if answer.status not in (200, 202):
            placed.refusal = str(answer)
            return
        self._enter(placed, answer.body)

    def _enter(self, placed: Placed, result: Any) -> bool:
        """Enters the outcome of an order; False: it must be repeated."""
        problem = result.get("error")
        if problem is None:
            card, _, sequence = result["order_id"].rpartition("-")
            if (card, result["client_order_id"]) != (placed.command.card, placed.name):
                placed.refusal = f"answered with another order: {result}"
                return True
            is_first = placed.answered_at is None
            placed.answered(int(sequence), time.monotonic())
            if is_first:
                self._recent = [*self._recent[1 - RECENT_MAX :], placed]
            return True
        if problem["status"] >= 500 or problem["status"] == TOO_MANY:
            return False
        placed.refusal = str(problem)
        return True

    def _command(self) -> PlaceOrder:
        choose = self._choose
        side = choose.choice((Side.BUY, Side.SELL))
        time_in_force = choose.choice(LIFETIMES)
        return PlaceOrder(
            trader_id=self._trader_id,
            card=choose.choice(self._door.cards),
            side=side,
            price_cents=choose.randint(*PRICES[side]),
            quantity=choose.randint(1, 20),
            time_in_force=time_in_force,
            client_order_id=f"{self._trader_id}-{next(self._numbers)}",
            post_only=not self._is_plain and time_in_force is TimeInForce.GTC and choose.random() < POST_ONLY,
        )

    # -- HTTP

    def _insist(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """The first answer that is neither 5xx nor 429.

        Raises:
            Abandoned: the load ends before.
        """
        while True:
            answer = self._request(method, path, msgspec.json.encode(body) if body else None, headers)
            if answer is not None and answer.status < 500 and answer.status != TOO_MANY:
                return answer
            self._pause()

    def _pause(self) -> None:
        self._ledger.repeated()
        if self._ends.abandoned.wait(self._choose.uniform(*REPEAT_SECONDS)):
            raise Abandoned

    def _request(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer | None:
        """One request; None without a whole answer in time."""
        if self._connection is None:
            seconds = self._choose.uniform(*ANSWER_SECONDS)
            self._connection = http.client.HTTPConnection(next(self._hosts), self._door.port, timeout=seconds)
        try:
            self._connection.request(method, path, body, self._headers | headers)
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self._disconnect()
            return None
        if response.status >= 500 and len(self._door.hosts) > 1:
            self._disconnect()
        return Answer(response.status, msgspec.json.decode(text) if text else None)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Ends:
    """How clients are ended: after their present request, or without its answer; and what they do meanwhile."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.abandoned = threading.Event()
        self.batches = 0
        """How many batches are under way."""
        self._lock = threading.Lock()

    @contextmanager
    def in_batch(self) -> Iterator[None]:
        """A batch is under way inside."""
        with self._lock:
            self.batches += 1
        try:
            yield
        finally:
            with self._lock:
                self.batches -= 1


class Load:
    """All clients of a round."""

    def __init__(self, door: Door, seed: int, *, is_plain: bool = False, first_trader: int = 1) -> None:
        """`is_plain`: orders and cancels alone, without what earlier versions do not know."""
        self.ledger = Ledger()
        self._ends = Ends()
        self._clients = [
            Client(door, self.ledger, first_trader + number, seed, self._ends, is_plain=is_plain)
            for number in range(CLIENTS)
        ]

    def start(self) -> None:
        """Begins."""
        for client in self._clients:
            client.start()

    def stop(self) -> None:
        """Each client ends after the answer to its present request."""
        self._ends.stopping.set()

    def works(self) -> bool:
        """Whether a client has not ended."""
        return any(client.works() for client in self._clients)

    def in_batch(self) -> bool:
        """Whether a batch is under way."""
        return self._ends.batches > 0

    def abandon(self) -> None:
        """Ends it at once.

        Raises:
            BaseException: of a client that has failed.
        """
        self._ends.stopping.set()
        self._ends.abandoned.set()
        until(lambda: not self.works(), "the clients do not end")
        for client in self._clients:
            if client.failure is not None:
                raise client.failure


def order_body(command: PlaceOrder) -> dict[str, object]:
    """The JSON of an order."""
    body: dict[str, object] = {
        "card": command.card,
        "side": command.side.value,
        "price": price_text(command.price_cents),
        "quantity": command.quantity,
        "time_in_force": command.time_in_force.value,
        "client_order_id": command.client_order_id,
    }
    if command.post_only:
        body["post_only"] = True
    return body
