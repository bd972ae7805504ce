"""The parts of the benchmarks that decide whether a figure is right; without servers, but for the yardstick."""

import argparse
import asyncio
import json
import os
import pty
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import plots, result
from bench.append import single_orders as single_orders_of_append
from bench.latency import OpenLoop, Outcome
from bench.match import Calls, calls_of
from bench.options import BENCHES, add_benches, options_of
from bench.progress import LINE_SECONDS, Board
from bench.requests import batch_body, post, single_orders
from bench.verification import Sent, expected_rows
from bench.yardstick import Yardstick
from core.model import PlaceOrder, Side
from core.settings import Settings
from engine import keys
from testing.clients.batch import framed, put
from testing.clients.closed_loop import closed_loop, percentile
from testing.flows import CARDS, FLOWS, at_the_front, at_the_top, front, resting
from testing.oracle.reference_book import ReferenceBook
from testing.servers import LoadedRedis

ACCEPTED_AT = "2026-11-23T01:00:00.000Z"


def parsed(*arguments: str) -> argparse.Namespace:
    """Arguments after `tcgx bench`."""
    parser = argparse.ArgumentParser()
    add_benches(parser)
    return parser.parse_args(arguments)


# -- arguments


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["match", "--orders", "0"], "argument --orders: must be a whole number from 1 to 100,000,000, got '0'"),
        (["match", "--orders", "many"], "argument --orders: must be a whole number from 1 to 100,000,000, got 'many'"),
        (["match", "--flow", "tide"], "argument --flow: invalid choice: 'tide'"),
        (["million", "--flow", "market"], "argument --flow: invalid choice: 'market'"),
        (["match", "--durability", "never"], "argument --durability: invalid choice: 'never'"),
        (["scale", "--only", "depth,width"], "argument --only: width is none of depth, through, backlog"),
        (["match", "--database-url", "x"], "unrecognized arguments: --database-url"),
        (["latency", "--rounds", "2"], "unrecognized arguments: --rounds"),
        (["nothing"], "invalid choice: 'nothing'"),
        ([], "the following arguments are required: BENCH"),
    ],
)
def test_a_wrong_argument_gets_a_sentence_that_names_it(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(*arguments)

    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("name", BENCHES)
def test_servers_of_the_environment_are_not_used(name: str) -> None:
    of_somebody = Settings(redis_url="redis://production", database_url="postgresql://production", jwt_secret="x" * 32)

    options = options_of(name, parsed(name), of_somebody)

    assert options.redis_url == options.database_url == ""
    assert options.settings.redis_url == options.settings.database_url == options.settings.jwt_secret == ""
    assert options.durability == options.settings.durability == "always"


# -- progress


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("bench.progress.time.monotonic", lambda: now[0])
    with Board() as board:
        accepted, matched = board.task("accepted", 100), board.task("matched", 100)
        for step in range(1, 11):
            now[0] += LINE_SECONDS / 2
            accepted.reach(10 * step)
            matched.reach(5 * step)
    lines = capsys.readouterr().err.splitlines()

    assert lines[0] == "getting ready …"
    assert lines[1] == "accepted: 10/100, 7/s, 14 s left | matched: 0/100, 0/s"
    assert lines[-1] == "accepted: 100/100, 7/s"
    assert len(lines) == 7


def test_a_terminal_says_what_is_done_before_anything_can_be_counted() -> None:
    """What is not counted has a line of its own, which goes when counting begins."""
    code = """
from bench.progress import Board
with Board() as board:
    board.step("starting servers")
    input()
    task = board.task("matched", 200_000)
    task.reach(150_000)
    input()
    task.reach(200_000)
"""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    seen = ""

    def read_until(text: str) -> None:
        nonlocal seen
        while text not in seen:
            seen += os.read(ours, 4096).decode()

    assert process.stdin
    with process, os.fdopen(ours), process.stdin as answers:
        read_until("starting servers …")
        assert "getting ready …" in seen.partition("starting servers …")[0]
        seen = ""
        answers.write(b"\n")
        answers.flush()
        read_until("150,000/200,000")
        seen = seen.partition("matched")[2]
        answers.write(b"\n")
        answers.flush()
        read_until("200,000/200,000")
        assert "starting servers" not in seen

    assert process.returncode == 0


def test_the_finding_stands_below_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    result.print_table("tcgx bench tide: of water", [("high", "2 m")], summary="2 m of water")

    assert capsys.readouterr().out.splitlines()[-1] == "2 m of water"


def test_the_table_of_append_says_how_many_orders_were_appended_singly() -> None:
    found = plots.read(Path(__file__).parents[2] / "bench" / "results" / "append.json")

    assert found.rows()[0] == ("orders a round", "200,000", "50,000 (1 in 4)")


@pytest.mark.parametrize(
    ("orders", "singly"), [(1, 1), (64, 64), (100, 64), (256, 64), (1_000, 250), (200_000, 50_000)]
)
def test_a_quarter_of_the_orders_is_appended_singly_but_one_a_caller_where_there_are(orders: int, singly: int) -> None:
    assert single_orders_of_append(orders) == singly


# -- match


def test_calls_longer_than_they_may_be_are_counted() -> None:
    durations = [1_000] * 990 + [5_000] * 4 + [5_001] * 5 + [7_500]

    assert calls_of(durations, 0.25) == Calls(
        longest_ms=7.5, p99_ms=5.0, number=1_000, beyond_bound=6, stolen_seconds=0.25
    )
    assert calls_of([], 0.0) == Calls(longest_ms=0.0, p99_ms=0.0, number=0, beyond_bound=0, stolen_seconds=0.0)


# -- flows


def applied(books: dict[str, ReferenceBook], commands: Iterator[PlaceOrder]) -> list[tuple[int, int, int]]:
    """The trades that it makes: numbers of taker and maker on their card, price."""
    before = {card: len(book.trades) for card, book in books.items()}
    for command in commands:
        book = books[command.card]
        book.apply(book.sequence + 1, ACCEPTED_AT, command)
    new = [trade for card, book in books.items() for trade in book.trades[before[card] :]]
    return [(trade.taker_sequence, trade.maker_sequence, trade.price_cents) for trade in new]


def depths(books: dict[str, ReferenceBook]) -> list[int]:
    return [len(book.bids()) + len(book.asks()) for book in books.values()]


def empty_books() -> dict[str, ReferenceBook]:
    return {card: ReferenceBook(card) for card in CARDS}


def test_the_deep_flow_fills_the_books_and_then_trades_at_their_top() -> None:
    books = empty_books()
    assert not applied(books, resting(5, 800))
    assert depths(books) == [200] * 4
    assert len(applied(books, at_the_top(5, 1_600))) == 800
    assert depths(books) == [200] * 4


def test_at_the_front_the_same_orders_trade_whatever_rests_behind() -> None:
    traded = []
    for behind in (0, 800):
        books = empty_books()
        assert not applied(books, front(5, 160))
        assert not applied(books, resting(5, behind))
        assert depths(books) == [40 + behind // 4] * 4
        trades = applied(books, at_the_front(5, 1_600))
        assert depths(books) == [40 + behind // 4] * 4
        # The first of each queue came before what rests behind, the others after it.
        moved = [number if number <= 40 else number - behind // 4 for trade in trades for number in trade[:2]]
        traded.append((moved, [price_cents for *_, price_cents in trades]))
    assert traded[0] == traded[1]
    assert len(trades) == 800


@pytest.mark.parametrize("flow", FLOWS)
def test_a_flow_is_the_same_for_a_seed_and_another_for_another(flow: str) -> None:
    first, again, other = (list(FLOWS[flow](seed, 300)) for seed in (1, 1, 2))

    assert first == again != other
    assert len(first) == 300


def test_uniform_generates_what_it_always_has() -> None:
    """The figures of README and docs/measurements are of these commands."""
    assert [
        (one.trader_id, one.card, one.side.value, one.price_cents, one.quantity)
        for one in FLOWS["uniform"](0, 3)
        if isinstance(one, PlaceOrder)
    ] == [(6312, "squirtle", "buy", 365, 1), (8377, "squirtle", "sell", 902, 1), (4970, "squirtle", "sell", 697, 1)]


# -- the yardstick


@pytest.mark.server
@pytest.mark.parametrize("flow", ["uniform", "market"])
def test_the_yardstick_does_what_the_reference_book_does(redis_server: LoadedRedis, flow: str) -> None:
    client: Any = redis_server.client()
    client.flushall()
    commands = list(FLOWS[flow](11, 4_000))
    books: dict[str, ReferenceBook] = {}
    for command in commands:
        book = books.setdefault(command.card, ReferenceBook(command.card))
        book.apply(book.sequence + 1, ACCEPTED_AT, command)
    yardstick = Yardstick(redis_server.url)
    try:
        yardstick.append(commands, Board().task("to the log", len(commands)))
        first, _ = yardstick.match(3)
        rest, _ = yardstick.match(yardstick.pipelines)
    finally:
        yardstick.close()

    assert (first, rest) == (1_500, 2_500)
    for card, book in books.items():
        name = f"yardstick_{card}"
        for part, resting_orders in (("bids", book.bids()), ("asks", book.asks())):
            members = client.zrange(keys.key(name, part), 0, -1)
            assert [int(member) for member in members] == [order.sequence for order in resting_orders]
        assert int(client.get(keys.key(name, "trade_number"))) == len(book.trades)
        statuses = Counter(
            client.hget(keys.key(name, f"order:{order.sequence}"), "status").decode() for order in book.completed
        )
        assert statuses == Counter(order.status.value for order in book.completed)


# -- the client that sends batches


def batches(*orders: list[PlaceOrder]) -> list[bytes]:
    return [post("/orders/batch", batch_body(one), "token") for one in orders]


def placed(price_cents: int, side: Side) -> PlaceOrder:
    return PlaceOrder(trader_id=1, card="pikachu", side=side, price_cents=price_cents)


class Api(threading.Thread):
    """Answers requests with these answers, in turn."""

    def __init__(self, *answers: bytes) -> None:
        super().__init__()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._answers = answers
        self.bodies: list[bytes] = []

    def run(self) -> None:
        connection, _ = self._listener.accept()
        with self._listener, connection, connection.makefile("rb") as requests:
            for answer in self._answers:
                length = 0
                while line := requests.readline().strip():
                    name, _, value = line.partition(b": ")
                    length = int(value) if name == b"content-length" else length
                self.bodies.append(requests.read(length))
                half = len(answer) // 2
                connection.sendall(answer[:half])
                connection.sendall(answer[half:])


def answer(status: str, body: bytes, *headers: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *headers, f"content-length: {len(body)}"))
    return head.encode() + b"\r\n" + body


def batch_client(folder: Path, api: Api, requests: list[bytes]) -> tuple[subprocess.CompletedProcess[str], Path]:
    with (folder / "requests").open("wb") as file:
        for request in requests:
            put(file, request)
    api.start()
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "testing.clients.batch", api.address[0], str(api.address[1])),
            *(folder / "requests", folder / "answers"),
        ],
        input="go\n",
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done, folder / "answers"


def test_a_batch_that_was_refused_whole_is_sent_again_after_the_time_that_was_named(tmp_path: Path) -> None:
    requests = batches([placed(100, Side.BUY)], [placed(200, Side.SELL)])
    refused = answer("503 Service Unavailable", b'{"status":503,"code":"overloaded"}', "Retry-After: 0")
    api = Api(answer("202 Accepted", b"first"), refused, answer("202 Accepted", b"second" * 400_000))

    done, answers = batch_client(tmp_path, api, requests)
    api.join()

    assert done.returncode == 0, done.stderr
    assert list(framed(answers)) == [b"first", b"second" * 400_000]
    assert api.bodies[0] != api.bodies[1] == api.bodies[2]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["refusals"] == 1
    assert told["ended"] > told["started"]


def test_a_batch_whose_fate_is_unknown_ends_the_client(tmp_path: Path) -> None:
    api = Api(answer("503 Service Unavailable", b'{"status":503,"code":"unavailable"}', "retry-after: 0"))

    done, _ = batch_client(tmp_path, api, batches([placed(100, Side.BUY)]))
    api.join()

    assert done.returncode == 1
    assert "a batch was answered with 503" in done.stderr


# -- verification


def entered(order: PlaceOrder, sequence: int) -> dict[str, object]:
    return {
        "order_id": f"{order.card}-{sequence}",
        "card": order.card,
        "side": order.side.value,
        "price": f"{order.price_cents / 100:.2f}",
        "quantity": order.quantity,
        "accepted_at": ACCEPTED_AT,
    }


def sent(folder: Path, *exchanged: tuple[list[PlaceOrder], list[dict[str, object]]]) -> Sent:
    """Files of one client, as it leaves them."""
    files = Sent(folder / "sent", folder / "answered", [place + 1 for place, _ in enumerate(exchanged)])
    with files.requests.open("wb") as requests, files.answers.open("wb") as answers:
        for orders, results in exchanged:
            put(requests, batches(orders)[0])
            put(answers, json.dumps({"results": results}).encode())
    return files


def test_the_places_in_the_log_decide_what_is_expected(tmp_path: Path) -> None:
    cheap, dear, buy = placed(100, Side.SELL), placed(200, Side.SELL), placed(300, Side.BUY)

    def rows(cheap_place: int, dear_place: int, buy_place: int) -> object:
        results = [entered(cheap, cheap_place), entered(dear, dear_place), entered(buy, buy_place)]
        files = sent(tmp_path, ([cheap, dear], results[:2]), ([buy], results[2:]))
        return expected_rows("pikachu", [files])[1]

    assert rows(1, 2, 3) == rows(1, 2, 3)
    assert rows(1, 2, 3) != rows(2, 1, 3)
    assert rows(1, 2, 3) != rows(3, 1, 2)


def test_a_gap_in_the_places_is_an_error(tmp_path: Path) -> None:
    orders = [placed(100, Side.SELL), placed(200, Side.SELL)]

    with pytest.raises(ValueError, match="command 3 of pikachu does not follow 1"):
        expected_rows("pikachu", [sent(tmp_path, (orders, [entered(orders[0], 1), entered(orders[1], 3)]))])


def test_an_answer_to_another_order_is_an_error(tmp_path: Path) -> None:
    order, other = placed(100, Side.SELL), placed(200, Side.SELL)

    with pytest.raises(ValueError, match="was answered with"):
        expected_rows("pikachu", [sent(tmp_path, ([order], [entered(other, 1)]))])


def test_an_order_that_was_refused_is_an_error(tmp_path: Path) -> None:
    order = placed(100, Side.SELL)

    with pytest.raises(ValueError, match="order_id"):
        expected_rows("pikachu", [sent(tmp_path, ([order], [{"error": {"status": 422}}]))])


# -- the client without wrk, and what it computes


def test_our_own_client_counts_answers_and_errors(tmp_path: Path) -> None:
    async def load() -> object:
        served = 0
        serving: list[asyncio.Task[None] | None] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal served
            serving.append(asyncio.current_task())
            while head := await reader.read(10_000):
                assert head.startswith(b"POST /orders")
                served += 1
                writer.write(answer("500 Oops" if served % 10 == 0 else "202 Accepted", b"{}"))
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            options = options_of("http", parsed("http"), Settings())
            requests = single_orders(options, "x" * 32, 50)
            address: tuple[str, int] = server.sockets[0].getsockname()
            done = await closed_loop(address, requests, connections=4, seconds=0.5, folder=tmp_path)
            await asyncio.gather(*(task for task in serving if task))
            assert done.requests + done.errors >= 0.9 * served
            assert done.requests > done.errors > 0
            assert done.p99_ms >= done.p50_ms > 0
            return done

    assert asyncio.run(load())


def test_an_open_loop_counts_from_the_intended_time_and_outlives_connections_that_are_closed() -> None:
    """One request in ten has no answer: its connection is closed. The rest wait 30 ms."""

    async def load() -> Outcome:
        serving: list[asyncio.Task[None] | None] = []
        served = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal served
            serving.append(asyncio.current_task())
            while await reader.read(10_000):
                served += 1
                if served % 10 == 0:
                    break
                await asyncio.sleep(0.03)
                writer.write(answer("202 Accepted" if served % 10 == 5 else "200 OK", b"{}"))
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            loop = OpenLoop([post("/orders", b"{}", "token")], rate=200)
            outcome = await loop.run(server.sockets[0].getsockname(), 1, Board().task("sent", 200))
            await asyncio.gather(*(task for task in serving if task))
        return outcome

    outcome = asyncio.run(load())

    assert outcome.sent == 200
    assert outcome.errors == 20
    assert len(outcome.latencies_ms) + outcome.dropped == 180
    assert outcome.dropped > 0
    assert outcome.latencies_ms[0] >= 29
    assert outcome.seconds >= 1


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 51), (99, 100), (100, 100)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, expected: int) -> None:
    assert percentile(range(1, 101), percent) == expected
    assert percentile([], percent) == 0.0


def test_pieces_of_a_file_come_back_as_they_went(tmp_path: Path) -> None:
    pieces = [b"", b"1\n2\n", b"\x00" * 3]
    with (tmp_path / "f").open("wb") as file:
        for piece in pieces:
            put(file, piece)

    assert list(framed(tmp_path / "f")) == pieces
