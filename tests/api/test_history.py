"""`/history`: pages in both directions, filters, and CSV, over an archive that is written row by row."""

import asyncio
import csv
import io
import json
import random
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest

from api import csv_answer
from api.views import OrderView, TradeView
from archiver import archive_pages, exports, postgres, writer
from archiver.archive_pages import ArchivePages, OrderFilters, TradeFilters
from archiver.queries import Cursor
from archiver.writer import RowBatch
from core.errors import Unavailable
from testing.exchange import ExchangeServer, exchange_server
from testing.waiting import until

pytestmark = pytest.mark.server

Json = dict[str, Any]
SEED = 28_128
TRADER, OTHER = 11, 12
CARDS = ("bulbasaur", "pikachu")
ORDERS, TRADES = 500, 350
MOMENTS = 5
"""A batch has one time, so many rows have equal times, on both cards."""

STATUSES = ("filled", "canceled", "expired")
MANY = "charmander"
"""A card with many trades for exports."""

MANY_TRADES = 30_000


def moment(number: int, of: int) -> str:
    """One of a few moments, rising with the number."""
    return f"2026-02-01T00:00:{number * MOMENTS // of:02d}.123Z"


def order_line(sequence: int, choose: random.Random) -> str:
    """A completed order as in {card}:events."""
    trader_id = TRADER if choose.random() < 0.7 else OTHER
    status = choose.choices(STATUSES, weights=(20, 5, 1))[0]
    client = f"c.{sequence}:x-{choose.randint(1, 9)}" if choose.random() < 0.5 else ""
    price, at = choose.randint(100, 1_000), moment(sequence, ORDERS)
    side = choose.choice(["buy", "sell"])
    return f"{sequence:012},{trader_id},{side},{price},3,gtc,{client},{at},{3 * (status == 'filled')},{status},{at}\n"


def trade_line(number: int, choose: random.Random, of: int = TRADES) -> str:
    """A trade as in {card}:events."""
    price, at = choose.randint(100, 1_000), moment(number, of)
    side = choose.choice(["buy", "sell"])
    return f"{number:012},{number + 1:012},{number:012},7,8,{price},{choose.randint(1, 9)},{side},{at}\n"


async def fill(server: ExchangeServer) -> None:
    """Writes the archive."""
    choose = random.Random(SEED)
    database = await postgres.connect(server.settings.database_url)
    try:
        for card in CARDS:
            orders = "".join(order_line(sequence, choose) for sequence in range(1, ORDERS + 1)).encode()
            trades = "".join(trade_line(number, choose) for number in range(1, TRADES + 1)).encode()
            await writer.insert(
                database, [RowBatch(card=card, trades=trades, orders=orders, cursor=Cursor("2000-0", "1-1"))]
            )
        many = "".join(trade_line(number, choose, MANY_TRADES) for number in range(1, MANY_TRADES + 1)).encode()
        await database.execute(
            "UPDATE orders SET post_only = true, replaces = 17, carried_quantity = 2, reason = 'would_cross', "
            "replaced_by = 499 WHERE card = 'pikachu' AND sequence = 480"
        )
        await writer.insert(database, [RowBatch(MANY, many, b"", Cursor("2000-0", "1-1"))])
    finally:
        await database.close()


@pytest.fixture(scope="module")
def archived() -> Iterator[ExchangeServer]:
    """An API over the archive, without engine and archiver."""
    with exchange_server("api") as server:
        asyncio.run(fill(server))
        yield server


@pytest.fixture(scope="module")
def trader(archived: ExchangeServer) -> httpx.Client:
    """The trader most orders belong to."""
    return archived.client(TRADER)


@pytest.fixture(scope="module")
def fast(archived: ExchangeServer) -> Iterator[httpx.Client]:
    """The same without a look at the document for each of many answers."""
    with httpx.Client(base_url=archived.url, headers=archived.bearer(TRADER), trust_env=False, timeout=15) as client:
        yield client


def get(client: httpx.Client, path: str, **query: object) -> Json:
    """An answer's body."""
    params = {name: value for name, value in query.items() if value is not None}
    answer = client.get(path, params=httpx.QueryParams(params))  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


Keep = Callable[[Json], bool]


def every_order(archived: ExchangeServer, keep: Keep = lambda _: True) -> list[str]:
    """The ids of the trader's orders as SQL has them, newest first."""
    rows = archived.execute(
        "SELECT card, sequence, side::text, status::text, accepted_at FROM orders WHERE trader_id = $1 "
        'ORDER BY accepted_at DESC, card COLLATE "C" DESC, sequence DESC',
        TRADER,
    )
    return [f"{row['card']}-{row['sequence']}" for row in rows if keep(row)]


