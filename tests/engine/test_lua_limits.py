"""Limits that Lua and Python both know are said once, in Python: the library takes them from the table `limits`."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import ResponseError

from core import model
from core.model import PlaceOrder, Side
from engine import codec, history, library
from testing.market import Market, many
from testing.servers import LoadedRedis

LUA = Path(library.__file__).parents[1] / "lua"
LUA_FILES = sorted(LUA.glob("**/*.lua"))
NOT_CODE = re.compile(r"--[^\n]*|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"")
NUMBER = re.compile(r"(?<![\w.])\d[\d.]*(?:e-?\d+)?")
AMBIGUOUS = {1_000, 12}
"""Lua code has these numbers for other things, such as pages and places. The tests with other limits show that they
stand nowhere for `commands_max` and `sequence_digits`."""

OTHERS = {
    "commands_max": 3,
    "latest": 2,
    "sequence_digits": 9,
    "sequence_max": 999_999_999,
    "trader_id_max": 20,
    "price_cents_max": 600,
    "quantity_max": 5,
    "client_order_id_seconds": 60,
    "cancel_after_seconds_max": 70,
}


def numbers(path: Path) -> set[str]:
    """The numbers as they are typed in the code of a Lua file, without comments and texts."""
    code = NOT_CODE.sub("''", path.read_text())
    return set(NUMBER.findall(code))


@pytest.mark.parametrize("path", LUA_FILES, ids=lambda path: str(path.relative_to(LUA)))
def test_no_lua_file_says_a_limit_again(path: Path) -> None:
    assert not numbers(path) & {str(value) for value in library.LIMITS.values() if value not in AMBIGUOUS}


def test_numbers_are_found_in_lua_code() -> None:
    found = set().union(*(numbers(path) for path in LUA_FILES))

    assert {"1000", "64", "2e-6", "0.65", "86400000", "719468"} <= found
    assert "5.1" not in found, "comments name Lua 5.1"


def test_python_says_them_once_too() -> None:
    assert f"history.FORMAT = {history.FORMAT}\n" in (LUA / "parts" / "history.lua").read_text()


@pytest.fixture
def other_limits(monkeypatch: pytest.MonkeyPatch, redis_server: LoadedRedis, market: Market) -> Iterator[Market]:
    """A card of a server whose library was built with other limits."""
    assert OTHERS.keys() == library.LIMITS.keys()
    for name, value in OTHERS.items():
        assert value != library.LIMITS[name]
        monkeypatch.setitem(library.LIMITS, name, value)
    library.source.cache_clear()
    market.redis.function_load(library.source(), replace=True)
    try:
        yield market
    finally:
        monkeypatch.undo()
        library.source.cache_clear()
        asyncio.run(_load(redis_server))


async def _load(server: LoadedRedis) -> None:
    async with AsyncRedis.from_url(server.url) as client:
        await library.load(client)


def test_an_append_takes_as_many_commands_as_the_limit_says(other_limits: Market) -> None:
    with pytest.raises(ResponseError, match="append takes 1 to 3 commands"):
        other_limits.append(many(1, count=4))
    other_limits.append(many(1, count=3))
    other_limits.match()

    assert other_limits.redis.zrange(other_limits.key("bids"), 0, -1) == [b"000000001", b"000000002", b"000000003"]


@pytest.mark.parametrize(
    ("commands", "fault"),
    [
        (many(1, count=4), "kinds has not 1 to 3 letters"),
        (many(6, count=1), "quantities has a value that is not from 1 to 5"),
        (many(1, count=1, price_cents=601), "prices has a value that is not from 1 to 600"),
        (many(1, count=1, trader=21), "traders has a value that is above 20"),
    ],
)
def test_an_entry_beyond_the_limits_is_rejected(
    other_limits: Market, commands: list[model.Command], fault: str
) -> None:
    columns = codec.encode(commands)
    fields = {
        "entry": "1-1",
        "at": "2026-01-01T00:00:00.000Z",
        "kinds": columns.kinds,
        "traders": columns.traders,
        "prices": columns.prices,
        "quantities": columns.quantities,
    }
    other_limits.redis.xadd(other_limits.key("orders"), fields, id="1-1")
    other_limits.redis.set(other_limits.key("sequence"), len(commands))

    assert other_limits.match_once().rejected == 1
    ((_, event),) = other_limits.events()
    assert event[b"rejected"].decode() == f"1-1 {fault}\n"


def test_as_many_trades_and_orders_are_kept_as_the_limit_says(other_limits: Market) -> None:
    for _ in range(3):
        other_limits.append(many(1, count=3))
        other_limits.match()
        other_limits.append(many(1, count=3, trader=2, side=Side.SELL))
        other_limits.match()

    assert [trade.maker_trader_id for trade in other_limits.trades()] == 9 * [1]
    assert other_limits.redis.llen(other_limits.key("trades")) == 2
    assert len(other_limits.redis.fcall_ro("trader_orders", 1, other_limits.tag, 1, 50, "all")) == 2


def test_client_order_ids_are_kept_as_long_as_the_limit_says(other_limits: Market) -> None:
    order = PlaceOrder(trader_id=1, card="pikachu", side=Side.BUY, price_cents=500, client_order_id="a")
    other_limits.append([order])

    (key,) = other_limits.redis.keys(other_limits.key("client_ids:*"))
    assert 0 < other_limits.redis.ttl(key) <= 60


def test_cancel_all_writes_entries_of_as_many_cancels_as_the_limit_says(other_limits: Market) -> None:
    for _ in range(2):
        other_limits.append(many(1, count=2))
    canceled = other_limits.cancel_all()
    other_limits.match()

    assert canceled == [1, 2, 3, 4]
    assert [len(fields[b"kinds"]) for _, fields in other_limits.log_entries()] == [2, 2, 3, 1]
    assert other_limits.book() == "bid | price | ask"
