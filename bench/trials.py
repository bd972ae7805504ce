"""`tcgx bench trials`: what else the matcher's data could look like, and what an order would cost then.

Each trial does one piece of a match call's work in several ways, in Lua (bench/trials/*.lua, with the parts of lua/ at
hand); `batch` is the match function itself. All ways get the same seeded orders of the flow
`uniform`, on one server that nobody else uses, and on cards of their own (four, of `batch` one). They take turns,
another one first in each round. Their replies, or books, must be equal, so that all have done the same.

Counted is what INFO says of the server: its CPU with the calls themselves and their arguments, which `nothing` shows
alone. Replies, fsync and the network are in the time.
"""

import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import msgspec
from redis.asyncio import Redis

from bench import matching
from bench.machine import machine
from bench.options import Options
from bench.order_flow import uniform
from bench.plot_style import BAR_INCHES, Bar, Head, Sheet, counted
from bench.progress import Board, Task
from bench.result import Failed, Result, Row, common
from bench.servers import empty_redis, long_client, redis_cpu_seconds, server_name
from core.model import Side
from engine import keys, library
from engine.book_reader import BookReader
from engine.connection import redis_errors
from engine.matcher import Matcher
from engine.nodes import Node

LIBRARY = "tcgx_trials"
FUNCTION = "trial"
BATCH = 500
CARDS_A_VARIANT = 4
"""As the flow has them: a call of each goes in one pipeline, as an engine sends them, and what one card's call has at
hand in the processor's caches the next ones push out."""
NOTHING = "nothing: the call alone"
PAGES = -(-BATCH // 3)
"""Three orders of each page are reached."""
CANCELS = 40
CANCELED_FROM_CENTS = 860
"""Orders to be canceled are chosen from those that are never the best."""
ENTRY_MS = 1_767_225_600_000
BATCH_SIZES = (50, 100, 200, 500, 1_000)

Call = tuple[Any, ...]
"""The Lua function, by file and name, and its arguments."""


class Batch(msgspec.Struct, frozen=True):
    """500 orders of a card. `base`: the sequence before the first; kind: 1 a buy, -1 a sell."""

    base: int
    kinds: list[int]
    traders: list[int]
    prices: list[int]


class Trial(msgspec.Struct, frozen=True):
    """Variants by their name: the Lua function; the first is what tcgx does. `before`: how many batches of each card
    are taken before anything is measured. `dropped`: keys that only grow, and go after every turn."""

    variants: Mapping[str, str]
    calls: Callable[[str, Sequence[Batch], int], list[Call]]
    before: int
    dropped: tuple[str, ...] = ()


class Outcome(msgspec.Struct, frozen=True):
    """Medians of the rounds. `chosen`: what tcgx does; `ratio`: CPU to that of the chosen one, in the same round."""

    variant: str
    chosen: bool
    cpu_us_per_order: float
    us_per_order: float
    aof_bytes_per_order: float
    ratio: float


class Turn(msgspec.Struct, frozen=True):
    """What an order of one variant took in one round."""

    cpu_us: float
    us: float
    aof_bytes: float


class TrialsResult(Result, kw_only=True):
    """`orders`: of each variant."""

    orders: int
    rounds: int
    batch: int
    trials: dict[str, list[Outcome]]

    def headline(self) -> str:
        best = self._best()
        return f"what tcgx does takes the least CPU in {len(best)} of {len(self.trials)} trials: {', '.join(best)}"

    def _best(self) -> list[str]:
        """Trials in which no alternative takes less."""
        return [
            name
            for name, outcomes in self.trials.items()
            if all(one.chosen or one.ratio >= 1 for one in outcomes if one.variant != NOTHING)
        ]

    def columns(self) -> Row:
        return ("", "", "CPU an order", "ratio", "time an order", "AOF an order")

    def rows(self) -> list[Row]:
        return [
            (
                "" if place else name,
                one.variant + (" (tcgx)" if one.chosen else ""),
                f"{one.cpu_us_per_order:.2f} µs",
                f"{one.ratio:.2f}",
                f"{one.us_per_order:.2f} µs",
                f"{one.aof_bytes_per_order:.0f} B",
            )
            for name, outcomes in self.trials.items()
            for place, one in enumerate(outcomes)
        ]

    def head(self) -> Head:
        return Head(
            title=f"tcgx trials: no other way takes less CPU in {len(self._best())} of {len(self.trials)}",
            subtitle="The server's CPU an order in µs, and how many times what tcgx takes; medians of "
            f"{counted(self.rounds, 'round')} in turns, {self.orders:,} orders each. Each trial is one piece of a "
            "match call's work, done in several ways.",
            key={"engine": "what tcgx does", "other": "other ways"},
        )

    def draw(self, sheet: Sheet) -> None:
        counts = [len(outcomes) for outcomes in self.trials.values()]
        inches = 0.3 + sum(0.33 + BAR_INCHES * 0.85 * count for count in counts)
        axes = sheet.panels(len(counts), 1, inches=inches, height_ratios=[count + 0.2 for count in counts])
        for (ax,), (name, outcomes) in zip(axes, self.trials.items(), strict=True):
            ax.set_title(TITLES[name])
            sheet.bars(ax, [[_bar(one)] for one in outcomes])


TITLES: Mapping[str, str] = {
    "parse": "Reading what rests in a book",
    "resting": "Keeping what rests in a book",
    "levels": "Price levels",
    "traders": "A trader's orders, alone",
    "entry": "An entry of the log",
    "event": "An event of a match call",
    "batch": "Commands in a match call",
}


def _bar(one: Outcome) -> Bar:
    times = "" if one.chosen else f", {one.ratio:,.2f} times"
    label = f"{one.cpu_us_per_order:,.2f}{times}"
    return Bar(one.variant, one.cpu_us_per_order, "engine" if one.chosen else "other", label)


async def run(options: Options, board: Board) -> TrialsResult:
    """The trials that were asked for, one after the other."""
    here = machine()
    board.step("starting servers")
    async with empty_redis(options) as local, long_client(local.redis_url) as client:
        server = await server_name(client)
    trials = {
        name: await (_lua_trial(name, options, board) if name in TRIALS else MATCH_TRIALS[name](options, board))
        for name in options.only
    }
    return TrialsResult(
        **common(options, here, server),
        orders=_portion(options) * options.rounds * BATCH,
        rounds=options.rounds,
        batch=BATCH,
        trials=trials,
    )


def _portion(options: Options) -> int:
    """How many batches a round has of each variant."""
    return max(1, -(-options.orders // (BATCH * options.rounds)))


async def _lua_trial(name: str, options: Options, board: Board) -> list[Outcome]:
    trial = TRIALS[name]
    portion = _portion(options)
    functions = list(trial.variants.values())
    before = CARDS_A_VARIANT * trial.before
    board.step(f"{name}: making orders")
    async with (
        empty_redis(options, [card for function in functions for card in _cards(function)]) as local,
        long_client(local.redis_url) as client,
    ):
        await _load(client)
        try:
            lua = _LuaTrial(client, trial, options.seed, before + portion * options.rounds)
            for function in functions:
                await lua.call(function, range(before))
            task = board.task(f"{name}: orders", portion * options.rounds * BATCH * len(functions))

            async def turn(number: int, variant: int) -> Turn:
                function, start = functions[variant], before + number * portion
                places = range(start, start + portion)
                measured = await _measure(client, lambda: lua.call(function, places), portion * BATCH, task)
                if trial.dropped:
                    await client.delete(*(keys.key(card, part) for card in _cards(function) for part in trial.dropped))
                return measured

            return await _in_turns(list(trial.variants), options.rounds, turn)
        finally:
            await _any(client).function_delete(LIBRARY)


def _cards(function: str) -> list[str]:
    """On which a variant works."""
    return [f"{function.replace('.', '_')}_{number}" for number in range(CARDS_A_VARIANT)]


class _LuaTrial:
    """Calls of a trial's variants, whose replies have to be those of the others."""

    def __init__(self, client: Redis, trial: Trial, seed: int, count: int) -> None:
        self._client = client
        self._calls: dict[str, list[tuple[str, Call]]] = {function: [] for function in trial.variants.values()}
        flows = [_batches(f"{seed} {card}", -(-count // CARDS_A_VARIANT)) for card in range(CARDS_A_VARIANT)]
        for function, calls in self._calls.items():
            of_cards = [
                [(card, call) for call in trial.calls(function, flow, seed)]
                for card, flow in zip(_cards(function), flows, strict=True)
            ]
            calls.extend(call for side_by_side in zip(*of_cards, strict=True) for call in side_by_side)
        self._replies: dict[int, tuple[str, Any]] = {}

    async def call(self, function: str, places: range) -> None:
        """Those at these places, one of each card a pipeline.

        Raises:
            Failed: a reply is not what another variant had.
        """
        for first in range(places.start, places.stop, CARDS_A_VARIANT):
            some = range(first, min(first + CARDS_A_VARIANT, places.stop))
            pipeline = self._client.pipeline(transaction=False)
            for place in some:
                card, call = self._calls[function][place]
                pipeline.fcall(FUNCTION, 1, keys.tag(card), *call)
            for place, reply in zip(some, await pipeline.execute(), strict=True):
                self._compare(function, place, reply)

    def _compare(self, function: str, place: int, reply: Any) -> None:
        if function.endswith(".nothing"):
            return
        other, expected = self._replies.setdefault(place, (function, reply))
        if reply != expected:
            raise Failed(f"batch {place}: {function} replies {reply!r}, {other} {expected!r}")


async def _in_turns(variants: Sequence[str], rounds: int, turn: Callable[[int, int], Awaitable[Turn]]) -> list[Outcome]:
    """Every variant in every round, another one first each time; `turn` gets the round and the variant."""
    count = len(variants)
    turns: list[list[Turn]] = [[] for _ in variants]
    for number in range(rounds):
        for place in range(count):
            variant = (number + place) % count
            turns[variant].append(await turn(number, variant))
    chosen = turns[0]
    return [
        Outcome(
            variant=name,
            chosen=mine is chosen,
            cpu_us_per_order=statistics.median(one.cpu_us for one in mine),
            us_per_order=statistics.median(one.us for one in mine),
            aof_bytes_per_order=statistics.median(one.aof_bytes for one in mine),
            ratio=statistics.median(one.cpu_us / ours.cpu_us for one, ours in zip(mine, chosen, strict=True)),
        )
        for name, mine in zip(variants, turns, strict=True)
    ]


async def _measure(client: Redis, work: Callable[[], Awaitable[None]], orders: int, task: Task) -> Turn:
    aof, cpu, started = await _aof_bytes(client), await redis_cpu_seconds(client), time.perf_counter()
    await work()
    seconds = time.perf_counter() - started
    cpu = await redis_cpu_seconds(client) - cpu
    aof = await _aof_bytes(client) - aof
    task.advance(orders)
    return Turn(1e6 * cpu / orders, 1e6 * seconds / orders, aof / orders)


async def _aof_bytes(client: Redis) -> int:
    about: dict[str, Any] = await client.info("persistence")
    return int(about["aof_current_size"])


def _any(client: Redis) -> Any:
    """redis-py's asyncio client has the types of the other one for functions."""
    return client


async def _load(client: Redis) -> None:
    """The trials as one library, beside that of tcgx."""
    folder = files("bench") / "trials"
    lines = [f"#!lua name={LIBRARY}", "local function build()", *library.parts(), "return {"]
    for name in FILES:
        lines += [f"{name} = (function()", (folder / f"{name}.lua").read_text(), "end)(),"]
    lines += [
        "}",
        "end",
        "local built",
        f"redis.register_function('{FUNCTION}', function(keys, args)",
        "  built = built or build()",
        "  local file, name = string.match(table.remove(args, 1), '^(.*)%.(.*)$')",
        "  return built[file][name](keys[1], args)",
        "end)",
    ]
    with redis_errors():
        await _any(client).function_load("\n".join(lines) + "\n", replace=True)


# -- the data


def _batches(seed: str, count: int) -> list[Batch]:
    flow = uniform(random.Random(seed).getrandbits(32), count * BATCH, ("any",))
    batches = []
    for number in range(count):
        orders = [next(flow) for _ in range(BATCH)]
        batches.append(
            Batch(
                base=number * BATCH,
                kinds=[1 if order.side is Side.BUY else -1 for order in orders],
                traders=[order.trader_id for order in orders],
                prices=[order.price_cents for order in orders],
            )
        )
    return batches


def _json(values: Sequence[Any]) -> bytes:
    return msgspec.json.encode(values)


def _texts(numbers: Sequence[int]) -> list[str]:
    return [str(number) for number in numbers]


BOOK_BEFORE = 20


def _book_calls(function: str, batches: Sequence[Batch], seed: int) -> list[Call]:
    """Sells come to rest; buys take the best, but for the orders that are canceled, so a book stays as deep as it is
    after the first batches: those only fill it."""
    choose = random.Random(f"cancels {seed}")
    calls: list[Call] = []
    base = 0
    open_orders: list[tuple[int, int]] = []
    for number, batch in enumerate(batches):
        sells = [place for place in range(BATCH) if batch.kinds[place] < 0]
        prices = [batch.prices[place] for place in sells]
        canceled = []
        if number >= BOOK_BEFORE:
            for _ in range(min(CANCELS, len(open_orders))):
                place = choose.randrange(len(open_orders))
                canceled.append(open_orders[place])
                open_orders[place] = open_orders[-1]
                open_orders.pop()
        calls.append(
            (
                function,
                base,
                _json(_texts([batch.traders[place] for place in sells])),
                _json(prices),
                BATCH - len(sells) - len(canceled) if number >= BOOK_BEFORE else 0,
                _json([f"{sequence:012d}" for sequence, _ in canceled]),
                _json([price for _, price in canceled]),
            )
        )
        open_orders += [(base + 1 + place, price) for place, price in enumerate(prices) if price >= CANCELED_FROM_CENTS]
        base += len(sells)
    return calls


def _parse_calls(function: str, batches: Sequence[Batch], seed: int) -> list[Call]:
    filling = _book_calls("resting.hash", batches[:BOOK_BEFORE], seed)
    return filling + [(function, PAGES)] * (len(batches) - BOOK_BEFORE)


def _flow_calls(function: str, batches: Sequence[Batch], _seed: int) -> list[Call]:
    return [(function, batch.base, _json(batch.kinds), _json(_texts(batch.traders))) for batch in batches]


def _event_calls(function: str, batches: Sequence[Batch], _seed: int) -> list[Call]:
    return [(function, batch.base, _json(_texts(batch.traders)), _json(batch.prices)) for batch in batches]


def _entry_calls(function: str, batches: Sequence[Batch], _seed: int) -> list[Call]:
    encode = msgspec.msgpack.encode if "msgpack" in function else _json
    calls = []
    for batch in batches:
        ones = [1] * BATCH
        columns: tuple[Any, ...]
        if function.endswith("_columns"):
            kinds = encode(batch.kinds)
            if encode is _json:
                kinds = "".join("G" if kind > 0 else "g" for kind in batch.kinds).encode()
            columns = (kinds, *(encode(column) for column in (_texts(batch.traders), batch.prices, ones)))
        else:
            rows = zip(batch.kinds, batch.traders, batch.prices, ones, [0] * BATCH, strict=True)
            columns = (encode([value for row in rows for value in row]),)
        calls.append((function, batch.base, f"{ENTRY_MS}-{batch.base + 1}", *columns))
    return calls


TRIALS: Mapping[str, Trial] = {
    "parse": Trial(
        {
            "pages of 4 to 64, when reached": "parse.side",
            "a page of 64, when reached": "parse.reached",
            "a page of 64, all at once": "parse.all",
        },
        _parse_calls,
        BOOK_BEFORE,
    ),
    "resting": Trial(
        {
            "member: sequence; hash: line": "resting.hash",
            "member: line; hash: sequence to line": "resting.member_indexed",
            "member: line; cancels know the price": "resting.member",
            NOTHING: "resting.nothing",
        },
        _book_calls,
        BOOK_BEFORE,
    ),
    "levels": Trial(
        {
            "sorted set of orders": "resting.hash",
            "sorted set of levels, lists of sequences": "resting.levels_hash",
            "the same, lists of lines; cancels know the price": "resting.levels_lines",
            NOTHING: "resting.nothing",
        },
        _book_calls,
        BOOK_BEFORE,
    ),
    "traders": Trial(
        {
            "a list a trader, RPUSH": "traders.lists",
            "a portion a batch in buckets, HSET": "traders.portions",
            "a hash with whole lists": "traders.hash",
            "a string a trader, MGET and MSET": "traders.strings",
            NOTHING: "traders.nothing",
        },
        _flow_calls,
        100,
    ),
    "entry": Trial(
        {
            "columns, JSON": "entry.json_columns",
            "commands in a flat array, JSON": "entry.json_flat",
            "columns, MessagePack": "entry.msgpack_columns",
            "commands in a flat array, MessagePack": "entry.msgpack_flat",
        },
        _entry_calls,
        1,
        dropped=("orders",),
    ),
    "event": Trial(
        {
            "lines": "event.lines",
            "lines, table.concat": "event.lines_concat",
            "arrays, JSON": "event.json",
            "arrays, MessagePack": "event.msgpack",
            "arrays, MessagePack; lines for traders' lists": "event.msgpack_and_lines",
            "lines, an entry a trade": "event.singly",
            NOTHING: "event.nothing",
        },
        _event_calls,
        1,
        dropped=("events",),
    ),
}
"""By name, those in Lua of their own; the first variant is the one that is used."""
FILES = sorted({function.partition(".")[0] for trial in TRIALS.values() for function in trial.variants.values()})


# -- the match function, with other limits


class Matching(msgspec.Struct, frozen=True):
    """A way of matching."""

    batch: int
    hold_ms: int | None


async def _limits_trial(options: Options, board: Board) -> list[Outcome]:
    chosen = options.settings.match_batch, options.settings.match_hold_ms
    limits: list[tuple[int, int | None]] = [chosen, *((size, None) for size in BATCH_SIZES)]
    variants = {
        f"{size:,} a call, {f'at most {hold_ms} ms' if hold_ms else 'however long'}": Matching(size, hold_ms)
        for size, hold_ms in limits
    }
    return await _match_trial("batch", variants, 1, options, board)


async def _match_trial(
    name: str, variants: Mapping[str, Matching], cards_each: int, options: Options, board: Board
) -> list[Outcome]:
    """The same orders for every variant, on cards of its own; appended in portions, so that all have the same backlog.

    Raises:
        Failed: they do not lead to the same books.
    """
    ways = list(variants.values())
    cards = [[f"trial_{variant}_{number}" for number in range(cards_each)] for variant in range(len(ways))]
    portion = _portion(options) * BATCH
    flows = [uniform(options.seed, portion * options.rounds, names) for names in cards]
    async with (
        empty_redis(options, [card for names in cards for card in names]) as local,
        long_client(local.redis_url) as client,
    ):
        await library.load(client)
        try:
            filling = board.task(f"{name}: orders to the logs", portion * options.rounds * len(ways))
            task = board.task(f"{name}: orders", portion * options.rounds * len(ways))

            async def turn(_number: int, variant: int) -> Turn:
                await matching.append(client, [next(flows[variant]) for _ in range(portion)], filling)
                return await _measure(client, lambda: _match(client, cards[variant], ways[variant]), portion, task)

            outcomes = await _in_turns(list(variants), options.rounds, turn)
        finally:
            await library.load(client)
        states = [[await BookReader(client).state_hash(card) for card in names] for names in cards]
        matched = [await matching.matched(client, names) for names in cards]
    if states != [states[0]] * len(ways) or matched != [portion * options.rounds] * len(ways):
        raise Failed(f"{name}: the variants do not lead to the same books; matched are {matched} orders")
    return outcomes


async def _match(client: Redis, cards: Sequence[str], way: Matching) -> None:
    matcher = Matcher(Node(client, client, cards), batch=way.batch, hold_ms=way.hold_ms)
    due = list(cards)
    while due:
        due = await matcher.match(due)
        for error in matcher.last_error_by_card.values():
            raise error


MATCH_TRIALS = {"batch": _limits_trial}
"""By name, those with the match function itself."""
