"""Failovers under load: the primary is killed round by round, and every acknowledged order must be there afterwards.

`python -m testing.failover --rounds 20` runs them and prints a table. `--acks 1` adds a second replica, since one that
confirms must be left after a kill. Without acknowledgements a loss is possible: it must be reported as a conflict, from
which the run recovers, and no id may be given twice. `--cut-off` cuts the replicas off shortly before each kill.
"""

import argparse
import itertools
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import msgspec

from core.model import PlaceOrder
from engine import codec, keys
from testing.clients.trader import http_client
from testing.exchange import ExchangeServer, exchange_server
from testing.flows import CARDS
from testing.oracle.judge import assert_archived, assert_books, judged, settle
from testing.replication import InPlaceOfRedis, RedisGroup, allow_replication, cut_off, plain_url, redis_group
from testing.servers import client_of
from testing.waiting import NotInTime, until

THREADS = 4
PAUSE_SECONDS = 0.02
REPEAT_SECONDS = 0.05
BUSY_SECONDS = 1.0
CUT_OFF_SECONDS = 0.5
ANSWERED = (200, 202)
OUTPUT_BYTES = 6_000
COLUMNS = ("options", "rounds", "a primary is named", "orders flow", "conflicts", "acknowledged", "lost", "ids twice")
"""Of the table. Times are the median and the longest."""


class Acknowledged(msgspec.Struct, frozen=True):
    """An order that was acknowledged: when its last request was sent, when it was answered, and its id."""

    trader_id: int
    client_order_id: str
    order_id: str
    sent_at: float
    answered_at: float


class Load:
    """Traders that place orders, and repeat each until it is acknowledged."""

    def __init__(self, exchange: ExchangeServer, *, threads: int = THREADS) -> None:
        self.acknowledged: list[Acknowledged] = []
        self.refusals: Counter[str] = Counter()
        """How many answers had each error code."""
        self._exchange = exchange
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._trade, args=[number]) for number in range(1, threads + 1)]

    def _trade(self, trader_id: int) -> None:
        token = self._exchange.bearer(trader_id)["authorization"]
        with http_client(self._exchange.url, token) as client:
            for number in itertools.count():
                side, price = ("buy", "sell")[number % 2], 400 + (7 * number + trader_id) % 200
                client_order_id = f"{time.monotonic_ns()}-{number}"
                body = {
                    **{"card": CARDS[number % len(CARDS)], "side": side, "price": f"{price / 100:.2f}", "quantity": 3},
                    "client_order_id": client_order_id,
                }
                if not self._place(client, trader_id, body):
                    return

    def _place(self, client: httpx.Client, trader_id: int, body: Mapping[str, Any]) -> bool:
        """Sends an order until it is acknowledged. False if the load ends first."""
        while not self._stopping.is_set():
            sent_at = time.monotonic()
            try:
                answer = client.post("/orders", json=body)
            except httpx.TransportError as error:
                self.refusals[type(error).__name__] += 1
                self._stopping.wait(REPEAT_SECONDS)
                continue
            if answer.status_code in ANSWERED:
                order_id = answer.json()["order_id"]
                self.acknowledged.append(
                    Acknowledged(trader_id, str(body["client_order_id"]), order_id, sent_at, time.monotonic())
                )
                self._stopping.wait(PAUSE_SECONDS)
                return True
            self.refusals[answer.json()["code"]] += 1
            self._stopping.wait(REPEAT_SECONDS)
        return False

    def flows_after(self, moment: float, *, seconds: float = 60.0) -> float:
        """Waits until each trader had an order acknowledged that was sent after a moment. The seconds that it took."""

        def last_of_first() -> float:
            firsts: dict[int, float] = {}
            for each in list(self.acknowledged):
                if each.sent_at > moment:
                    firsts.setdefault(each.trader_id, each.answered_at)
            return max(firsts.values()) if len(firsts) == len(self._threads) else 0.0

        try:
            return until(last_of_first, "orders do not flow", seconds=seconds) - moment
        except NotInTime as error:
            raise NotInTime(f"{error}; answers that were no acknowledgement: {dict(self.refusals)}") from error

    def start(self) -> None:
        """Starts the traders."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stops the traders."""
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()


