"""What match writes into events while a card is watched: the book of the events is the book of Redis."""

import random
from itertools import islice
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from core.model import PRICE_CENTS_MAX, Command, PlaceOrder, Side
from engine import codec, keys
from engine.book_reader import Depth
from engine.events import Event
from streams.book import KNOWN, WINDOW, Book
from testing.flows import FLOWS
from testing.market import Market
from testing.waiting import until

pytestmark = pytest.mark.server

CARD = "pikachu"
WATCH_MS = 60_000


def watch(market: Market, *, levels: int = KNOWN, milliseconds: int = WATCH_MS, orders: bool = False) -> Depth:
    """The reply of `FCALL_RO watch`."""
    reply: Any = market.redis.fcall_ro("watch", 1, market.tag, levels, milliseconds, int(orders))
    sequence, bids, asks = reply
    return Depth(sequence, list(zip(bids[::2], bids[1::2], strict=True)), list(zip(asks[::2], asks[1::2], strict=True)))


def depth(market: Market, levels: int = WINDOW) -> tuple[int, list[tuple[int, int]], list[tuple[int, int]]]:
    """What `GET /cards/{card}/book` shows."""
    sequence, bids, asks = market.redis.fcall_ro("depth", 1, market.tag, levels)
    return sequence, list(zip(bids[::2], bids[1::2], strict=True)), list(zip(asks[::2], asks[1::2], strict=True))


def state(book: Book) -> tuple[int, list[tuple[int, int]], list[tuple[int, int]]]:
    """What subscribers see."""
    return book.sequence, book.bids.window(), book.asks.window()


def events_after(market: Market, sequence: int) -> list[Event]:
    """The events after a sequence."""
    entries: Any = market.redis.xrange(keys.key(CARD, "events"), min=f"{sequence + 1}-0")
    return [Event.of(CARD, entry) for entry in entries]


def test_an_event_that_nobody_watches_has_the_fields_it_always_had(redis_client: Redis) -> None:
    market = Market(redis_client, "mew")
    market.given("""
        bid | price | ask
            | 5.50  | 1
    """)
    market.redis.fcall_ro("depth", 1, market.tag, 20)
    market.buy("5.50", 2)
    market.match()

    fields = [list(fields) for _, fields in market.events()]
    assert fields == [[b"first", b"log"], [b"first", b"log", b"trades", b"orders"]]


@pytest.mark.parametrize("flow", FLOWS)
def test_the_book_of_the_events_is_the_book_of_redis_after_every_call(market: Market, flow: str) -> None:
    choose = random.Random(5)
    commands = iter([each for each in islice(FLOWS[flow](5, 12_000), 12_000) if each.card == CARD])
    market.append(list(islice(commands, 200)))
    market.match()
    book = Book(CARD)
    assert book.take(watch(market))

    looked = 0
    while batch := list(islice(commands, choose.choice((1, 7, 60, 300)))):
        reached = book.sequence
        market.append(batch)
        market.match(choose.choice((1_000, 13)))
        if choose.random() < 0.1:
            depth(market, 3)  # a look at a few levels must not lose those that are watched
        for event in events_after(market, reached):
            book.apply(event)
        assert book.is_live
        assert state(book) == depth(market)
        looked += 1
    assert looked > 15


def test_a_side_with_more_levels_than_known_stays_exact(market: Market) -> None:
    choose = random.Random(6)
    makers: list[Command] = [
        PlaceOrder(trader_id=1, card=CARD, side=Side.SELL, price_cents=PRICE_CENTS_MAX - place)
        for place in range(2 * KNOWN)
    ]
    for start in range(0, len(makers), 1_000):
        market.append(makers[start : start + 1_000])
    market.match()
    book = Book(CARD)
    book.take(watch(market))
    assert len(book.asks.levels) == KNOWN

    resynced = 0
    for _ in range(40):
        reached = book.sequence
        depth(market, 3)
        price = PRICE_CENTS_MAX - choose.randrange(3 * KNOWN)
        market.append(
            [PlaceOrder(trader_id=2, card=CARD, side=Side.SELL, price_cents=price - place) for place in range(30)]
            + [PlaceOrder(trader_id=3, card=CARD, side=Side.BUY, price_cents=PRICE_CENTS_MAX, quantity=90)]
        )
        market.match(50)
        for event in events_after(market, reached):
            book.apply(event)
        if not book.is_live:
            book.take(watch(market))
            resynced += 1
        book.publish()
        assert state(book) == depth(market)
    assert resynced > 0


def test_a_watch_ends_with_its_time(redis_client: Redis) -> None:
    market = Market(redis_client, "eevee")  # a card that no other test watches: leases outlive a flush
    market.given("""
        bid | price | ask
            | 5.50  | 1
    """)
    watch(market, milliseconds=1)
    seconds, microseconds = market.redis.time()
    until(lambda: market.redis.time() >= (seconds, microseconds + 2_000))
    market.sell("5.60")
    market.match()

    assert b"levels" not in market.events()[-1][1]


def test_orders_that_rest_are_in_the_event_only_for_readers_of_orders(redis_client: Redis) -> None:
    market = Market(redis_client, "squirtle")  # that no test before has had watched
    watch(market, orders=False)
    market.sell("5.60", 3)
    market.match()
    watch(market, orders=True)
    market.sell("5.70", 2)
    market.buy("5.60", 1)
    market.match()

    before, after = [Event.of(market.card, (entry_id.encode(), fields)) for entry_id, fields in market.events()]
    assert before.level_text == b";560,3"
    assert before.opened_lines is None
    assert after.level_text is not None
    assert set(after.level_text.removeprefix(b";").split(b",")) == {b"570", b"560", b"2"}
    opened = codec.orders(market.card, after.opened_lines or b"")
    assert [(order.sequence, order.quantity, order.filled_quantity) for order in opened] == [(1, 3, 1), (2, 2, 0)]


@pytest.mark.parametrize("arguments", [(-1, 1_000), (0.5, 1_000), ("x", 1_000), (10, 0), (10, 60_001), (10, "x")])
def test_arguments_out_of_range_are_refused(redis_client: Redis, arguments: tuple[object, object]) -> None:
    market = Market(redis_client)
    with pytest.raises(ResponseError, match="watch takes how many levels, and 1 to 60000 milliseconds"):
        market.redis.fcall_ro("watch", 1, market.tag, *arguments, 0)
