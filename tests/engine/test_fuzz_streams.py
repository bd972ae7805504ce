"""Garbage in the streams of a card: log entries are rejected and never stop it, damaged events stop its archive."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from core.errors import TcgxError
from core.model import Side
from engine import connection, keys
from engine.codec import CHAIN_COLUMNS, ORDER_COLUMNS, archive_lines
from engine.events import Event, EventGap, EventReader, check_contiguous, check_form
from testing.market import Market, many
from testing.servers import LoadedRedis

CARD = "pikachu"
AT = "2026-01-01T00:00:00.000Z"
TRADE = f"000000000001,000000000002,000000000001,7,8,500,1,buy,{AT}\n".encode()
ORDER = f"000000000002,7,buy,500,1,gtc,mine,{AT},1,filled,{AT}\n".encode()
CHAINED = f"000000000009,7,buy,500,9,gtc/p/000000000002/1,,{AT},4,canceled/replaced/12,{AT}\n".encode()
NAMES = st.sampled_from(
    ["entry", "at", "kinds", "traders", "prices", "quantities", "clients", "targets", "self_trade", "x"]
)
COLUMNS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            "G",
            "GgC",
            "R",
            "Pq",
            "[]",
            "[1]",
            '["1"]',
            "[1.5]",
            "[-1]",
            "[null]",
            "[[1]]",
            "{}",
            "[1e3]",
            "[1,2,3]",
            "nan",
        ]
    ),
    st.lists(st.integers() | st.text(max_size=3) | st.none(), max_size=4).map(str),
)


@pytest.mark.server
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.tuples(NAMES, COLUMNS), min_size=1, max_size=9), min_size=1, max_size=4), st.booleans())
def test_garbage_in_the_log_is_rejected_and_the_card_goes_on(
    redis_server: LoadedRedis, entries: list[list[tuple[str, Any]]], names_itself: bool
) -> None:
    client = redis_server.client()
    client.flushall()
    market = Market(client)
    market.append(many(1, count=2))
    key = market.key("orders")
    for entry in entries:
        fields = [part for pair in entry for part in pair]
        top = int(client.xinfo_stream(key)["last-generated-id"].partition(b"-")[0]) + 1
        if names_itself:
            fields = ["entry", f"{top}-3", *fields]
        add: Any = client.execute_command
        add("XADD", key, f"{top}-3", *fields)
    market.append(many(1, count=2, side=Side.SELL))
    market.match()

    cursor: Any = client.hgetall(keys.key(market.card, "cursor"))
    assert int(cursor[b"sequence"]) == int(client.get(keys.key(market.card, "sequence")) or 0)
    assert int(cursor[b"rejected"]) == len(entries)
    assert int(cursor[b"trades"]) == 2


def event(fields: dict[bytes, bytes], entry_id: bytes = b"2-0") -> Event:
    return Event.of(CARD, (entry_id, fields))


WHOLE = {b"first": b"1", b"log": b"5-1", b"trades": TRADE, b"orders": ORDER + CHAINED}


def test_an_event_of_a_match_call_has_its_form() -> None:
    check_form(event(WHOLE))
    check_form(event({b"first": b"3", b"log": b"5-1", b"rejected": b"1-1 x\n"}))


def accepted(fields: dict[bytes, bytes]) -> bool:
    """Whether the archive takes an event; every refusal stops the card by an EventGap that names it."""
    try:
        found = event(fields)
        check_contiguous(found, 0)
        check_form(found)
    except EventGap as error:
        return CARD not in str(error)
    return True


@settings(max_examples=1_000, deadline=None)
@given(st.dictionaries(st.sampled_from([*WHOLE, b"rejected", b"x"]), st.binary(max_size=60), max_size=6))
@example({})
@example({b"first": b"x", b"log": b"5-1"})
@example({b"first": b"1", b"log": b"\xff"})
@example({b"first": b"1", b"log": b"5-1", b"trades": b"\n"})
def test_garbage_in_an_event_never_becomes_rows(fields: dict[bytes, bytes]) -> None:
    if accepted(fields):
        assert not fields.get(b"trades")
        assert not fields.get(b"orders")


@settings(max_examples=1_500, deadline=None)
@given(st.sampled_from([b"trades", b"orders"]), st.data())
def test_a_damaged_line_is_refused_or_is_a_row_still(name: bytes, data: st.DataObject) -> None:
    line = bytearray(WHOLE[name] * 3)
    place = data.draw(st.integers(0, len(line) - 1))
    line[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))

    if accepted(WHOLE | {name: bytes(line)}):
        rows = bytes(line).decode().split("\n")
        assert rows.pop() == ""
        columns = 9 if name == b"trades" else 11
        assert {row.count(",") + 1 for row in rows} == {columns}
        found = event(WHOLE | {name: bytes(line)})
        plain, chained = archive_lines(found.order_lines)
        assert {row.count(b",") + 1 for row in plain.splitlines()} <= {len(ORDER_COLUMNS)}
        assert {row.count(b",") + 1 for row in chained.splitlines()} <= {len(ORDER_COLUMNS + CHAIN_COLUMNS)}
        try:
            assert len(found.trades if name == b"trades" else found.orders) == len(rows)
        except (ValueError, TcgxError) as error:
            pytest.fail(f"{line!r} is taken and is no row: {error}")


@pytest.mark.parametrize("entry_id", [b"0-0", b"2-0"])
def test_an_event_that_ends_before_it_begins_is_refused(entry_id: bytes) -> None:
    with pytest.raises(EventGap, match="is damaged"):
        check_form(event(WHOLE | {b"first": b"9"}, entry_id))


@pytest.mark.server
def test_the_reader_of_a_card_stops_in_front_of_a_damaged_event(market: Market, redis_server: LoadedRedis) -> None:
    market.append(many(1, count=1))
    market.match()
    market.redis.xadd(market.key("events"), {"first": 2, "log": "9-2", "trades": "nonsense"}, id="2-0")

    async def read() -> tuple[str, str]:
        async with connection.connect_blocking(redis_server.url) as client:
            reader = EventReader(client, market.card, after="0-0", batch_bytes=1_000)
            await reader.read(wait=False)
            with pytest.raises(EventGap) as raised:
                await reader.read(wait=False)
            return reader.event_id, str(raised.value)

    reached, reason = asyncio.run(read())

    assert reached == "1-0"
    assert reason == "event 2-0 of pikachu is damaged: trade line 1 is no row"