@contextmanager
def load(exchange: ExchangeServer, **options: Any) -> Iterator[Load]:
    """Traders at work, stopped at the end."""
    made = Load(exchange, **options)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def logged(redis_url: str, cards: Sequence[str] = CARDS) -> dict[tuple[int, str], list[str]]:
    """The order ids in the logs of each trader's client_order_id."""
    found: dict[tuple[int, str], list[str]] = {}
    with client_of(redis_url) as redis:
        for card in cards:
            entries: Any = redis.xrange(keys.key(card, "orders"))
            for entry_id, fields in entries:
                first = int(entry_id.decode().partition("-")[2])
                for sequence, command in enumerate(codec.decode(card, fields), first):
                    if isinstance(command, PlaceOrder) and command.client_order_id:
                        place = command.trader_id, command.client_order_id
                        found.setdefault(place, []).append(f"{card}-{sequence}")
    return found


def lost(acknowledged: Sequence[Acknowledged], redis_url: str) -> list[Acknowledged]:
    """The acknowledged orders that the logs lack. No order may be there twice, or under another id."""
    found = logged(redis_url)
    twice = {place: ids for place, ids in found.items() if len(ids) > 1}
    assert not twice, f"orders that are in the log twice: {twice}"
    missing = []
    for each in acknowledged:
        ids = found.get((each.trader_id, each.client_order_id))
        if ids is None:
            missing.append(each)
        else:
            assert ids == [each.order_id], f"{each} is {ids} in the log"
    return missing


def given_twice(acknowledged: Sequence[Acknowledged]) -> list[str]:
    """The order ids that two different orders were acknowledged with."""
    orders = {(each.order_id, each.trader_id, each.client_order_id) for each in acknowledged}
    return [order_id for order_id, times in Counter(order[0] for order in orders).items() if times > 1]


@contextmanager
def replicated_exchange(
    *, acks: int = 0, replicas: int = 0, **changes: Any
) -> Iterator[tuple[ExchangeServer, RedisGroup]]:
    """An exchange on a group with sentinels. By default one replica more than must confirm."""
    with (
        redis_group(replicas=replicas or acks + 1) as group,
        exchange_server(
            redis=InPlaceOfRedis(group), replica_acks=acks, log_retention=1_000_000_000, **changes
        ) as exchange,
    ):
        yield exchange, group


def check_all(exchange: ExchangeServer, group: RedisGroup) -> None:
    """Compares books and archive with what the logs must lead to."""
    url = plain_url(group.primary)
    settle(url, exchange.settings.database_url)
    books = judged(url)
    assert_books(url, books)
    assert_archived(exchange.settings.database_url, books)


class Round(msgspec.Struct, frozen=True):
    """What came of a kill: the seconds until the sentinels named another primary, and until orders flowed.

    `has_conflict`: whether a history conflict was reported before.
    """

    named_seconds: float
    seconds: float
    has_conflict: bool


class Rounds(msgspec.Struct, frozen=True):
    """What came of all kills. `lost`, `twice`: orders and ids."""

    rounds: Sequence[Round]
    acknowledged: int
    lost: int
    twice: int

    def table_row(self, name: str) -> str:
        """The row of docs/high-availability.md."""
        alone = [one.seconds for one in self.rounds if not one.has_conflict]
        told = f"{statistics.median(alone):.2f} s, {max(alone):.2f} s" if alone else "-"
        named = [one.named_seconds for one in self.rounds]
        elected = f"{statistics.median(named):.2f} s, {max(named):.2f} s"
        conflicts = sum(one.has_conflict for one in self.rounds)
        cells = (name, f"{len(self.rounds)}", elected, told, f"{conflicts}", f"{self.acknowledged:,}", f"{self.lost:,}")
        return f"| {' | '.join(cells)} | {self.twice} |"