def downwards(client: httpx.Client, path: str, items: str, name: str, **query: object) -> list[list[str]]:
    """The ids of every page from the newest one on."""
    found, before = [], None
    while True:
        page = get(client, path, before=before, **query)
        found.append([one[name] for one in page[items]])
        before = page["next"]
        if before is None:
            return found
        assert len(found) < 3_000


def upwards(client: httpx.Client, path: str, items: str, name: str, after: str, **query: object) -> list[list[str]]:
    """The ids of every page behind an id, the last page being the newest one."""
    found: list[list[str]] = []
    place: str | None = after
    while place is not None:
        page = get(client, path, after=place, **query)
        found.append([one[name] for one in page[items]])
        place = page["previous"]
        assert len(found) < 3_000
    return found


def test_rows_of_equal_times_are_on_one_page_each_in_both_directions(
    archived: ExchangeServer, fast: httpx.Client
) -> None:
    expected = every_order(archived)

    down = downwards(fast, "/history/orders", "orders", "order_id", limit=7)
    up = upwards(fast, "/history/orders", "orders", "order_id", expected[-1], limit=7)

    assert [one for page in down for one in page] == expected
    assert {len(page) for page in down[:-1]} == {7}
    assert [one for page in reversed(up) for one in page] == expected[:-1]


def test_trades_of_equal_times_are_on_one_page_each_in_both_directions(fast: httpx.Client) -> None:
    expected = [f"pikachu-t{number}" for number in range(TRADES, 0, -1)]

    down = downwards(fast, "/history/trades", "trades", "trade_id", card="pikachu", limit=9)
    up = upwards(fast, "/history/trades", "trades", "trade_id", expected[-1], card="pikachu", limit=9)

    assert [one for page in down for one in page] == expected
    assert [one for page in reversed(up) for one in page] == expected[:-1]


@pytest.mark.parametrize(
    ("query", "keep"),
    [
        ({"card": "pikachu"}, lambda row: row["card"] == "pikachu"),
        ({"status": "expired"}, lambda row: row["status"] == "expired"),
        ({"side": "sell", "status": "canceled"}, lambda row: (row["side"], row["status"]) == ("sell", "canceled")),
        (
            {"since": "2026-02-01T00:00:01.123Z", "until": "2026-02-01T03:00:03.123+03:00"},
            lambda row: 1 <= row["accepted_at"].second < 3,
        ),
        (
            {"card": "bulbasaur", "side": "buy", "since": "2026-02-01T00:00:02.124Z"},
            lambda row: (row["card"], row["side"]) == ("bulbasaur", "buy") and row["accepted_at"].second > 2,
        ),
        ({"until": "2026-02-01T00:00:00.123Z"}, lambda _: False),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_filters_of_orders_hold_on_every_page_and_in_the_export(
    archived: ExchangeServer, trader: httpx.Client, query: Json, keep: Keep
) -> None:
    expected = every_order(archived, keep)

    down = downwards(trader, "/history/orders", "orders", "order_id", limit=40, **query)
    oldest = every_order(archived)[-1]
    up = upwards(trader, "/history/orders", "orders", "order_id", oldest, limit=40, **query)
    lines = trader.get("/history/orders.csv", params=query).text.split("\r\n")

    assert [one for page in down for one in page] == expected
    assert [one for page in reversed(up) for one in page] == [one for one in expected if one != oldest]
    assert [line.partition(",")[0] for line in lines[1:-1]] == expected[::-1]


@pytest.mark.parametrize("scanned", [3, 50])
def test_a_page_that_looked_at_as_many_rows_as_it_may_goes_on_where_it_ended(
    archived: ExchangeServer, monkeypatch: pytest.MonkeyPatch, scanned: int
) -> None:
    monkeypatch.setattr(archive_pages, "ROWS_SCANNED_MAX", scanned)
    expected = every_order(archived, lambda row: row["status"] == "expired")
    card, _, oldest = every_order(archived)[-1].rpartition("-")
    bought = archived.execute("SELECT trade_number FROM trades_pikachu WHERE taker_side = 'buy' ORDER BY 1 DESC")

    async def orders(pages: ArchivePages, *, newer: bool) -> list[str]:
        filters = OrderFilters(trader_id=TRADER, status="expired")
        start = await pages.position(TRADER, card, int(oldest)) if newer else None
        found: list[str] = []
        while True:
            page = await pages.orders(filters, start, newer=newer, limit=2)
            ids = [order.order_id for order in page.orders]
            found = [*ids, *found] if newer else [*found, *ids]
            start = page.reached
            if start is None:
                return found

    async def trades(pages: ArchivePages) -> list[int]:
        found: list[int] = []
        start: int | None = None
        while True:
            page = await pages.trades(TradeFilters(card="pikachu", side="buy"), start, newer=False, limit=2)
            found += [trade.number for trade in page.trades]
            start = page.reached
            if start is None:
                return found

    async def read() -> None:
        async with postgres.pool(archived.settings.database_url) as pool:
            pages = ArchivePages(pool)
            assert await orders(pages, newer=False) == expected
            assert await orders(pages, newer=True) == expected
            assert await trades(pages) == [row["trade_number"] for row in bought]

    asyncio.run(read())


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"side": "buy"}, "SELECT trade_number FROM trades_pikachu WHERE taker_side = 'buy'"),
        (
            {"since": "2026-02-01T00:00:01.123Z", "until": "2026-02-01T00:00:04.123Z", "side": "sell"},
            "SELECT trade_number FROM trades_pikachu WHERE taker_side = 'sell' "
            "AND executed_at >= '2026-02-01T00:00:01.123Z' AND executed_at < '2026-02-01T00:00:04.123Z'",
        ),
    ],
    ids=str,
)
def test_filters_of_trades_hold_on_every_page_and_in_the_export(
    archived: ExchangeServer, query: Json, expected: str
) -> None:
    numbers = [row["trade_number"] for row in archived.execute(f"{expected} ORDER BY 1 DESC")]

    down = downwards(archived.http, "/history/trades", "trades", "trade_id", card="pikachu", limit=31, **query)
    lines = archived.http.get("/history/trades.csv", params={"card": "pikachu", **query}).text.split("\r\n")

    assert [int(one.rpartition("t")[2]) for page in down for one in page] == numbers
    assert [int(line.partition(",")[0].rpartition("t")[2]) for line in lines[1:-1]] == numbers[::-1]
    assert len(numbers) > 31


