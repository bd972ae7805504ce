"""Seeded streams of commands, for the oracle and for the benchmarks: the same seed gives the same commands.

A command's sequence is its place in its card's log, so a generator knows it beforehand as long as everything that it
yields is appended, in order, to empty logs.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from msgspec import structs

from core.model import COMPLETED, CancelOrder, Command, PlaceOrder, ReplaceOrder, Side, TimeInForce
from testing.oracle.reference_book import ReferenceBook

CARDS = ("pikachu", "bulbasaur", "charmander", "squirtle")
TRADERS = 10_000
PRICE_MIN, PRICE_MAX = 100, 1_000
RECENT_MAX = 200
DEPTH_MAX = 1_000_000
BID_MAX, ASK_MIN = 500, 600
FRONT_BID, FRONT_ASK = 540, 560
SIDES = (Side.BUY, Side.SELL)
NO_TIME = "1970-01-01T00:00:00.000Z"

Flow = Callable[[int, int], Iterator[Command]]
"""A seed and how many commands, to commands."""


def uniform(seed: int, count: int, cards: Sequence[str] = CARDS) -> Iterator[PlaceOrder]:
    """Four cards, prices 1.00 to 10.00, both sides alike, one card an order; 78 % of the orders trade."""
    choose = random.Random(seed)
    for _ in range(count):
        yield PlaceOrder(
            trader_id=choose.randint(1, TRADERS),
            card=choose.choice(cards),
            side=choose.choice(SIDES),
            price_cents=choose.randint(PRICE_MIN, PRICE_MAX),
        )


def market(seed: int, count: int) -> Iterator[Command]:
    """Like a market: prices near a middle that moves slowly, 45 % cancels of recent orders, 10 % ioc."""
    choose = random.Random(seed)
    middle = dict.fromkeys(CARDS, 550)
    sequences = dict.fromkeys(CARDS, 0)
    recent: dict[str, deque[tuple[int, int]]] = {card: deque(maxlen=RECENT_MAX) for card in CARDS}
    for _ in range(count):
        card = choose.choice(CARDS)
        sequences[card] += 1
        middle[card] = _within_prices(middle[card] + choose.choice((-1, 0, 0, 0, 1)))
        dice = choose.random()
        if dice < 0.45 and recent[card]:
            sequence, trader_id = choose.choice(recent[card])
            yield CancelOrder(trader_id=trader_id, card=card, sequence=sequence)
            continue
        side = choose.choice(SIDES)
        away = int(choose.expovariate(1 / 8)) - 2
        trader_id = choose.randint(1, TRADERS)
        recent[card].append((sequences[card], trader_id))
        yield PlaceOrder(
            trader_id=trader_id,
            card=card,
            side=side,
            price_cents=_within_prices(middle[card] + (-away if side is Side.BUY else away)),
            quantity=choose.randint(1, 20),
            time_in_force=TimeInForce.IOC if dice > 0.90 else TimeInForce.GTC,
        )


def deep(seed: int, count: int) -> Iterator[Command]:
    """First orders that rest (half of the commands, at most `DEPTH_MAX`), then trade at the top of these books."""
    depth = min(DEPTH_MAX, count // 2)
    yield from resting(seed, depth)
    yield from at_the_top(seed, count - depth)


def resting(seed: int, depth: int) -> Iterator[PlaceOrder]:
    """So many orders that all rest: bids in the lower part of the prices, asks in the upper one."""
    choose = random.Random(f"resting {seed}")
    for number in range(depth):
        yield _maker(choose, CARDS[number % len(CARDS)], SIDES[number // len(CARDS) % 2])


def at_the_top(seed: int, count: int) -> Iterator[PlaceOrder]:
    """Every second order takes the best of a side and another one comes to rest on it, at any price, so that the books
    stay as deep as they are and as many orders trade whatever the depth. In a deep book takers meet what has rested for
    long; in a small one, matched many at a time, what came just before them."""
    choose = random.Random(f"top {seed}")
    return _in_turns(choose, count, lambda card, side: _maker(choose, card, side))


def front(seed: int, count: int) -> Iterator[PlaceOrder]:
    """So many orders that rest before all that are `resting`: a queue at one price a card and side."""
    choose = random.Random(f"front {seed}")
    for number in range(count):
        yield _in_front(choose, CARDS[number % len(CARDS)], SIDES[number // len(CARDS) % 2])


def at_the_front(seed: int, count: int) -> Iterator[PlaceOrder]:
    """Every second order takes the oldest of such a queue and another one joins it: the same orders trade with the same
    ones whatever rests behind."""
    choose = random.Random(f"at the front {seed}")
    return _in_turns(choose, count, lambda card, side: _in_front(choose, card, side))


def _in_turns(choose: random.Random, count: int, maker: Callable[[str, Side], PlaceOrder]) -> Iterator[PlaceOrder]:
    """For each card and side a maker, then for each a taker, and so on."""
    for number in range(count):
        turn = number % (4 * len(CARDS))
        card, side = CARDS[turn % len(CARDS)], SIDES[turn // len(CARDS) % 2]
        if turn < 2 * len(CARDS):
            yield maker(card, side)
            continue
        yield PlaceOrder(
            trader_id=choose.randint(1, TRADERS),
            card=card,
            side=side,
            price_cents=PRICE_MAX if side is Side.BUY else PRICE_MIN,
        )


def _in_front(choose: random.Random, card: str, side: Side) -> PlaceOrder:
    price_cents = FRONT_BID if side is Side.BUY else FRONT_ASK
    return PlaceOrder(trader_id=choose.randint(1, TRADERS), card=card, side=side, price_cents=price_cents)


def _maker(choose: random.Random, card: str, side: Side) -> PlaceOrder:
    low, high = (PRICE_MIN, BID_MAX) if side is Side.BUY else (ASK_MIN, PRICE_MAX)
    return PlaceOrder(trader_id=choose.randint(1, TRADERS), card=card, side=side, price_cents=choose.randint(low, high))


def stress_few_traders(seed: int, count: int) -> Iterator[Command]:
    """Forty traders on one card, prices a few cents apart: everything meets everything."""
    return _stress(seed, count, cards=CARDS[:1], traders=40, spread_cents=4)


def stress_many_traders(seed: int, count: int) -> Iterator[Command]:
    """Ten thousand traders on two cards, all prices: deep books."""
    return _stress(seed, count, cards=CARDS[:2], traders=TRADERS, spread_cents=None)


def replaces_few_traders(seed: int, count: int) -> Iterator[Command]:
    """As `stress_few_traders`, with many replaces and post-only orders: takers meet growing chains all the time."""
    return _with_replaces(seed, _stress(seed, count, cards=CARDS[:1], traders=40, spread_cents=4))


def replaces_many_traders(seed: int, count: int) -> Iterator[Command]:
    """As `stress_many_traders`, with many replaces and post-only orders: in deep books most of them rest."""
    return _with_replaces(seed, _stress(seed, count, cards=CARDS[:2], traders=200, spread_cents=None))


def _with_replaces(seed: int, commands: Iterator[Command]) -> Iterator[Command]:
    """Makes two fifths of the orders replaces and a tenth post-only.

    Most replaces name an order that rests if nothing meets its own trader. The others name any recent command, one that
    is not there yet, or another trader's order.
    """
    choose = random.Random(f"replaces {seed}")
    books: dict[str, ReferenceBook] = {}
    placed: dict[str, list[PlaceOrder | None]] = {}
    for command in commands:
        book = books.setdefault(command.card, ReferenceBook(command.card))
        before = placed.setdefault(command.card, [])
        varied = _varied(choose, command, book, before) if isinstance(command, PlaceOrder) else command
        before.append(varied if isinstance(varied, PlaceOrder) else None)
        book.apply(len(before), NO_TIME, varied)
        yield varied


def _varied(
    choose: random.Random, order: PlaceOrder, book: ReferenceBook, before: Sequence[PlaceOrder | None]
) -> PlaceOrder:
    dice, is_gtc = choose.random(), order.time_in_force is TimeInForce.GTC
    if dice < 0.1 and is_gtc:
        return structs.replace(order, post_only=True)
    if dice > 0.5 or not is_gtc:
        return order
    sequence = _replaceable(choose, book, len(before))
    target = before[sequence - 1] if sequence <= len(before) else None
    if target is None:
        return _replace(choose, order, order, sequence)
    is_foreign, is_other_side = choose.random() < 0.03, choose.random() < 0.02
    like = structs.replace(
        target,
        trader_id=order.trader_id if is_foreign else target.trader_id,
        side=order.side if is_other_side else target.side,
    )
    return _replace(choose, like, order, sequence)


def _replaceable(choose: random.Random, book: ReferenceBook, count: int) -> int:
    """A sequence for a replace to name, among or just behind the `count` first ones."""
    sequence = count + 1
    for _ in range(20):
        sequence = max(1, count - int(choose.expovariate(1 / 30)))
        order = book.order(sequence)
        if order and order.status not in COMPLETED:
            break
    return sequence if choose.random() < 0.97 else count + choose.randint(0, 3)


def _replace(choose: random.Random, like: PlaceOrder, order: PlaceOrder, target: int) -> ReplaceOrder:
    """A replace of an order `like` this one, whose other terms are those of `order`."""
    lower = choose.randint(1, max(1, like.quantity))
    return ReplaceOrder(
        trader_id=like.trader_id,
        card=like.card,
        side=like.side,
        price_cents=like.price_cents if choose.random() < 0.5 else order.price_cents,
        quantity=choose.choice((lower, lower, like.quantity, order.quantity, like.quantity + order.quantity)),
        client_order_id=order.client_order_id,
        post_only=like.post_only if choose.random() < 0.8 else not like.post_only,
        replaces=target,
        keeps_quantity=choose.random() < 0.2,
    )


def _stress(
    seed: int, count: int, *, cards: tuple[str, ...], traders: int, spread_cents: int | None
) -> Iterator[Command]:
    """Every kind of command but replaces, and cancels that must and that must not find their order."""
    choose = random.Random(seed)
    middle = dict.fromkeys(cards, 550)
    placed: dict[str, list[tuple[int, int]]] = {card: [] for card in cards}
    sequences = dict.fromkeys(cards, 0)
    for number in range(count):
        card = choose.choice(cards)
        sequences[card] += 1
        if choose.random() < 0.3:
            yield _cancel(choose, card, sequence=sequences[card], placed=placed[card], traders=traders)
            continue
        if choose.random() < 0.01:
            middle[card] = _within_prices(middle[card] + choose.randint(-5, 5))
        if spread_cents is None:
            price_cents = choose.randint(PRICE_MIN, PRICE_MAX)
        else:
            price_cents = _within_prices(middle[card] + choose.randint(-spread_cents, spread_cents))
        trader_id = choose.randint(1, traders)
        placed[card].append((sequences[card], trader_id))
        yield PlaceOrder(
            trader_id=trader_id,
            card=card,
            side=choose.choice(SIDES),
            price_cents=price_cents,
            quantity=choose.choice((1, 1, 2, 3, 5, 8, 13, 20)) if choose.random() < 0.95 else choose.randint(20, 200),
            time_in_force=choose.choices(tuple(TimeInForce), weights=(8, 1, 1))[0],
            client_order_id=f"id-{number}:{seed}" if choose.random() < 0.1 else None,
        )


def _cancel(
    choose: random.Random, card: str, *, sequence: int, placed: list[tuple[int, int]], traders: int
) -> CancelOrder:
    """A cancel of an own recent order (mostly), an old one, a foreign one, one that is not there yet, or of all."""
    dice = choose.random()
    stranger = choose.randint(1, traders)
    if dice < 0.03:
        return CancelOrder(trader_id=stranger, card=card, sequence=0)
    if dice < 0.10 or not placed:
        return CancelOrder(trader_id=stranger, card=card, sequence=sequence + choose.randint(0, 50))
    if dice < 0.60:
        target, owner = choose.choice(placed[-RECENT_MAX:])
    else:
        target, owner = choose.choice(placed)
    return CancelOrder(trader_id=stranger if choose.random() < 0.15 else owner, card=card, sequence=target)


def _within_prices(price_cents: int) -> int:
    return max(PRICE_MIN, min(PRICE_MAX, price_cents))


FLOWS: dict[str, Flow] = {
    "uniform": uniform,
    "market": market,
    "deep": deep,
    "stress_few_traders": stress_few_traders,
    "stress_many_traders": stress_many_traders,
}
REPLACE_FLOWS: dict[str, Flow] = {
    "replaces_few_traders": replaces_few_traders,
    "replaces_many_traders": replaces_many_traders,
}
