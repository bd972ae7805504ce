"""The log of commands on the real server: what is appended, refused, skipped, found and trimmed."""

import threading

import pytest
import redis.exceptions

from core.model import CancelOrder, Order, PlaceOrder, Side, Status, TimeInForce
from engine import codec
from testing.market import Appended, Market, cents, many, picture
from testing.servers import LoadedRedis

pytestmark = pytest.mark.server

AT = "2026-11-22T10:00:00.000Z"
EMPTY = picture("bid | price | ask")


# Entries that no append wrote.


def next_ms(market: Market) -> int:
    """The millisecond after the log's last entry, where a hand-made entry may come."""
    entries = market.redis.xrevrange(market.key("orders"), count=1)
    return int(entries[0][0].partition(b"-")[0]) + 1 if entries else 1


def by_hand(market: Market, *parts: str, sequence: int | None = None, ms: int | None = None) -> str:
    """An XADD as somebody might type it, of fields and values; its id. The sequence is the next one unless given."""
    if sequence is None:
        sequence = int(market.redis.get(market.key("sequence")) or 0) + 1
    entry_id = f"{ms or next_ms(market)}-{sequence}"
    texts = [part.replace("OWN_ID", entry_id) for part in parts]
    added: bytes = market.redis.execute_command("XADD", market.key("orders"), entry_id, *texts)
    return added.decode()


def entry(
    kinds: str = "G", traders: str = '["1"]', prices: str = "[500]", quantities: str = "[1]", *more: str, at: str = AT
) -> tuple[str, ...]:
    """The fields of an entry like those of an append; one buy at 5.00 unless told."""
    columns = ("kinds", kinds, "traders", traders, "prices", prices, "quantities", quantities)
    return "entry", "OWN_ID", "at", at, *columns, *more


def alike(count: int, kind: str, trader: int, price_cents: int) -> tuple[str, ...]:
    """An entry of so many orders of one card each."""
    prices, quantities = (str([value] * count).replace(" ", "") for value in (price_cents, 1))
    return entry(kind * count, str([str(trader)] * count).replace("'", '"').replace(" ", ""), prices, quantities)


