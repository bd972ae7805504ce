"""The log of all cards as the API writes it: what goes together, what is refused, who is told; on the real server."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis import Redis

from core.errors import ClientOrderIdConflict, Overloaded, TcgxError, Unavailable
from core.model import COMMANDS_MAX, Accepted, Command, PlaceOrder, Side
from engine import codec, connection, keys
from engine.order_log import OrderLog
from testing.flows import CARDS
from testing.servers import LoadedRedis

pytestmark = pytest.mark.server

SEED = 20_260_103
SECONDS = 10.0


def order(card: str = "pikachu", price_cents: int = 500, **fields: Any) -> PlaceOrder:
    return PlaceOrder(card=card, **{"trader_id": 1, "side": Side.BUY, "price_cents": price_cents, **fields})


def run(server: LoadedRedis, work: Callable[[OrderLog], Awaitable[None]], **options: Any) -> None:
    """Works with a log on a server."""

    async def main() -> None:
        async with connection.connect(server.url) as client:
            log = OrderLog(client, **{"backlog_max": 1_000_000, "pending_max": 1_000_000, **options})
            await work(log)
            await log.close()

    asyncio.run(main())


async def in_flight(log: OrderLog, command: Command) -> "asyncio.Task[Accepted]":
    """An append that has been sent and not answered."""
    task = asyncio.create_task(log.append(command))
    async with asyncio.timeout(SECONDS):
        while not log._appending or any(waiting.pending for waiting in log._waiting.values()):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
    return task


def entries(client: Redis, card: str) -> list[list[Command]]:
    """The commands of each entry of a card's log."""
    found: Any = client.xrange(keys.key(card, "orders"))
    return [codec.decode(card, fields) for _, fields in found]


def test_times_rise_over_all_cards_also_where_a_clock_is_behind(redis_server: LoadedRedis) -> None:
    hour_ms = 3_600_000

    async def work(log: OrderLog) -> None:
        first = await log.append(order())
        ahead_ms = log._history.last_ms + hour_ms
        log._history.last_ms = ahead_ms  # what a server answered whose clock is an hour ahead
        times = [first.accepted_at, *[(await log.append(order(card))).accepted_at for card in (*CARDS, "pikachu")]]
        assert times == sorted(times, key=str)
        assert log._history.last_ms >= ahead_ms

    run(redis_server, work)


def test_an_order_bears_the_time_of_its_entry_where_the_clock_went_back(
    redis_server: LoadedRedis, redis_client: Redis
) -> None:
    hour_ms = 3_600_000

    async def work(log: OrderLog) -> None:
        log._history.last_ms = int(time.time() * 1000) + hour_ms
        before = await log.append(order())
        log._history.last_ms = 0  # another process, which knows only the clock that went back
        after = await log.append(order())
        assert str(before.accepted_at) < str(after.accepted_at)

    run(redis_server, work)
    found: Any = redis_client.xrange(keys.key("pikachu", "orders"))
    ids = [entry_id for entry_id, _ in found]
    assert ids == sorted(ids)


def test_what_arrives_during_an_append_goes_together_in_the_next_for_all_cards(
    redis_server: LoadedRedis, redis_client: Redis
) -> None:
    async def work(log: OrderLog) -> None:
        first = await in_flight(log, order())
        later = [order(CARDS[i % 4], 100 + i) for i in range(40)]

        outcomes = await asyncio.gather(first, *(log.append(command) for command in later))

        assert outcomes[0].sequence == 1
        assert {card: [len(entry) for entry in entries(redis_client, card)] for card in CARDS} == {
            card: [1, 10] if card == "pikachu" else [10] for card in CARDS
        }
        for card in CARDS:
            assert entries(redis_client, card)[-1] == [command for command in later if command.card == card]
        assert [outcome.sequence for outcome in outcomes[1:]] == [
            i // 4 + (2 if command.card == "pikachu" else 1) for i, command in enumerate(later)
        ]

    run(redis_server, work)


def test_a_lone_command_is_sent_at_once(redis_server: LoadedRedis, redis_client: Redis) -> None:
    async def work(log: OrderLog) -> None:
        for number in range(1, 4):
            assert (await log.append(order())).sequence == number
        assert [len(entry) for entry in entries(redis_client, "pikachu")] == [1, 1, 1]

    run(redis_server, work)


def test_a_batch_is_one_entry_a_card_whatever_waits_beside_it(redis_server: LoadedRedis, redis_client: Redis) -> None:
    async def work(log: OrderLog) -> None:
        first = await in_flight(log, order())
        lone = asyncio.gather(*(log.append(order(trader_id=2)) for _ in range(5)))
        await asyncio.sleep(0)
        commands = [order(CARDS[i % 2], 100 + i % 900) for i in range(2 * COMMANDS_MAX)]

        outcomes = await log.append_all(commands)
        await asyncio.gather(first, lone)

        assert [len(entry) for entry in entries(redis_client, "pikachu")] == [1, 5, COMMANDS_MAX]
        assert [len(entry) for entry in entries(redis_client, "bulbasaur")] == [COMMANDS_MAX]
        for card, start in (("pikachu", 7), ("bulbasaur", 1)):
            of_card = [o.sequence for c, o in zip(commands, outcomes, strict=True) if c.card == card]  # type: ignore[union-attr]
            assert of_card == list(range(start, start + COMMANDS_MAX))

    run(redis_server, work)


