"""kill -9 at random moments: no order and no trade is lost or done twice."""

import random
import threading
from collections.abc import Callable, Iterator

import pytest
from redis import Redis

from core.model import PlaceOrder
from testing.clients.appender import Appender
from testing.clients.trader import Trader
from testing.exchange import TcgxUp, tcgx_up
from testing.flows import CARDS, market
from testing.oracle.judge import assert_archived, assert_books, judged, log_of, matched_of, settle
from testing.servers import Servers, fetch, folder
from testing.services import Service
from testing.waiting import until

pytestmark = pytest.mark.server

SEED = 4_711
KILLS = 20
SMALL_STEPS = {"match_batch": 10, "archive_batch_bytes": 1}
"""Many calls and many transactions, so that it is likely that one is under way when its process is killed."""
COMMANDS_MAX = 40_000
ORDERS_A_CLIENT_MIN = 150
SERVERS_TO_KILL = ("redis", "postgres", "redis", "api", "postgres", "redis")


@pytest.fixture
def running() -> Iterator[TcgxUp]:
    with folder() as where, tcgx_up(where) as started:
        yield started


def test_engine_and_archiver_killed_twenty_times_under_load_lose_and_repeat_nothing(pair: Servers) -> None:
    settings = pair.settings
    choose = random.Random(SEED)
    print(f"seed {SEED}")  # noqa: T201 - shown when the test fails
    services = {name: pair.service(name, **SMALL_STEPS) for name in ("engine", "archiver")}
    with Redis.from_url(settings.redis_url) as redis:

        def matched() -> int:
            return sum(matched_of(redis, card) for card in CARDS)

        def archived() -> int:
            (row,) = fetch(settings.database_url, "SELECT coalesce(sum(sequence), 0)::int8 AS n FROM archive_cursor")
            return int(row["n"])

        progress: dict[str, Callable[[], int]] = {"engine": matched, "archiver": archived}
        try:
            with Appender(settings.redis_url, market(SEED, COMMANDS_MAX), seed=SEED, pause_seconds=0.4):
                for _ in range(KILLS):
                    name = choose.choice(list(services))
                    before = progress[name]()
                    until(lambda name=name, before=before: progress[name]() > before, f"progress of {name}")  # type: ignore[misc]
                    threading.Event().wait(choose.uniform(0, 0.1))
                    services[name].kill()
                    services[name] = pair.service(name, **SMALL_STEPS)
            settle(settings.redis_url, settings.database_url)

            books = judged(settings.redis_url)
            assert sum(book.sequence for book in books.values()) > 1_000
            assert_books(settings.redis_url, books)
            assert_archived(settings.database_url, books)
        finally:
            outputs = [stopped_output(service) for service in services.values()]
    assert not any("Traceback" in output for output in outputs)


def stopped_output(service: Service) -> str:
    service.stop()
    return service.output()


class Client:
    """Places orders and cancels some of them, and repeats what was not answered."""

    def __init__(self, trader: Trader, name: str) -> None:
        self.acknowledged: dict[str, str] = {}
        self.finished = threading.Event()
        self.trader = trader
        self._name = name
        self._choose = random.Random(f"{SEED} {name}")
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.finished.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self.finished.is_set() or number < ORDERS_A_CLIENT_MIN:
            number += 1
            client_order_id = f"{self._name}-{number}"
            order = {
                "card": self._choose.choice(CARDS),
                "side": self._choose.choice(("buy", "sell")),
                "price": f"5.{self._choose.randint(10, 30)}",
                "quantity": self._choose.randint(1, 20),
                "time_in_force": self._choose.choice(("gtc", "gtc", "gtc", "ioc")),
                "client_order_id": client_order_id,
            }
            answer = self.trader.insist("POST", "/orders", order)
            if answer.status != 202:
                self.acknowledged[client_order_id] = f"refused: {answer}"
                return
            self.acknowledged[client_order_id] = answer.body["order_id"]
            if self._choose.random() < 0.2:
                canceled = self._choose.choice(list(self.acknowledged.values()))
                assert self.trader.insist("DELETE", f"/orders/{canceled}").status in (202, 409)


def test_an_order_that_was_acknowledged_is_there_once_whatever_server_is_killed(running: TcgxUp) -> None:
    choose = random.Random(SEED)
    print(f"seed {SEED}")  # noqa: T201 - shown when the test fails
    clients = [
        Client(trader, f"client-{number}") for number, trader in enumerate(running.traders(*range(1, 5)), start=1)
    ]
    for client in clients:
        client.start()
    try:
        for name in SERVERS_TO_KILL:
            before = sum(len(client.acknowledged) for client in clients)
            until(
                lambda before=before: sum(len(client.acknowledged) for client in clients) > before + 20,  # type: ignore[misc]
                "progress",
            )
            threading.Event().wait(choose.uniform(0, 0.1))
            running.kill(name)
    finally:
        for client in clients:
            client.stop()
    urls = running.urls
    until(lambda: clients[0].trader.insist("GET", "/health").status == 200, "health")
    settle(urls.redis, urls.database)

    logged = [
        (f"{card}-{sequence}", command.client_order_id)
        for card in CARDS
        for sequence, _, command in log_of(urls.redis, card)
        if isinstance(command, PlaceOrder)
    ]
    acknowledged = {(order_id, name) for client in clients for name, order_id in client.acknowledged.items()}
    assert len({name for _, name in logged}) == len(logged), "a repeated order is in the log twice"
    assert acknowledged == set(logged)
    books = judged(urls.redis)
    assert_books(urls.redis, books)
    assert_archived(urls.database, books)
    assert running.stop() == 0