GOOD = entry()
TWO = '["1","1"]'
MALFORMED: dict[str, tuple[str, ...]] = {
    "other fields": ("side", "buy", "price", "5.50"),
    "a field too many": (*GOOD, "note", "x"),
    "a field too few": GOOD[:-2],
    "fields in another order": (*GOOD[2:4], *GOOD[:2], *GOOD[4:]),
    "columns in another order": (*GOOD[:4], *GOOD[6:8], *GOOD[4:6], *GOOD[8:]),
    "the id of another entry": ("entry", "1-1", *GOOD[2:]),
    "no time": entry(at="yesterday"),
    "time with a comma": entry(at=AT + ",filled"),
    "an empty column": entry(""),
    "empty arrays": entry("", "[]", "[]", "[]"),
    "not JSON": entry(prices="[1"),
    "JSON with something behind": entry(prices="[1] x"),
    "an object": entry(prices='{"price":1}'),
    "a number": entry(prices="1"),
    "a text": entry(prices='"buy"'),
    "null": entry(prices="null"),
    "nested arrays": entry(prices="[[1]]"),
    "deeply nested arrays": entry(prices="[" * 5_000 + "]" * 5_000),
    "kinds as numbers": entry("[1]"),
    "an unknown letter": entry("B"),
    "an unknown letter between": entry("GxG", '["1","1","1"]', "[500,500,500]", "[1,1,1]"),
    "a letter of two bytes": entry("é"),
    "a zero byte": entry("G\0", TWO, "[500,500]", "[1,1]"),
    "fewer traders than kinds": entry("GG", '["1"]', "[500,500]", "[1,1]"),
    "more traders than kinds": entry(traders=TWO),
    "fewer prices than kinds": entry("GG", TWO, "[500]", "[1,1]"),
    "more prices than kinds": entry(prices="[500,500]"),
    "fewer quantities than kinds": entry("GG", TWO, "[500,500]", "[1]"),
    "more quantities than kinds": entry(quantities="[1,1]"),
    "fewer client ids than kinds": entry("GG", TWO, "[500,500]", "[1,1]", "clients", '["a"]'),
    "more client ids than kinds": entry(*GOOD[5:12:2], "clients", '["a","b"]'),
    "client ids twice": entry(*GOOD[5:12:2], "clients", '["a"]', "clients", '["a"]'),
    "a good command, then a bad one": entry("GG", TWO, "[500,500]", "[1,0]"),
    "a cancel, then an order without a quantity": entry("CG", TWO, "[0,500]", "[0,0]"),
    "a cancel, then an order without a price": entry("CG", TWO, "[0,0]", "[0,1]"),
    "a cancel, then an order of a sequence's price": entry("CG", TWO, "[0,1000001]", "[0,1]"),
    "more than a thousand commands": alike(1_001, "G", 1, 500),
    "a price with a fraction": entry(prices="[500.5]"),
    "a quantity with a fraction": entry(quantities="[1.5]"),
    "a price with an exponent": entry(prices="[1e-2]"),
    "a price with a great exponent": entry(prices="[15E-1]"),
    "a trader with an exponent": entry(traders='["1e-2"]'),
    "a trader with a fraction": entry(traders='["1.5"]'),
    "a trader that begins with a zero": entry(traders='["01"]'),
    "a trader of no digits": entry(traders='[""]'),
    "a trader with letters": entry(traders='["a"]'),
    "a trader with a line break": entry(traders='["1\\n"]'),
    "traders behind each other": entry("GG", '["1""1"]', "[500,500]", "[1,1]"),
    "traders in an object": entry(traders='{"1":1}'),
    "a price as text": entry(prices='["500"]'),
    "a trader as a number": entry(traders="[1]"),
    "a price of null": entry(prices="[null]"),
    "a price of true": entry(prices="[true]"),
    "a price of false": entry(prices="[false]"),
    "a price without end": entry(prices="[1e999]"),
    "an infinite price": entry(prices="[inf]"),
    "an infinite price in capitals": entry(prices="[INF]"),
    "a price that is not a number": entry(prices="[nan]"),
    "a price that is not a number, in capitals": entry(prices="[NAN]"),
    "a hexadecimal price": entry(prices="[0x10]"),
    "a price of zero": entry(prices="[0]"),
    "a negative price": entry(prices="[-500]"),
    "a price beyond all bounds": entry(prices="[1000001]"),
    "a quantity of zero": entry(quantities="[0]"),
    "a negative quantity": entry(quantities="[-1]"),
    "a quantity beyond all bounds": entry(quantities="[2147483648]"),
    "a negative trader": entry(traders='["-1"]'),
    "a trader beyond all bounds": entry(traders='["2147483648"]'),
    "a trader far beyond all bounds": entry(traders='["99999999999"]'),
    "an unknown kind": entry("[4]"),
    "an unknown negative kind": entry("[-4]"),
    "a kind with a fraction": entry("[0.5]"),
    "a cancel of a negative sequence": entry("C", '["1"]', "[-1]", "[0]"),
    "a cancel of text": entry("C", '["1"]', '["1"]', "[0]"),
    "a client id with a comma": entry(*GOOD[5:12:2], "clients", '["a,b"]'),
    "a client id with a line break": entry(*GOOD[5:12:2], "clients", '["a\\nb"]'),
    "a client id with a zero byte": entry(*GOOD[5:12:2], "clients", '["a\\u0000b"]'),
    "a client id with an accent": entry(*GOOD[5:12:2], "clients", '["\\u00e9"]'),
    "a number as client id": entry(*GOOD[5:12:2], "clients", "[7]"),
    "client ids of null": entry(*GOOD[5:12:2], "clients", "[null]"),
    "client ids in an array": entry(*GOOD[5:12:2], "clients", '[["a"]]'),
    "client ids that are no array": entry(*GOOD[5:12:2], "clients", '"a"'),
    "an unknown rule": entry(*GOOD[5:12:2], "self_trade", "allow"),
}