def test_more_than_an_entry_holds_is_many_entries_in_order(redis_server: LoadedRedis, redis_client: Redis) -> None:
    async def work(log: OrderLog) -> None:
        commands = [order(price_cents=100 + i % 900) for i in range(2 * COMMANDS_MAX + 3)]

        outcomes = await log.append_all(commands)

        assert [o.sequence for o in outcomes if isinstance(o, Accepted)] == list(range(1, len(commands) + 1))
        assert [len(entry) for entry in entries(redis_client, "pikachu")] == [COMMANDS_MAX, COMMANDS_MAX, 3]
        assert [command for entry in entries(redis_client, "pikachu") for command in entry] == commands

    run(redis_server, work)


@pytest.mark.usefixtures("redis_client")
def test_a_card_that_is_refused_refuses_no_other(redis_server: LoadedRedis) -> None:
    async def work(log: OrderLog) -> None:
        await log.append_all([order()] * 4)

        outcomes = await log.append_all([order(), order("squirtle"), order(), order("squirtle")])

        assert [type(outcome) for outcome in outcomes] == [Overloaded, Accepted, Overloaded, Accepted]
        with pytest.raises(Overloaded, match="wait to be matched"):
            await log.append(order())
        assert (await log.append(order("squirtle"))).sequence == 3

    run(redis_server, work, backlog_max=4)


@pytest.mark.usefixtures("redis_client")
def test_more_than_may_wait_is_refused_at_once(redis_server: LoadedRedis) -> None:
    async def work(log: OrderLog) -> None:
        first = await in_flight(log, order())
        found = await asyncio.gather(*(log.append(order()) for _ in range(10)), first, return_exceptions=True)
        beside = await log.append(order("squirtle"))

        assert [type(outcome) for outcome in found] == [Accepted] * 3 + [Overloaded] * 7 + [Accepted]
        assert beside.sequence == 1
        assert (await log.append(order())).sequence == 5

    run(redis_server, work, pending_max=3)


@pytest.mark.usefixtures("redis_client")
def test_a_caller_who_goes_away_leaves_the_others_their_places(redis_server: LoadedRedis) -> None:
    async def work(log: OrderLog) -> None:
        first = await in_flight(log, order())
        gone, stays = asyncio.create_task(log.append(order())), asyncio.create_task(log.append(order()))
        await asyncio.sleep(0)
        first.cancel()
        gone.cancel()

        assert (await stays).sequence == 3
        assert first.cancelled()
        assert gone.cancelled()

    run(redis_server, work)


@pytest.mark.usefixtures("redis_client")
def test_ids_that_repeat_have_the_outcomes_of_one_order_after_the_other(redis_server: LoadedRedis) -> None:
    choose = random.Random(SEED)
    first_of: dict[tuple[str, int, str], tuple[int, int]] = {}
    sequences = dict.fromkeys(CARDS, 0)

    def expected(command: PlaceOrder) -> tuple[str, int]:
        place = (command.card, command.trader_id, command.client_order_id or "")
        if command.client_order_id and place in first_of:
            sequence, price_cents = first_of[place]
            return ("repeat" if price_cents == command.price_cents else "conflict"), sequence
        sequences[command.card] += 1
        first_of[place] = (sequences[command.card], command.price_cents)
        return "fresh", sequences[command.card]

    def shown(command: PlaceOrder, outcome: Accepted | TcgxError) -> tuple[str, int]:
        if isinstance(outcome, Accepted):
            return ("fresh" if outcome.accepted_at else "repeat"), outcome.sequence
        assert isinstance(outcome, ClientOrderIdConflict), outcome
        assert outcome.client_order_id == command.client_order_id
        return "conflict", int(outcome.order_id.rpartition("-")[2])

    async def work(log: OrderLog) -> None:
        for _ in range(40):
            commands = [
                order(
                    choose.choice(CARDS[:3]),
                    choose.choice((500, 500, 500, 501)),
                    trader_id=choose.randint(1, 2),
                    client_order_id=choose.choice((None, *(f"id-{choose.randint(1, 150)}" for _ in range(3)))),
                )
                for _ in range(choose.randint(1, 30))
            ]

            outcomes = await log.append_all(commands)

            found = [shown(command, outcome) for command, outcome in zip(commands, outcomes, strict=True)]
            assert found == [expected(command) for command in commands], SEED

    run(redis_server, work)
    assert {len(first_of) > 100, min(sequences[card] for card in CARDS[:3]) > 50} == {True}


@pytest.mark.usefixtures("redis_client")
def test_a_server_that_lost_its_library_gets_it_back_and_nothing_is_entered_twice(
    redis_server: LoadedRedis, redis_client: Redis
) -> None:
    async def work(log: OrderLog) -> None:
        redis_client.function_flush()

        outcomes = await log.append_all([order(card) for card in CARDS])

        assert [outcome.sequence for outcome in outcomes if isinstance(outcome, Accepted)] == [1, 1, 1, 1]
        assert [len(entries(redis_client, card)) for card in CARDS] == [1, 1, 1, 1]

    run(redis_server, work)


def test_a_server_that_is_gone_is_unavailable_for_every_card_and_then_works_again(own_server: LoadedRedis) -> None:
    async def work(log: OrderLog) -> None:
        assert (await log.append(order())).sequence == 1
        await asyncio.to_thread(own_server.kill)

        outcomes = await log.append_all([order(card) for card in CARDS])

        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 4
        await asyncio.to_thread(own_server.start)
        assert [type(outcome) for outcome in await log.append_all([order(card) for card in CARDS])] == [Accepted] * 4

    run(own_server, work)
