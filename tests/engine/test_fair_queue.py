"""The queue of a card, alone and under a flood on the real server: order, turns, and room for each trader."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from core.errors import Overloaded
from core.model import COMMANDS_MAX, Accepted, CancelOrder, PlaceOrder, Side
from engine import connection
from engine.fair_queue import FairQueue, Submission
from engine.order_log import OrderLog
from testing.servers import LoadedRedis

SEED = 20_261_127
SECONDS = 60.0
FLOOD, OTHER = 1, 2
FLOOD_CALLERS = 100
PROBES = 100
RETRY_SECONDS = 1.0  # as the answer to a refusal says
MORE_SECONDS_MAX = 0.05
A_CANCEL = CancelOrder(trader_id=FLOOD, card="pikachu", sequence=1)
"""What the flood consists of: unmatched orders would make a list that takes Redis long to compact."""


@pytest.fixture
def submission() -> Iterator[Callable[[int, int], Submission]]:
    """Makes submissions of a trader with so many commands. Their prices count up from 1, in order of making."""
    loop = asyncio.new_event_loop()
    made = 0

    def make(trader_id: int, count: int) -> Submission:
        nonlocal made
        made += 1
        order = PlaceOrder(trader_id=trader_id, card="pikachu", side=Side.BUY, price_cents=made)
        return trader_id, [order] * count, loop.create_future()

    yield make
    loop.close()


def numbers(taken: Sequence[Submission]) -> list[int]:
    """The numbers of submissions, in order of making."""
    return [commands[0].price_cents for _, commands, _ in taken if isinstance(commands[0], PlaceOrder)]


def test_all_leave_in_order_of_arrival_while_they_fit(submission: Callable[[int, int], Submission]) -> None:
    queue = FairQueue(20_000)
    for trader_id, count in ((1, 400), (2, 1), (1, 400), (3, 199)):
        assert queue.put(submission(trader_id, count))

    assert numbers(queue.take()) == [1, 2, 3, 4]
    assert queue.pending == 0
    assert queue.take() == []


def test_a_single_order_goes_before_the_second_batch_of_another_trader(
    submission: Callable[[int, int], Submission],
) -> None:
    queue = FairQueue(20_000)
    for _ in range(10):
        queue.put(submission(FLOOD, COMMANDS_MAX))
    queue.take()
    queue.put(submission(OTHER, 1))

    assert numbers(queue.take()) == [11]
    assert numbers(queue.take()) == [2]


def test_two_floods_have_equal_shares_whatever_the_sizes_of_their_batches(
    submission: Callable[[int, int], Submission],
) -> None:
    queue = FairQueue(20_000)
    for _ in range(6):
        queue.put(submission(1, COMMANDS_MAX))
    for _ in range(60):
        queue.put(submission(2, COMMANDS_MAX // 10))

    taken = {1: 0, 2: 0}
    for _ in range(6):
        for trader_id, commands, _ in queue.take():
            taken[trader_id] += len(commands)

    assert abs(taken[1] - taken[2]) <= COMMANDS_MAX


def test_what_goes_together_is_in_order_of_arrival(submission: Callable[[int, int], Submission]) -> None:
    queue = FairQueue(20_000)
    for number in range(600):
        queue.put(submission(number % 7, 1 + number % 5))

    while queue.pending:
        assert (found := numbers(queue.take())) == sorted(found)


@pytest.mark.parametrize("seed", range(SEED, SEED + 20))
def test_whole_submissions_of_a_trader_leave_in_order_and_none_is_lost(
    submission: Callable[[int, int], Submission], seed: int
) -> None:
    choose = random.Random(seed)
    queue = FairQueue(1_000_000)
    put: dict[int, list[int]] = {}
    left: dict[int, list[int]] = {}
    for number in range(1, 1_001):
        trader_id = choose.choice((1, 1, 1, 2, 2, 3, choose.randint(4, 40)))
        assert queue.put(submission(trader_id, choose.choice((1, 1, 2, 50, COMMANDS_MAX))))
        put.setdefault(trader_id, []).append(number)
        while queue.pending and choose.random() < (0.3 if number < 1_000 else 1):
            taken = queue.take()
            assert 0 < sum(len(commands) for _, commands, _ in taken) <= COMMANDS_MAX
            for (trader_id, *_), found in zip(taken, numbers(taken), strict=True):
                left.setdefault(trader_id, []).append(found)

    assert left == put, seed


@pytest.mark.parametrize("floods", [1, 2, 10])
def test_floods_leave_room_for_others(submission: Callable[[int, int], Submission], floods: int) -> None:
    queue = FairQueue(20_000)
    refused = 0
    for number in range(30_000):
        refused += not queue.put(submission(1 + number % floods, 1))
    singles = [queue.put(submission(1_000 + trader, 1)) for trader in range(100)]

    assert queue.pending - 100 == 30_000 - refused
    assert queue.pending - 100 == pytest.approx(20_000 * 8 * floods / (8 * floods + 1), abs=8 * floods)
    assert all(singles)


def test_no_more_wait_than_may_wait(submission: Callable[[int, int], Submission]) -> None:
    queue = FairQueue(50)
    accepted = [queue.put(submission(trader_id, 1)) for trader_id in range(60)]

    assert accepted == [True] * 50 + [False] * 10
    assert queue.pending_of(0) == 1
    assert len(queue.take_all()) == 50
    assert queue.put(submission(1, 1))


def _order(trader_id: int) -> PlaceOrder:
    return PlaceOrder(trader_id=trader_id, card="pikachu", side=Side.BUY, price_cents=500)


def _p99(seconds: Sequence[float]) -> float:
    return sorted(seconds)[round(len(seconds) * 0.99) - 1]


async def _probe(log: OrderLog) -> list[float]:
    """How long single orders of a trader take, one after the other."""
    found = []
    for _ in range(PROBES):
        started = time.perf_counter()
        await log.append(_order(OTHER))
        found.append(time.perf_counter() - started)
    return found


@pytest.mark.server
@pytest.mark.usefixtures("redis_client")
def test_a_flood_of_batches_neither_refuses_nor_delays_the_orders_of_another_trader(redis_server: LoadedRedis) -> None:
    async def main() -> None:
        async with connection.connect(redis_server.url) as client:
            log = OrderLog(client, backlog_max=1_000_000_000, pending_max=20_000)
            stop, full = asyncio.Event(), asyncio.Event()
            flooded = {Accepted: 0, Overloaded: 0}

            async def flood() -> None:
                batch = [A_CANCEL] * COMMANDS_MAX
                while not stop.is_set():
                    outcome = (await log.append_all(batch))[0]
                    assert isinstance(outcome, Accepted | Overloaded), outcome
                    flooded[type(outcome)] += 1
                    if isinstance(outcome, Overloaded):
                        full.set()
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(stop.wait(), RETRY_SECONDS)

            alone = await _probe(log)
            callers = [asyncio.create_task(flood()) for _ in range(FLOOD_CALLERS)]
            await full.wait()
            beside = await _probe(log)
            stop.set()
            await asyncio.gather(*callers)
            await log.close()

            assert flooded[Accepted] >= PROBES // 2, "there was no flood"
            assert _p99(beside) - _p99(alone) < MORE_SECONDS_MAX

    asyncio.run(asyncio.wait_for(main(), SECONDS))