def kill_rounds(rounds: int, *, acks: int, cuts_off: bool = False) -> Rounds:
    """Kills the primary again and again. `cuts_off`: its replicas are cut off shortly before.

    Raises:
        AssertionError: an acknowledged order is lost and no conflict was reported, or an id was given twice.
    """
    done: list[Round] = []
    with replicated_exchange(acks=acks) as (exchange, group), load(exchange) as traders:
        try:
            for number in range(1, rounds + 1):
                done.append(_kill_round(exchange, group, traders, cuts_off=cuts_off))
                after = " and a recovery from a conflict" if done[-1].has_conflict else ""
                told = f"a primary is named after {done[-1].named_seconds:.2f} s"
                print(f"round {number}: {told}, orders flow after {done[-1].seconds:.2f} s{after}", flush=True)
            traders.stop()
            missing = lost(traders.acknowledged, plain_url(group.primary))
            found = Rounds(done, len(traders.acknowledged), len(missing), len(given_twice(traders.acknowledged)))
            print(f"refusals: {dict(traders.refusals)}")
            has_conflict = any(one.has_conflict for one in done)
            assert not found.twice
            assert not missing or (has_conflict and not acks), missing
            assert not has_conflict or not acks, "a conflict, although all that was lost was not acknowledged"
            if not has_conflict:
                check_all(exchange, group)
        except BaseException:
            print(traders.refusals)
            for path in sorted(exchange.data_dir.glob("*output*")):
                print(f"-- {path}\n{path.read_text()[-OUTPUT_BYTES:]}")
            raise
    return found


def _kill_round(exchange: ExchangeServer, group: RedisGroup, traders: Load, *, cuts_off: bool) -> Round:
    # On a busy machine sentinels may fail over by themselves, since a server does not answer in time.
    has_conflict = recover_from_conflict(exchange, traders, time.monotonic())
    traders.flows_after(time.monotonic())
    time.sleep(BUSY_SECONDS)
    killed, replicas = group.primary, group.replicas
    if cuts_off:
        cut_off(killed, *replicas)
        time.sleep(CUT_OFF_SECONDS)
    killed.kill()
    began = time.monotonic()
    if cuts_off:
        allow_replication(*replicas)
    until(lambda: group.named() is not killed, "the sentinels name no other primary")
    named_seconds = time.monotonic() - began
    has_conflict |= recover_from_conflict(exchange, traders, began)
    seconds = traders.flows_after(began)
    group.rejoin(killed)
    return Round(named_seconds, seconds, has_conflict)


def recover_from_conflict(exchange: ExchangeServer, traders: Load, began: float) -> bool:
    """Waits until orders flow or a conflict is reported, and recovers from it. Whether there was one."""

    def outcome() -> str:
        if "history" in exchange.missing():
            return "conflict"
        flowing = {each.trader_id for each in list(traders.acknowledged) if each.sent_at > began}
        return "flows" if len(flowing) == THREADS else ""

    if until(outcome, "orders neither flow nor are refused") == "flows":
        return False
    recover(exchange)
    return True


def recover(exchange: ExchangeServer) -> None:
    """Runs `tcgx recover` until the sentinels name a primary that answers."""
    until(lambda: exchange.tcgx("recover", "--yes").returncode == 0, "the sentinels do not name a primary")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="how often the primary is killed")
    parser.add_argument("--acks", type=int, default=0, help="TCGX_REPLICA_ACKS")
    parser.add_argument("--cut-off", action="store_true", help="cut the replicas off shortly before each kill")
    arguments = parser.parse_args()
    found = kill_rounds(arguments.rounds, acks=arguments.acks, cuts_off=arguments.cut_off)
    name = f"`--rounds {arguments.rounds} --acks {arguments.acks}{' --cut-off' if arguments.cut_off else ''}`"
    print(f"| {' | '.join(COLUMNS)} |")
    print(found.table_row(name))


if __name__ == "__main__":
    main()
