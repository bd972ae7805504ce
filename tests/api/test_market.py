"""Candles and tickers over archive and live tail, on a running exchange."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from archiver import postgres, writer
from archiver.queries import Cursor
from archiver.writer import RowBatch
from core.candles import DAY_SECONDS, start_of, time_text
from testing.clients.stream import EventStream
from testing.exchange import ExchangeServer, exchange_server
from testing.waiting import until

pytestmark = pytest.mark.server

Json = dict[str, Any]
CARD = "pikachu"
DAY = "2026-01-01T10:{}.000Z"


def trade_line(number: int, at: str, price_cents: int, quantity: int) -> str:
    """A trade as in {card}:events."""
    return f"{number:012},{number:012},{number:012},7,8,{price_cents},{quantity},buy,{at}\n"


def archive(server: ExchangeServer, card: str, lines: str, sequence: int) -> None:
    """Puts trades into the archive, up to a command."""

    async def insert() -> None:
        database = await postgres.connect(server.settings.database_url)
        try:
            cursor = Cursor(f"{sequence}-0", f"1-{sequence}")
            await writer.insert(database, [RowBatch(card=card, trades=lines.encode(), orders=b"", cursor=cursor)])
        finally:
            await database.close()

    asyncio.run(insert())


def tail(server: ExchangeServer, card: str, lines: str, first: int, last: int) -> None:
    """Adds an event that is not archived."""
    fields: dict[Any, Any] = {"first": first, "log": f"1-{last}", "trades": lines}
    server.redis.xadd(f"{{{card}}}:events", fields, id=f"{last}-0")


@pytest.fixture(scope="module")
def quiet() -> Iterator[ExchangeServer]:
    """An API over an archive and events of January 2026, without engine and archiver."""
    with exchange_server("api") as server:
        archive(server, CARD, trade_line(1, DAY.format("00:10"), 500, 3), 10)
        tail(server, CARD, trade_line(2, DAY.format("03:50"), 620, 1), 11, 12)
        yield server


def candles(server: ExchangeServer, query: str, card: str = CARD) -> Json:
    """A page of candles."""
    answer = server.http.get(f"/cards/{card}/candles?{query}")
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


RANGE = f"start={DAY.format('00:00')}&end={DAY.format('04:00')}"


def test_only_intervals_with_trades_have_candles(quiet: ExchangeServer) -> None:
    page = candles(quiet, f"interval=1m&{RANGE}")

    assert page == {
        "card": CARD,
        "interval": "1m",
        "candles": [
            {
                **dict.fromkeys(("open", "high", "low", "close"), "5.00"),
                **{"start": DAY.format("00:00"), "volume": 3, "trades": 1, "closed": True},
            },
            {
                **dict.fromkeys(("open", "high", "low", "close"), "6.20"),
                **{"start": DAY.format("03:00"), "volume": 1, "trades": 1, "closed": True},
            },
        ],
        "next": None,
    }


def test_filled_candles_repeat_the_close_where_nothing_was_traded(quiet: ExchangeServer) -> None:
    page = candles(quiet, f"interval=1m&fill=previous&{RANGE}")["candles"]

    assert [(one["start"][11:16], one["open"], one["close"], one["volume"]) for one in page] == [
        *(("10:00", "5.00", "5.00", 3), ("10:01", "5.00", "5.00", 0)),
        *(("10:02", "5.00", "5.00", 0), ("10:03", "6.20", "6.20", 1)),
    ]
    assert all(one["open"] == one["high"] == one["low"] == one["close"] for one in page)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ("5m", [("10:00", "5.00", "6.20", "5.00", "6.20", 4)]),
        ("1h", [("10:00", "5.00", "6.20", "5.00", "6.20", 4)]),
        ("1d", [("00:00", "5.00", "6.20", "5.00", "6.20", 4)]),
    ],
)
def test_archive_and_live_tail_share_a_candle(
    quiet: ExchangeServer, interval: str, expected: list[tuple[object, ...]]
) -> None:
    page = candles(quiet, f"interval={interval}")["candles"]

    names = ("open", "high", "low", "close", "volume")
    assert [(one["start"][11:16], *(one[name] for name in names)) for one in page] == expected


def test_the_first_filled_candle_has_the_first_trade_and_the_last_one_is_running(quiet: ExchangeServer) -> None:
    page = candles(quiet, "interval=1d&fill=previous&start=2020-01-01T00:00:00Z")["candles"]

    assert page[0]["start"] == "2026-01-01T00:00:00.000Z"
    today = time_text(start_of(int(time.time()), DAY_SECONDS))
    assert (page[-1]["start"], page[-1]["closed"], page[-2]["closed"]) == (today, False, True)
    assert len(page) == (start_of(int(time.time()), DAY_SECONDS) - start_of(1_767_261_600, DAY_SECONDS)) // 86_400 + 1
    later = candles(quiet, f"interval=1m&fill=previous&limit=3&start={DAY.format('20:00')}&end={DAY.format('21:30')}")
    assert [one["close"] for one in later["candles"]] == ["6.20"] * 2


@pytest.mark.parametrize("fill", ["none", "previous"])
def test_pages_of_candles_go_on_where_they_end(quiet: ExchangeServer, fill: str) -> None:
    query = f"interval=1m&fill={fill}&end={DAY.format('09:00')}"
    whole = candles(quiet, f"{query}&start={DAY.format('00:00')}")["candles"]
    paged: list[Json] = []
    start: str | None = DAY.format("00:00")
    while start is not None:
        page = candles(quiet, f"{query}&limit=1&start={start}")
        assert len(page["candles"]) == 1
        paged += page["candles"]
        start = page["next"]

    assert paged == whole
    assert len(whole) == {"none": 2, "previous": 9}[fill]


def test_the_latest_candles_come_without_a_start(quiet: ExchangeServer) -> None:
    assert [one["start"] for one in candles(quiet, "interval=1m&limit=1")["candles"]] == [DAY.format("03:00")]
    before = candles(quiet, f"interval=1m&limit=1&end={DAY.format('03:00')}")["candles"]
    assert [one["start"] for one in before] == [DAY.format("00:00")]
    assert candles(quiet, "interval=1m&fill=previous", "squirtle")["candles"] == []
    now = candles(quiet, "interval=1m&fill=previous&limit=2")["candles"]
    assert [(one["closed"], one["close"]) for one in now] == [(True, "6.20"), (False, "6.20")]


@pytest.mark.parametrize(
    ("query", "code", "rule"),
    [
        ("interval=2m", "invalid_interval", "must be one of 1m, 5m, 1h, 1d, got '2m'"),
        ("interval=1m&fill=zero", "invalid_fill", "must be one of none, previous, got 'zero'"),
        ("interval=1m&start=2026-01-01", "invalid_start", "must be a time with a time zone"),
        ("interval=1m&start=2026-01-01T10:00:00", "invalid_start", "got '2026-01-01T10:00:00'"),
        ("interval=1m&end=0001-01-01T00:00:00Z", "invalid_end", "must be a time with a time zone"),
        ("interval=1m&end=10000-01-01T00:00:00Z", "invalid_end", "must be a time with a time zone"),
        ("interval=1m&limit=1001", "invalid_limit", "must be a whole number from 1 to 1000, got '1001'"),
        ("", "missing_parameter", "interval is required"),
    ],
)
def test_a_wrong_query_is_refused_by_name(quiet: ExchangeServer, query: str, code: str, rule: str) -> None:
    answer = quiet.http.get(f"/cards/{CARD}/candles?{query}")

    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert rule in answer.json()["detail"]


def test_everything_wrong_is_named_at_once(quiet: ExchangeServer) -> None:
    answer = quiet.http.get(f"/cards/{CARD}/candles?interval=x&fill=y&start=z&end=z")

    assert [error["field"] for error in answer.json()["errors"]] == ["interval", "fill", "start", "end"]
    assert quiet.http.get("/cards/mew/candles?interval=1m").status_code == 404
    assert quiet.http.get("/cards/mew/ticker").status_code == 404


# -- while orders flow


@pytest.fixture(scope="module")
def live() -> Iterator[ExchangeServer]:
    """An exchange of its own, whose archiver tests stop."""
    with exchange_server() as server:
        yield server


def trade(server: ExchangeServer, price: str, quantity: int = 1, card: str = CARD) -> None:
    """A trade at this price."""
    maker, taker = server.trader(), server.trader()
    maker.place(card, "sell", price, quantity=quantity)
    taker.place(card, "buy", price, quantity=quantity)


def ticker(server: ExchangeServer, card: str = CARD) -> Json:
    """The ticker of a card."""
    answer = server.http.get(f"/cards/{card}/ticker")
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def test_a_trade_is_in_candles_and_ticker_before_and_after_it_is_archived(live: ExchangeServer) -> None:
    trade(live, "5.50", 2)
    live.archived()
    live.stop_service("archiver")
    try:
        trade(live, "7.00", 3)
        trade(live, "4.00", 1)
        live.trader().place(CARD, "buy", "3.00", quantity=9)
        waiting = candles(live, "interval=1d")["candles"], ticker(live)
    finally:
        live.start_service("archiver")
    live.archived()
    archived = candles(live, "interval=1d")["candles"], ticker(live)

    (candle,), prices = waiting
    assert candle.items() >= {"open": "5.50", "high": "7.00", "low": "4.00", "close": "4.00"}.items()
    assert candle.items() >= {"volume": 6, "trades": 3, "closed": False}.items()
    assert prices.items() >= {"open": "5.50", "high": "7.00", "low": "4.00", "last": "4.00", "volume": 6}.items()
    assert prices.items() >= {"bid": ["3.00", 9], "ask": None, "complete": True}.items()
    assert archived[0] == waiting[0]
    assert {**archived[1], "at": ""} == {**prices, "at": ""}


def test_the_ticker_is_that_of_the_stream(live: ExchangeServer) -> None:
    trade(live, "5.10", 4, "squirtle")
    live.archived()
    with EventStream(live.url, "ticker:squirtle") as stream:
        told = stream.next("ticker").data
        while not told["complete"]:
            told = stream.next("ticker").data

    asked = ticker(live, "squirtle")

    assert asked == {**{key: told[key] for key in asked}, "at": asked["at"]}
    assert set(told) - set(asked) == {"channel", "type"}
    every = live.http.get("/ticker").json()["tickers"]
    assert [one["card"] for one in every] == list(live.settings.cards)
    assert asked in [{**one, "at": asked["at"]} for one in every]


def test_candles_lose_no_trade_while_the_archiver_writes(live: ExchangeServer) -> None:
    """Each read is at one moment: the volume never falls, and at the end it is that of all trades."""
    card, orders, seen = "bulbasaur", 400, list[int]()
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            seen.append(sum(one["volume"] for one in candles(live, "interval=1m", card)["candles"]))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        maker, taker = live.client(11), live.client(12)
        for start in range(0, orders, 40):
            for client, side in ((maker, "sell"), (taker, "buy")):
                body = {"orders": [{"card": card, "side": side, "price": "5.00", "quantity": 1}] * 40}
                assert client.post("/orders/batch", json=body).status_code == 202
            until(lambda done=start + 40: traded(live, card) == done, why="matched")  # type: ignore[misc]
    finally:
        is_over.set()
        reader.join()

    assert seen == sorted(seen)
    assert traded(live, card) == orders
    assert len(seen) > 5


def traded(server: ExchangeServer, card: str) -> int:
    """The volume of all candles of a card."""
    return sum(one["volume"] for one in candles(server, "interval=1m", card)["candles"])


def test_without_the_archive_the_ticker_says_so_and_candles_are_refused(live: ExchangeServer) -> None:
    trade(live, "6.10")
    live.archived()
    live.execute("ALTER TABLE candles RENAME TO hidden")
    try:
        prices = ticker(live)
        refused = live.http.get(f"/cards/{CARD}/candles?interval=1m")
    finally:
        live.execute("ALTER TABLE hidden RENAME TO candles")

    assert prices.items() >= {"complete": False, "volume": None, "open": None, "last": "6.10"}.items()
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert refused.headers["retry-after"]
    assert ticker(live)["complete"] is True
