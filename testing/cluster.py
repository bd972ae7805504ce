"""A Redis Cluster under load: slots are moved and primaries killed, and every acknowledged order must be there.

`python -m testing.cluster --rounds 20` moves the slot of a card 20 times, by turns key by key and at once (where the
server can do that), and then kills a primary 20 times. `--only moves` or `--only kills` does one of both. Primaries
have a replica each, and orders are acknowledged once a replica has them. `--only pauses` lets primaries stand still
until another one is promoted, and then go on with their connections open.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from testing.cluster_servers import RedisCluster, cluster_exchange, redis_cluster, slot_of
from testing.exchange import ExchangeServer
from testing.failover import Load, given_twice, load, lost, recover_from_conflict
from testing.flows import CARDS
from testing.oracle.judge import assert_archived, assert_books, judged, settle
from testing.waiting import until

BUSY_SECONDS = 0.5
KEYS_SECONDS = 0.01
"""The pause after some keys that are moved, so that orders meet the move."""

OUTPUT_BYTES = 6_000


def check_all(exchange: ExchangeServer, traders: Load) -> None:
    """Checks that nothing acknowledged is lost or twice, and that books and archive are those of the logs."""
    url = exchange.settings.redis_url
    settle(url, exchange.settings.database_url)
    missing = lost(traders.acknowledged, url)
    assert not missing, f"lost: {missing}"
    assert not given_twice(traders.acknowledged)
    books = judged(url)
    assert_books(url, books)
    assert_archived(exchange.settings.database_url, books)


def move_card(cluster: RedisCluster, card: str, *, at_once: bool = False) -> None:
    """Moves the slot of a card to the next primary."""
    slot = slot_of(card)
    target = cluster.other_than(cluster.primary_of(slot))
    if at_once:
        cluster.move_slot_at_once(slot, target)
    else:
        cluster.move_slot(slot, target, pause_seconds=KEYS_SECONDS)


def fail_over(cluster: RedisCluster, card: str) -> float:
    """Kills the primary of a card, and starts it as a replica once another one is promoted. Returns when it was killed.

    With a replica each, a promoted one has no replica until the killed server is back, and acknowledges no order.
    """
    slot = slot_of(card)
    killed = cluster.primary_of(slot)
    began = time.monotonic()
    killed.kill()
    until(lambda: cluster.has_primary(slot), "nobody is promoted")
    killed.start()
    return began


def flows_on(traders: Load, card: str, moment: float, *, seconds: float = 60.0) -> float:
    """Waits until an order of a card is acknowledged that was sent after a moment. The seconds that it took."""

    def answered_at() -> float:
        return next(
            (
                each.answered_at
                for each in list(traders.acknowledged)
                if each.sent_at > moment and each.order_id.startswith(f"{card}-")
            ),
            0.0,
        )

    return until(answered_at, f"orders of {card} do not flow", seconds=seconds) - moment


def move_rounds(exchange: ExchangeServer, cluster: RedisCluster, traders: Load, rounds: int) -> list[float]:
    """Moves slots under load. The seconds from the end of each move until an order of the card was acknowledged."""
    seconds = []
    atomic = cluster.moves_at_once()
    for number in range(rounds):
        card = CARDS[number % len(CARDS)]
        time.sleep(BUSY_SECONDS)
        began = time.monotonic()
        move_card(cluster, card, at_once=atomic and number % 2 == 1)
        ended = time.monotonic()
        seconds.append(flows_on(traders, card, ended))
        print(f"{card} was moved in {ended - began:.2f} s, and took orders {seconds[-1]:.2f} s later", flush=True)
    assert not exchange.missing(), exchange.missing()
    return seconds


def kill_rounds(exchange: ExchangeServer, cluster: RedisCluster, traders: Load, rounds: int) -> list[float]:
    """Kills primaries under load. The seconds from each kill until an order of the card was acknowledged."""
    seconds = []
    conflicts = 0
    for number in range(rounds):
        time.sleep(BUSY_SECONDS)
        card = CARDS[number % len(CARDS)]
        began = fail_over(cluster, card)
        conflicts += recover_from_conflict(exchange, traders, began)
        seconds.append(flows_on(traders, card, began))
        until(cluster.is_in_step, "the replicas are not in step")
        print(f"round {number + 1}: orders flow again after {seconds[-1]:.2f} s", flush=True)
    print(f"{conflicts} conflicts")
    return seconds


def pause_rounds(exchange: ExchangeServer, cluster: RedisCluster, traders: Load, rounds: int) -> list[float]:
    """Lets primaries stand still. The seconds from each pause until an order of the card was acknowledged."""
    seconds = []
    for number in range(rounds):
        time.sleep(BUSY_SECONDS)
        card = CARDS[number % len(CARDS)]
        paused = cluster.primary_of(slot_of(card))
        began = time.monotonic()
        paused.pause()
        until(lambda card=card: cluster.has_primary(slot_of(card)), "nobody is promoted")  # type: ignore[misc]
        paused.go_on()
        recover_from_conflict(exchange, traders, began)
        seconds.append(flows_on(traders, card, began))
        until(cluster.is_in_step, "the replicas are not in step")
        print(f"round {number + 1}: orders flow again after {seconds[-1]:.2f} s", flush=True)
    return seconds


PARTS: dict[str, Callable[[ExchangeServer, RedisCluster, Load, int], list[float]]] = {
    "moves": move_rounds,
    "kills": kill_rounds,
    "pauses": pause_rounds,
}


@contextmanager
def _shown_on_failure(exchange: ExchangeServer, cluster: RedisCluster, traders: Load) -> Iterator[None]:
    try:
        yield
    except BaseException:
        print(traders.refusals)
        for path in sorted(exchange.data_dir.glob("*output*")):
            print(f"-- {path}\n{path.read_text()[-OUTPUT_BYTES:]}")
        for server in cluster.servers:
            print(f"-- {server.port}\n{server.output()[-OUTPUT_BYTES // 10 :]}")
        raise


def run(part: str, rounds: int) -> None:
    """One part, on a cluster of its own."""
    with (
        redis_cluster(replicas=1) as cluster,
        cluster_exchange(cluster, replica_acks=1) as exchange,
        load(exchange) as traders,
        _shown_on_failure(exchange, cluster, traders),
    ):
        traders.flows_after(time.monotonic())
        seconds = PARTS[part](exchange, cluster, traders, rounds)
        traders.stop()
        check_all(exchange, traders)
    print(
        f"{part}: {rounds} rounds, {len(traders.acknowledged)} orders acknowledged, 0 lost, 0 twice; orders of the "
        f"card after {statistics.median(seconds):.2f} s (median), {max(seconds):.2f} s (longest); "
        f"refused: {traders.refusals}"
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="how often a slot is moved, and a primary killed")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    arguments = parser.parse_args()
    for part in [arguments.only] if arguments.only else PARTS:
        run(part, arguments.rounds)


if __name__ == "__main__":
    main()