@pytest.mark.parametrize(
    ("path", "code", "detail"),
    [
        ("orders?status=open", "invalid_status", "must be one of filled, canceled, expired, got 'open'"),
        ("orders.csv?side=up", "invalid_side", "must be one of buy, sell, got 'up'"),
        ("orders?since=yesterday", "invalid_since", "must be a time with a time zone"),
        ("trades.csv?card=pikachu&until=2026-02-01", "invalid_until", "must be a time with a time zone"),
        ("orders?before=pikachu-1&after=pikachu-2", "invalid_after", "must not be given together with before"),
        ("orders?after=pikachu-999999", "invalid_after", "must be an order_id of the archive"),
        ("trades?card=pikachu&after=bulbasaur-t3", "invalid_after", "must be a trade_id of pikachu"),
        ("trades.csv?card=mew", "unknown_card", "must be one of"),
        ("trades.csv", "missing_parameter", "card is required"),
        ("orders.csv?limit=5", "unknown_parameter", "is not a parameter"),
    ],
)
def test_a_wrong_query_is_refused_by_name(trader: httpx.Client, path: str, code: str, detail: str) -> None:
    answer = trader.get(f"/history/{path}")

    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert detail in answer.json()["detail"]


# -- CSV


def text_of(value: Any) -> str:
    """A value of JSON as a text of CSV."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def test_an_export_has_the_values_of_the_json(archived: ExchangeServer, trader: httpx.Client) -> None:
    for client, path, items, view in (
        (trader, "/history/orders", "orders", OrderView),
        (archived.http, "/history/trades", "trades", TradeView),
    ):
        query = {"card": "pikachu"}
        answer = client.get(f"{path}.csv", params=query)
        rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
        page = get(client, path, **query, limit=500)[items]
        texts = [{key: text_of(value) for key, value in one.items()} for one in page]

        assert list(rows[0]) == [field.name for field in msgspec.structs.fields(view)]
        assert rows[::-1][: len(texts)] == texts
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert answer.text.endswith("\r\n")
        assert answer.text.count("\n") == answer.text.count("\r\n") == len(rows) + 1


def test_a_trader_without_orders_gets_the_header_alone(archived: ExchangeServer) -> None:
    answer = archived.client(13).get("/history/orders.csv")

    assert answer.text.splitlines() == [",".join(field.name for field in msgspec.structs.fields(OrderView))]


def test_an_export_has_every_row_and_memory_stays_flat(archived: ExchangeServer, fast: httpx.Client) -> None:
    resident = Path(f"/proc/{archived.pid('api')}/statm")
    before = int(resident.read_text().split()[1])
    first, lines = 0, 0
    began = time.monotonic()
    with fast.stream("GET", "/history/trades.csv", params={"card": MANY}) as answer:
        for number, chunk in enumerate(answer.iter_raw()):
            if not first:
                first, waited = len(chunk), time.monotonic() - began
            lines += chunk.count(b"\r\n")
            assert number < MANY_TRADES
    grown = (int(resident.read_text().split()[1]) - before) * 4_096

    assert lines == MANY_TRADES + 1
    assert 0 < first < 200_000
    assert waited < 1
    assert grown < 16_000_000


def test_no_more_exports_go_on_than_may_and_reads_do_not_wait_for_them(archived: ExchangeServer) -> None:
    stalled = [stall(archived) for _ in range(exports.EXPORTS_MAX)]
    try:
        refused = archived.http.get("/history/trades.csv", params={"card": MANY})
        assert (refused.status_code, refused.json()["code"]) == (503, "too_many_exports")
        assert refused.headers["retry-after"] == "1"
        assert len(get(archived.http, "/history/trades", card=MANY)["trades"]) == 50
        assert running(archived) == exports.EXPORTS_MAX
    finally:
        for one in stalled:
            one.close()  # the clients go away

    until(lambda: running(archived) == 0, why="the exports of clients that went away end")
    assert archived.http.get("/history/trades.csv", params={"card": MANY}).status_code == 200


def stall(archived: ExchangeServer) -> socket.socket:
    """A client that begins an export and reads nothing of it but its beginning."""
    url = httpx.URL(archived.url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.settimeout(10)
    client.connect((url.host, url.port))
    client.sendall(f"GET /history/trades.csv?card={MANY} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    assert client.recv(12) == b"HTTP/1.1 200"
    return client


def running(archived: ExchangeServer) -> int:
    """How many transactions have a cursor open."""
    rows = archived.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND query LIKE 'FETCH FORWARD%'"
    )
    return int(rows[0]["count"])


def test_an_export_that_fails_in_the_middle_has_no_end(archived: ExchangeServer) -> None:
    client = stall(archived)
    archived.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'FETCH FORWARD%' "
        "AND pid <> pg_backend_pid()"
    )
    received = b""
    while part := client.recv(1_000_000):
        received += part
    client.close()

    assert not received.endswith(b"0\r\n\r\n")
    assert received.count(b"\r\npikachu-t") < MANY_TRADES
    until(lambda: running(archived) == 0, why="the export is over")
    assert archived.http.get("/history/trades.csv", params={"card": "pikachu"}).status_code == 200


def test_an_export_is_of_one_moment(archived: ExchangeServer) -> None:
    client = stall(archived)
    archived.execute(
        f"INSERT INTO trades_{MANY} (trade_number, taker_sequence, maker_sequence, taker_trader_id, maker_trader_id, "  # noqa: S608
        f"price_cents, quantity, taker_side, executed_at) VALUES ({MANY_TRADES + 1}, 1, 1, 1, 1, 100, 1, 'buy', now())"
    )
    received = b""
    while not received.endswith(b"0\r\n\r\n"):
        received += client.recv(1_000_000)
    client.close()
    archived.execute(f"DELETE FROM trades_{MANY} WHERE trade_number > {MANY_TRADES}")  # noqa: S608

    assert f"{MANY}-t{MANY_TRADES},".encode() in received
    assert f"{MANY}-t{MANY_TRADES + 1},".encode() not in received


def test_a_head_of_an_export_reads_nothing_more(archived: ExchangeServer) -> None:
    for _ in range(exports.EXPORTS_MAX + 1):
        answer = archived.http.head("/history/trades.csv", params={"card": MANY})
        assert (answer.status_code, answer.content) == (200, b"")
    assert running(archived) == 0


class Stub:
    """Stands in for an export, and says whether it was closed."""

    is_closed = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        yield b"trade_id\r\n"
        yield b"never sent"

    async def close(self) -> None:
        self.is_closed = True


def test_a_client_that_takes_a_part_too_slowly_loses_its_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_answer, "SEND_SECONDS", 0.02)
    export, sent = Stub(), list[Any]()

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def serve() -> None:
        scope: Any = {"state": {}}
        await csv_answer.CsvAnswer(cast(Any, export), "trades.csv")(scope, receive, send)

    with pytest.raises(Unavailable, match="too slowly"):
        asyncio.run(serve())
    assert export.is_closed
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[-1]["more_body"]