@pytest.mark.parametrize("limit", [1, 500])
@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_entry_is_told_and_skipped(market: Market, kind: str, limit: int) -> None:
    first = market.sell("5.00")
    rogue = by_hand(market, *MALFORMED[kind])
    second = market.buy("5.00")

    assert market.match(limit) == 1
    assert market.rejected() == [rogue]
    assert market.pairs() == [(second, first, 500, 1)]
    assert market.book() == EMPTY


def test_malformed_entries_alone_are_told_once_and_do_not_stop_the_card(market: Market) -> None:
    rogues = [by_hand(market, "price", str(price)) for price in range(3)]

    matched = market.match_once()
    again = market.match_once()
    last = market.sell("5.00")
    market.match()

    assert (matched.commands, matched.rejected) == (0, 3)
    assert (again.commands, again.rejected) == (0, 0)
    assert market.rejected() == rogues
    assert market.state(last) == (Status.OPEN, 0)


def test_thousands_of_malformed_entries_are_all_passed_over(market: Market) -> None:
    pipeline = market.redis.pipeline(transaction=False)
    for _ in range(2_500):
        pipeline.xadd(market.key("orders"), {"by": "hand"})
    pipeline.execute()
    order = market.buy("5.00")

    market.match()

    assert len(market.rejected()) == 2_500
    assert market.state(order) == (Status.OPEN, 0)


@pytest.mark.parametrize("limit", [1, 2, 500])
def test_an_entry_that_is_copied_is_not_done_twice(market: Market, limit: int) -> None:
    market.append(many(1, count=3))
    market.append(many(2, count=3))
    _, fields = market.log_entries()[0]
    parts = [part.decode() for pair in fields.items() for part in pair]
    copies = [by_hand(market, *parts, sequence=1), by_hand(market, *parts, sequence=6), by_hand(market, *parts)]
    last = market.sell("5.00", 9)

    market.match(limit)

    assert market.rejected() == copies
    assert [order.sequence for order in market.completed()] == [1, 2, 3, 4, 5, 6, last]


def test_an_entry_that_a_call_has_left_half_done_is_read_as_it_is_then(market: Market) -> None:
    """As where a server gets another state while its Lua goes on."""
    market.append(many(1, count=3))
    market.match_once(1)
    entry_id, fields = market.log_entries()[0]
    market.redis.delete(market.key("orders"))
    market.redis.xadd(market.key("orders"), {**fields, b"prices": b"[500,510,520]"}, id=entry_id)

    market.match_once()

    assert [order.price_cents for order in market.bids()] == [520, 510, 500]


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
@pytest.mark.parametrize("sequence", [0, 1, 3, 4, 5])
def test_an_entry_that_claims_a_place_that_is_taken_is_skipped_in_whatever_batches(
    market: Market, sequence: int, limit: int
) -> None:
    market.append(many(1, count=5))
    rogue = by_hand(market, *alike(8, "g", 7, 100), sequence=sequence)
    market.buy("5.00")

    assert market.match(limit) == 0
    assert market.rejected() == [rogue]
    assert len(market.bids()) == 6


def test_an_entry_far_in_the_future_does_not_keep_orders_out(market: Market) -> None:
    first = market.sell("5.00")
    rogue = by_hand(market, "price", "5.50", ms=99_999_999_999_999)

    orders = [market.buy("4.00") for _ in range(3)] + [market.buy("5.00")]
    found = [market.order(sequence) for sequence in orders]
    market.match()

    assert [order and order.status for order in found] == [Status.ACCEPTED] * 4
    assert all(order and order.accepted_at < "2200" for order in found)
    assert market.rejected() == [rogue]
    assert market.pairs() == [(orders[-1], first, 500, 1)]


def test_an_entry_with_a_sequence_that_was_never_given_out_is_skipped(market: Market) -> None:
    market.buy("5.00")
    rogue = by_hand(market, *GOOD, sequence=1_000_000)

    market.match()
    market.buy("5.00")
    market.match()

    assert market.rejected() == [rogue]
    assert len(market.bids()) == 2


@pytest.mark.parametrize("size", [1, 3])
def test_an_entry_that_takes_the_next_sequence_is_skipped_and_the_append_after_it_is_not(
    market: Market, size: int
) -> None:
    market.sell("5.00", 9)
    rogue = by_hand(market, *alike(size, "G", 7, 500))

    market.match()
    order = market.buy("5.00")
    market.match()

    assert rogue.endswith("-2")
    assert order == 2
    assert market.rejected() == [rogue]
    assert market.pairs() == [(2, 1, 500, 1)]


@pytest.mark.parametrize(("first_entry", "told"), [(3, 0), (4, 0), (5, 1), (9, 2)])
def test_an_entry_that_is_rejected_is_told_once_where_calls_end_early(
    market: Market, first_entry: int, told: int
) -> None:
    market.append(many(1, count=600, trader=2, side=Side.SELL))
    market.match(600)
    looking = PlaceOrder(
        trader_id=9, card="pikachu", side=Side.BUY, price_cents=500, quantity=601, time_in_force=TimeInForce.FOK
    )
    market.append([looking] * first_entry)
    rogue = by_hand(market, "price", "5.50")
    market.append([looking] * (12 - first_entry))
    last = by_hand(market, "price", "5.60")

    calls = [market.match_once() for _ in range(3)]

    assert [(call.commands, call.more) for call in calls] == [(4, True), (4, True), (4, False)]
    assert [index for index, call in enumerate(calls) for _ in range(call.rejected)] == [told, 2]
    assert market.rejected() == [rogue, last]
    assert len(market.completed()) == 12
    assert market.match_once().rejected == 0


@pytest.mark.parametrize("limit", [1, 4, 500])
def test_a_gap_in_the_log_is_an_error_and_nothing_is_skipped(market: Market, limit: int) -> None:
    market.append(many(1, count=3))
    missing = market.append(many(1, count=3)).first
    market.append(many(1, count=3, side=Side.SELL))
    entry_id, _ = market.log_entries()[1]
    market.redis.xdel(market.key("orders"), entry_id)

    with pytest.raises(redis.exceptions.ResponseError, match=r"GAP .*commands 4 to 6 are missing"):
        market.match(limit)
    with pytest.raises(redis.exceptions.ResponseError, match="GAP "):
        market.match(limit)

    assert market.trades() == []
    assert int(market.redis.hget(market.key("cursor"), "sequence") or 0) < missing


# The client's own ids.


def placed(client_order_id: str | None, *, price: str = "5.00", trader: int = 1) -> PlaceOrder:
    """A buy under an id of its trader."""
    return PlaceOrder(
        trader_id=trader, card="pikachu", side=Side.BUY, price_cents=cents(price), client_order_id=client_order_id
    )


def test_a_repeated_client_order_id_is_answered_with_the_first_order_and_not_entered(market: Market) -> None:
    market.buy("4.00")
    first = market.append([placed("a")]).first

    reply = market.append_reply([placed("b"), placed("a"), placed(None)])

    assert reply == [0, 1, f"{first} {codec.order_terms(placed('a'))}".encode()]
    assert len(market.log_entries()) == 2
    assert market.append([placed("b")]).first == first + 1


def test_a_repeat_tells_the_contents_of_the_first_order(market: Market) -> None:
    market.append([placed("a", price="5.00")])

    reply = market.append_reply([placed("a", price="6.00")])

    assert reply == [0, 0, b"1 G,500,1"]


def test_a_repeat_within_one_append_is_told_by_its_place(market: Market) -> None:
    reply = market.append_reply([placed("a"), placed("b"), placed("a"), placed("a")])

    assert reply == [0, 2, b"", 3, b""]
    assert market.log_entries() == []
    assert market.redis.keys("*") == [b"{pikachu}:history"]


def test_a_repeat_is_answered_also_when_the_backlog_is_full(market: Market) -> None:
    market.append([placed("a")])

    reply = market.append_reply([placed("a")], waiting_max=1)

    assert reply == [0, 0, b"1 G,500,1"]
    with pytest.raises(redis.exceptions.ResponseError, match="BACKLOG "):
        market.append_reply([placed("b")], waiting_max=1)


def test_an_id_of_tomorrow_is_recognised_because_a_clock_may_go_back(market: Market) -> None:
    tomorrow = int(market.redis.time()[0]) // 86_400 + 1
    market.redis.hset(market.key(f"client_ids:{tomorrow}"), "1:a", "5 1,500,1")

    assert market.append_reply([placed("b"), placed("a")]) == [0, 1, b"5 1,500,1"]
    assert market.log_entries() == []


def test_two_traders_may_use_the_same_client_order_id(market: Market) -> None:
    appended = market.append([placed("a", trader=1), placed("a", trader=2)])

    assert appended.first == 1
    assert market.redis.fcall_ro("client_order", 1, market.tag, "2:a") == [2, 0]


def test_an_order_is_found_by_its_client_order_id(market: Market) -> None:
    market.append([placed(None), placed("a")])
    market.match()

    assert market.redis.fcall_ro("client_order", 1, market.tag, "1:a") == [2, 0]
    assert market.redis.fcall_ro("client_order", 1, market.tag, "1:b") is None
    order = market.order(2)
    assert order is not None
    assert order.client_order_id == "a"


def test_client_order_ids_are_forgotten_after_two_days_at_most(market: Market) -> None:
    market.append([placed("a")])

    keys = market.redis.keys(market.key("client_ids:*"))
    assert [0 < int(market.redis.ttl(key)) <= 2 * 86_400 for key in keys] == [True]


# Order entry.


def test_an_append_beyond_the_backlog_is_refused_whole(market: Market) -> None:
    market.append(many(1, count=8))

    with pytest.raises(redis.exceptions.ResponseError, match=r"BACKLOG 8 commands of \{pikachu\} wait"):
        market.append_reply(many(1, count=3), waiting_max=10)

    assert market.append_reply(many(1, count=2), waiting_max=10)[0] == 9
    market.match()
    assert market.append_reply(many(1, count=10), waiting_max=10)[0] == 11


@pytest.mark.parametrize("count", ["0", "1001", "x"])
def test_an_append_of_too_few_or_too_many_commands_is_refused(market: Market, count: str) -> None:
    with pytest.raises(redis.exceptions.ResponseError, match="append takes 1 to 1000 commands"):
        market.redis.fcall("append", 1, market.tag, count, "[]", 1, "allow")

    assert market.redis.keys("*") == []


def test_appends_from_many_sides_at_once_leave_no_gap(redis_server: LoadedRedis, market: Market) -> None:
    replies: list[Appended] = []

    def append(trader: int) -> None:
        own = Market(redis_server.client())
        replies.extend(own.append(many(1, count=3, trader=trader)) for _ in range(100))

    threads = [threading.Thread(target=append, args=(trader,)) for trader in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    market.match()

    assert sorted(reply.first for reply in replies) == list(range(1, 1_201, 3))
    assert len(market.bids()) == 1_200


# Finding orders that are not matched yet.


def accepted(market: Market, sequence: int) -> Order:
    """An order that must be in the log."""
    order = market.order(sequence)
    assert order is not None, f"{sequence} is not found"
    assert (order.sequence, order.status) == (sequence, Status.ACCEPTED)
    return order


@pytest.mark.parametrize("rogues", [False, True])
@pytest.mark.parametrize("matched", [0, 150])
def test_every_accepted_order_is_found_among_many_entries(market: Market, matched: int, rogues: bool) -> None:
    prices: dict[int, int] = {}
    for number in range(300):
        count = 1 + number % 3
        appended = market.append(many(1, count=count, price_cents=100 + number))
        prices |= dict.fromkeys(range(appended.first, appended.first + count), 100 + number)
        if rogues and number % 7 == 0:
            _, fields = market.log_entries()[0]
            by_hand(market, "by", "hand")
            by_hand(market, *(part.decode() for pair in fields.items() for part in pair), sequence=1)
            by_hand(market, *entry("[1,1,500,1]"))
    if matched:
        market.match_once(matched)

    for sequence, price in prices.items():
        order = market.order(sequence)
        assert order is not None, f"{sequence} is not found"
        assert order.price_cents == price
        assert order.status == (Status.OPEN if sequence <= matched else Status.ACCEPTED)
    assert market.order(len(prices) + 1) is None


def test_an_accepted_order_is_found_with_all_that_was_entered(market: Market) -> None:
    order = PlaceOrder(
        trader_id=42,
        card="pikachu",
        side=Side.SELL,
        price_cents=777,
        quantity=12,
        time_in_force=TimeInForce.IOC,
        client_order_id="my:id-1.a_b",
    )
    appended = market.append([CancelOrder(trader_id=1, card="pikachu", sequence=0), order])

    found = accepted(market, 2)

    assert market.order(1) is None
    assert found == Order(
        card="pikachu",
        sequence=2,
        trader_id=42,
        side=Side.SELL,
        price_cents=777,
        quantity=12,
        filled_quantity=0,
        status=Status.ACCEPTED,
        time_in_force=TimeInForce.IOC,
        client_order_id="my:id-1.a_b",
        accepted_at=appended.at,
        closed_at=None,
    )


# Trimming.


def trim(market: Market, archived: int, *, keep_events: int = 0, keep_log: int = 0) -> tuple[int, int]:
    """What was dropped of events and of the log."""
    dropped = market.redis.fcall("trim", 1, market.tag, archived, keep_events, keep_log)
    return dropped[0], dropped[1]


@pytest.mark.parametrize("rogues", [False, True])
@pytest.mark.parametrize("archived", [0, 1, 14, 15, 29, 30, 31, 57, 60, 999])
@pytest.mark.parametrize("keep", [0, 10, 1_000])
def test_trim_keeps_what_is_not_archived_and_what_is_asked_for(
    market: Market, archived: int, keep: int, rogues: bool
) -> None:
    for _ in range(20):
        market.append(many(1, count=5))
        if rogues:
            _, fields = market.log_entries()[0]
            by_hand(market, *(part.decode() for pair in fields.items() for part in pair), sequence=1)
    while int(market.redis.hget(market.key("cursor"), "sequence") or 0) < 60:
        market.match_once(3)
    events, log = market.events(), market.log_entries()

    trim(market, archived, keep_events=keep, keep_log=keep)

    archived = min(archived, 60)
    kept_from = archived - keep + 1
    assert market.events() == [event for event in events if int(event[0].partition("-")[0]) >= kept_from]
    needed = [
        entry_id
        for entry_id, fields in log
        if fields[b"entry"] == entry_id and int(entry_id.partition(b"-")[2]) + 4 >= kept_from
    ]
    kept = [entry_id for entry_id, fields in market.log_entries() if fields[b"entry"] == entry_id]
    assert kept[-len(needed) :] == needed
    assert len(kept) <= len(needed) + 1
    market.match()
    assert len(market.bids()) == 100
    assert market.order(100) is not None


def test_matching_goes_on_after_everything_is_trimmed(market: Market) -> None:
    market.append(many(1, count=5))
    market.match()
    trim(market, 5)

    order = market.sell("5.00", 5)
    market.match()

    assert market.state(order) == (Status.FILLED, 5)


def test_a_trim_of_thousands_of_entries_takes_bounded_calls(market: Market) -> None:
    for _ in range(3_000):
        market.append(many(1, count=1))
        market.match_once()

    replies: list[list[int]] = []
    while not replies or replies[-1][2]:
        replies.append(market.redis.fcall("trim", 1, market.tag, 3_000, 10, 20))

    assert len(replies) > 3
    assert max(max(reply[:2]) for reply in replies) <= 1_000
    assert (len(market.events()), len(market.log_entries())) == (10, 20)
