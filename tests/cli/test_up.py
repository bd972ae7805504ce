"""`tcgx up` as a person meets it: started, used, stopped, started again, killed."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from redis import Redis

from core.model import PlaceOrder
from testing.clients.trader import Trader
from testing.exchange import FAST, STOP_SECONDS, TcgxUp, tcgx_up
from testing.flows import CARDS
from testing.oracle.judge import log_of, settle
from testing.processes import descendants, ended, environment, tcgx
from testing.servers import fetch, folder, free_port
from testing.waiting import until

pytestmark = pytest.mark.server

MEMBERS = ("api", "archiver", "engine", "postgres", "redis")


@pytest.fixture
def where() -> Iterator[Path]:
    with folder() as made:
        yield made


@pytest.fixture(scope="module")
def shared() -> Iterator[TcgxUp]:
    """One exchange for the tests that only use it; its data directory is the default one."""
    with folder() as made, tcgx_up(made) as running:
        yield running


def printed_order(greeting: str) -> str:
    """The commands that `tcgx up` prints to be pasted: one that makes a token, and one that places an order."""
    lines = greeting.splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip().startswith("TOKEN="))
    end = next(number for number in range(start + 1, len(lines)) if not lines[number].endswith("\\"))
    return "\n".join(lines[start : end + 1])


def shell(command: str, where: Path) -> str:
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=where,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=STOP_SECONDS,
    ).stdout


def trade(buyer: Trader, seller: Trader, card: str, price: str, quantity: int = 1) -> tuple[str, str]:
    """Two opposite orders, completed; their ids."""
    resting = seller.submit(card, "sell", price, quantity)["order_id"]
    taking = buyer.submit(card, "buy", price, quantity)["order_id"]
    assert buyer.completed(taking)["status"] == seller.completed(resting)["status"] == "filled"
    return taking, resting


def archived_statuses(database: str) -> dict[str, str]:
    rows = fetch(database, "SELECT card, sequence, status::text FROM orders ORDER BY card, sequence")
    return {f"{row['card']}-{row['sequence']}": row["status"] for row in rows}


# -- the first minute


@pytest.mark.skipif(not shutil.which("curl"), reason="the printed command is curl's")
def test_the_printed_order_can_be_pasted_and_is_found_again(shared: TcgxUp) -> None:
    command = printed_order(shared.greeting)

    *_, body, status = shell(f"{command} -w '\\n%{{http_code}}'", shared.where).splitlines()
    order_id = body.partition('"order_id":"')[2].partition('"')[0]
    (trader,) = shared.traders(1)
    listed = trader.get("/orders")["orders"]

    assert f"http://127.0.0.1:{shared.port}" in shared.greeting
    assert status == "202"
    assert '"status":"accepted"' in body
    assert order_id in [order["order_id"] for order in listed]


def test_opposite_orders_trade_and_postgresql_and_redis_have_them(shared: TcgxUp) -> None:
    urls = shared.urls
    buyer, seller = shared.traders(11, 12)

    taking, resting = trade(buyer, seller, "squirtle", "7.25", 3)
    settle(urls.redis, urls.database)

    statuses = archived_statuses(urls.database)
    assert statuses[taking] == statuses[resting] == "filled"
    (row,) = fetch(urls.database, "SELECT * FROM trades WHERE card = 'squirtle' AND taker_trader_id = 11")
    assert (row["price_cents"], row["quantity"], row["taker_side"]) == (725, 3, "buy")
    with Redis.from_url(urls.redis) as redis:
        present: Any = redis.keys("{squirtle}:*")
    assert {b"{squirtle}:orders", b"{squirtle}:events", b"{squirtle}:trades", b"{squirtle}:cursor"} <= set(present)


@pytest.mark.skipif(not shutil.which("redis-cli"), reason="there is no redis-cli here")
def test_redis_cli_reaches_the_printed_url(shared: TcgxUp) -> None:
    (trader,) = shared.traders(13)
    trader.submit("bulbasaur", "buy", "1.00")

    said = subprocess.run(
        ["redis-cli", "--no-auth-warning", "-u", shared.urls.redis, "EXISTS", "{bulbasaur}:orders"],
        capture_output=True,
        text=True,
        check=True,
        timeout=STOP_SECONDS,
    )

    assert said.stdout.strip() == "1"


def test_tokens_are_printed_one_a_line_and_are_valid(shared: TcgxUp) -> None:
    lines = shared.run("traders", "token", "1", "2").splitlines()

    assert len(lines) == 2
    for trader in (shared.trader(line) for line in lines):
        assert trader.request("GET", "/orders").status == 200


def test_an_api_key_of_the_written_file_is_exchanged_for_a_token(shared: TcgxUp) -> None:
    keys_file = shared.where / ".tcgx" / "traders.csv"
    trader_id, api_key = keys_file.read_text().splitlines()[-1].split(",")
    nobody = shared.trader()

    answer = nobody.request("POST", "/auth/token", {"trader_id": int(trader_id), "api_key": api_key})

    assert stat.S_IMODE(keys_file.stat().st_mode) == 0o600
    assert answer.status == 200
    assert shared.trader(answer.body["access_token"]).get("/orders") == {"orders": [], "next": None}


# -- the commands beside it


def test_urls_are_printed_for_people_and_for_programs(shared: TcgxUp) -> None:
    for_programs = json.loads(shared.run("urls", "--json"))
    for_people = shared.run("urls")

    assert list(for_programs) == ["api", "redis", "database"]
    assert for_programs["api"] == f"http://127.0.0.1:{shared.port}"
    assert [line.split() for line in for_people.splitlines()] == [[name, url] for name, url in for_programs.items()]
    with Redis.from_url(for_programs["redis"]) as redis:
        assert redis.ping()
    assert fetch(for_programs["database"], "SELECT 1 AS one") == [{"one": 1}]


def test_the_book_is_drawn(shared: TcgxUp) -> None:
    (trader,) = shared.traders(21)
    placed = trader.submit("charmander", "sell", "9.99", 7)
    until(lambda: trader.get(f"/orders/{placed['order_id']}")["status"] == "open", "matching")

    drawn = shared.run("book", "charmander")
    narrow = tcgx(shared.where, "book", "charmander", variables={"PYTHONIOENCODING": "ascii", "COLUMNS": "40"})
    colored = shared.run("book", "charmander", "--color", "always")
    unknown = tcgx(shared.where, "book", "mewtwo")

    assert "9.99 │ 7" in drawn
    assert "no bids: nobody buys" in drawn
    assert narrow.returncode == 0, narrow.stderr
    assert "9.99 | 7    ####" in narrow.stdout
    assert max(map(len, narrow.stdout.splitlines())) <= 40
    assert "\x1b" not in drawn
    assert "9.99 │ \x1b[31m7" in colored
    assert unknown.returncode == 1
    assert "mewtwo" in unknown.stderr
    assert "pikachu" in unknown.stderr


def test_the_state_hash_has_a_line_a_card(shared: TcgxUp) -> None:
    lines = [line.split() for line in shared.run("state-hash").splitlines()]

    assert [card for card, _ in lines] == list(CARDS)
    assert all(len(digest) == 40 and int(digest, 16) >= 0 for _, digest in lines)


def test_a_replay_in_batches_of_any_size_gives_the_same_state(shared: TcgxUp) -> None:
    urls = shared.urls
    buyer, seller = shared.traders(31, 32)
    for number in range(20):
        seller.submit("pikachu", "sell", f"5.{number:02}", 2)
        order = buyer.submit("pikachu", "buy", "5.50", 3, client_order_id=f"replayed-{number}")
        if number % 5 == 0:
            buyer.request("DELETE", f"/orders/{order['order_id']}")
    settle(urls.redis, urls.database)
    hashes = dict(line.split() for line in shared.run("state-hash").splitlines())

    outputs = [shared.run("replay", "--batch", batch) for batch in ("1", "7", "500")]
    shared.run("replay", "--export", "log file.jsonl")
    outputs.append(shared.run("replay", "--file", "log file.jsonl"))

    for output in outputs:
        replayed = [line.split() for line in output.splitlines()]
        assert replayed == [[card, hashes[card], "same"] for card in CARDS]


def test_a_changed_log_is_noticed_by_the_replay(shared: TcgxUp) -> None:
    (trader,) = shared.traders(33)
    trader.submit("squirtle", "buy", "1.23", 4)
    urls = shared.urls
    settle(urls.redis, urls.database)
    shared.run("replay", "--export", "log.jsonl")
    exported = shared.where / "log.jsonl"
    text = exported.read_text()
    price = '"prices","[123]"'
    assert price in text
    exported.write_text(text.replace(price, '"prices","[124]"'))

    result = tcgx(shared.where, "replay", "--file", "log.jsonl")

    assert result.returncode == 1
    assert [line.split()[0] for line in result.stdout.splitlines() if "DIFFERS" in line] == ["squirtle"]


def test_the_doctor_finds_nothing(shared: TcgxUp) -> None:
    lines = shared.run("doctor").splitlines()

    assert [line.split()[:2] for line in lines] == [
        ["ok", name] for name in ("redis", "functions", "engine", "database", "archiver", "history", "backlog")
    ]


def test_the_settings_are_listed_with_their_sources_and_without_secrets(shared: TcgxUp) -> None:
    listed = shared.run("settings")

    assert "TCGX_TRADERS" in listed
    sources = {line.split()[0]: line for line in listed.splitlines()}
    assert "environment" in sources["TCGX_TRADERS"]
    assert "default" in sources["TCGX_PRICE_CENTS_MAX"]
    password = str(urlsplit(shared.urls.redis).password)
    assert len(password) > 20
    assert password not in listed


def test_more_traders_can_be_seeded_beside_it(shared: TcgxUp) -> None:
    first = shared.run("traders", "seed", "--count", "105", "--out", "more.csv")
    again = shared.run("traders", "seed", "--count", "105", "--out", "none.csv")

    assert first.startswith("created 5 traders, 100 existed")
    assert again.startswith("created 0 traders, 105 existed")
    assert len((shared.where / "more.csv").read_text().splitlines()) == 6
    assert not (shared.where / "none.csv").exists()


def test_seeding_onto_a_file_that_exists_is_refused_and_creates_nobody(shared: TcgxUp) -> None:
    def count() -> int:
        return int(fetch(shared.urls.database, "SELECT count(*) AS traders FROM traders")[0]["traders"])

    before = count()
    taken = shared.where / "taken.csv"
    taken.write_text("the only copy of somebody's keys")

    result = tcgx(shared.where, "traders", "seed", "--count", "300", "--out", "taken.csv")

    assert_refused(result, "taken.csv", "no trader was created")
    assert taken.read_text() == "the only copy of somebody's keys"
    assert count() == before


def test_migrating_again_changes_nothing(shared: TcgxUp) -> None:
    assert shared.run("migrate").strip() == "the database is up to date"


def test_the_pages_come_from_this_server_alone(shared: TcgxUp) -> None:
    visitor = shared.trader()

    page = visitor.get("/schema/swagger")

    assert "https://" not in page
    assert "swagger-ui" in visitor.get("/schema/assets/swagger-ui.css")


# -- stopping and starting again


def test_a_restart_keeps_open_orders_tokens_and_history(where: Path) -> None:
    with tcgx_up(where) as running:
        buyer, seller = running.traders(1, 2)
        taking, resting = trade(buyer, seller, "pikachu", "5.00")
        kept = buyer.submit("pikachu", "buy", "3.33", 4, client_order_id="kept")["order_id"]
        ioc = buyer.submit("pikachu", "buy", "3.00", 2, time_in_force="ioc")["order_id"]
        buyer.completed(ioc)
        assert running.stop() == 0
        assert not (where / ".tcgx" / "run.json").exists()

        running.start()
        urls = running.urls
        settle(urls.redis, urls.database)
        book = buyer.get("/cards/pikachu/book")
        orders = {order["order_id"]: order["status"] for order in buyer.get("/orders")["orders"]}
        repeated = buyer.submit("pikachu", "buy", "3.33", 4, client_order_id="kept")
        history = buyer.get("/history/orders")["orders"]
        seller.submit("pikachu", "sell", "3.33", 4)
        buyer.completed(kept)
        settle(urls.redis, urls.database)

        assert book["bids"] == [["3.33", 4]]
        assert book["asks"] == []
        assert orders == {taking: "filled", kept: "open", ioc: "expired"}
        assert repeated["order_id"] == kept
        assert [order["order_id"] for order in history] == [ioc, taking]
        assert buyer.get("/cards/pikachu/book")["bids"] == []
        assert archived_statuses(urls.database) == {
            taking: "filled",
            resting: "filled",
            kept: "filled",
            ioc: "expired",
            "pikachu-5": "filled",
        }


@pytest.mark.parametrize(
    ("number", "group"),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, True)],
    ids=["ctrl-c", "sigterm", "closed-terminal"],
)
def test_an_ephemeral_one_ends_in_time_and_leaves_nothing(
    where: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, group: bool
) -> None:
    temporary = where / "t"
    temporary.mkdir()
    temporary.chmod(0o755)
    (where / "home").mkdir()
    outside = Path("/var/lib/tcgx")
    before = set(outside.iterdir()) if os.access(outside, os.R_OK) else set()  # only root ever puts anything there
    monkeypatch.setenv("TMPDIR", str(temporary))
    errors = TcgxUp(where / "home", "--ephemeral")
    try:
        errors.start()
        (trader,) = errors.traders(1)
        trader.submit("pikachu", "buy", "5.00")
        assert list(temporary.iterdir())

        assert errors.stop(number, group=group) == 0
    finally:
        errors.close()

    assert list(temporary.iterdir()) == []
    assert [path.name for path in (where / "home").iterdir()] == ["errors.log"]
    assert (set(outside.iterdir()) if os.access(outside, os.R_OK) else set()) <= before
    assert "Traceback" not in errors.errors()
    assert "killed" not in errors.errors()


def test_every_order_that_was_acknowledged_while_it_stopped_is_there_after_the_restart(where: Path) -> None:
    with tcgx_up(where) as running:
        acknowledged: list[tuple[str, str]] = []

        def place_until_it_ends(trader: Trader, name: str) -> None:
            with suppress(httpx.TransportError):
                for number in range(100_000):
                    order = {"card": "pikachu", "side": "buy", "price": "2.00", "client_order_id": f"{name}-{number}"}
                    answer = trader.request("POST", "/orders", order)
                    if answer.status != 202:
                        return
                    acknowledged.append((answer.body["order_id"], order["client_order_id"]))

        threads = [
            threading.Thread(target=place_until_it_ends, args=[trader, f"client-{number}"])
            for number, trader in enumerate(running.traders(1, 2, 3, 4))
        ]
        for thread in threads:
            thread.start()
        until(lambda: len(acknowledged) > 100, "load")
        assert running.stop(signal.SIGINT, group=True) == 0
        for thread in threads:
            thread.join()

        running.start()
        settle(running.urls.redis, running.urls.database)
        logged = {
            f"pikachu-{sequence}": command.client_order_id
            for sequence, _, command in log_of(running.urls.redis, "pikachu")
            if isinstance(command, PlaceOrder)
        }

        assert len(logged) >= len(acknowledged) > 100
        assert dict(acknowledged).items() <= logged.items()
        assert len(set(logged.values())) == len(logged)


def test_it_runs_in_a_folder_with_spaces_and_quotes(where: Path) -> None:
    odd = where / "my 'first' exchange"
    odd.mkdir()
    odd.chmod(0o755)

    with tcgx_up(odd, "--data-dir", "its data") as running:
        tokens = tcgx(odd, "traders", "--data-dir", "its data", "token", "1", "2").stdout.split()
        buyer, seller = (running.trader(token) for token in tokens)
        trade(buyer, seller, "pikachu", "5.00")

        assert (odd / "its data" / "run.json").exists()
        assert running.stop() == 0


# -- what can't work is said in a sentence


def assert_refused(result: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert result.returncode == 1
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("tcgx: ")
    assert result.stdout == ""
    for word in words:
        assert word in sentence


def test_a_taken_port_is_named_with_the_way_to_choose_another(where: Path) -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()

        result = tcgx(where, "up", "--port", str(port))

    assert_refused(result, str(port), "--port", "TCGX_PORT")


def test_a_second_one_on_the_same_data_directory_is_refused(shared: TcgxUp) -> None:
    result = tcgx(shared.where, "up", "--port", str(free_port()))

    assert_refused(result, "runs already", str(shared.pid), f"http://127.0.0.1:{shared.port}", "--data-dir")
    assert shared.run("doctor")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TCGX_PORT", "abc"),
        ("TCGX_PORT", "70000"),
        ("TCGX_NOPE", "1"),
        ("TCGX_JWT_SECRET", "short"),
        ("TCGX_DURABILITY", "never"),
        ("TCGX_CARDS", "Pikachu"),
    ],
)
def test_a_wrong_setting_is_named(where: Path, name: str, value: str) -> None:
    result = tcgx(where, "up", variables={name: value})

    assert_refused(result, name)
    assert list(where.iterdir()) == []


@pytest.mark.parametrize("url", ["foo", "localhost:6379", "{scheme}://localhost:abc/0"])
@pytest.mark.parametrize(
    ("name", "scheme", "command"),
    [
        ("TCGX_REDIS_URL", "redis", "tcgx state-hash"),
        ("TCGX_REDIS_URL", "redis", "tcgx up"),
        ("TCGX_REDIS_URL", "redis", "engine"),
        ("TCGX_REDIS_URL", "redis", "archiver"),
        ("TCGX_REDIS_URL", "redis", "api"),
        ("TCGX_DATABASE_URL", "postgresql", "tcgx migrate"),
        ("TCGX_DATABASE_URL", "postgresql", "tcgx up"),
        ("TCGX_DATABASE_URL", "postgresql", "archiver"),
    ],
)
def test_a_url_that_is_none_is_named(where: Path, name: str, scheme: str, command: str, url: str) -> None:
    program, *arguments = command.split()
    variables = {name: url.format(scheme=scheme), "TCGX_PORT": str(free_port()), "TCGX_JWT_SECRET": 32 * "x"}

    if program == "tcgx":
        result = tcgx(where, *arguments, variables=variables)
    else:
        result = tcgx(where, "-P", "-m", program, program=Path(sys.executable), variables=variables)

    assert result.returncode == 1, result.stderr
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("tcgx")
    assert name in sentence


def test_a_port_that_is_none_is_named(where: Path) -> None:
    assert_refused(tcgx(where, "up", variables={"TCGX_PORT": "99999"}), "TCGX_PORT=99999")
    assert list(where.iterdir()) == []


def test_a_file_to_replay_that_is_missing_is_named(where: Path) -> None:
    assert_refused(tcgx(where, "replay", "--file", "missing.jsonl"), "missing.jsonl")


@pytest.mark.parametrize("name", ["TCGX_REDIS_BIN", "TCGX_PG_BIN"])
def test_a_wrong_program_is_named_and_nothing_keeps_running(where: Path, name: str) -> None:
    result = tcgx(where, "up", "--port", str(free_port()), variables={name: "/nowhere"})

    *_, sentence = result.stderr.splitlines()  # the other server tells meanwhile that it makes a database
    assert result.returncode == 1
    assert sentence.startswith(f"tcgx: {name}=/nowhere ")


def test_urls_without_a_running_exchange_say_so(where: Path) -> None:
    assert_refused(tcgx(where, "urls", "--json"), "tcgx up")


# -- kill -9


def test_killing_tcgx_up_leaves_no_server_and_the_next_start_works(where: Path) -> None:
    with tcgx_up(where) as running:
        buyer, seller = running.traders(1, 2)
        trade(buyer, seller, "pikachu", "5.00")
        kept = buyer.submit("pikachu", "buy", "4.00")["order_id"]
        pids = descendants(running.pid)
        assert len(pids) >= len(MEMBERS)

        assert running.stop(signal.SIGKILL) == -signal.SIGKILL
        assert ended(pids, seconds=STOP_SECONDS)
        stale = tcgx(where, "urls")

        running.start()
        urls = running.urls
        trade(buyer, seller, "pikachu", "6.00")
        settle(urls.redis, urls.database)

        assert stale.returncode == 1, f"a killed exchange is still announced: {stale.stdout}"
        assert buyer.get(f"/orders/{kept}")["status"] == "open"
        assert len(archived_statuses(urls.database)) == 4
        assert running.stop() == 0


def test_lost_postgresql_data_beside_the_keys_of_traders_is_told(where: Path) -> None:
    with tcgx_up(where) as running:
        assert running.stop() == 0
    cluster = where / ".tcgx/postgres"
    shutil.rmtree(cluster.resolve() if cluster.is_symlink() else cluster)

    result = tcgx(where, "up", "--port", str(free_port()), variables=FAST)

    assert result.returncode == 1
    sentence = result.stderr.splitlines()[-1]
    for words in ("traders.csv", "PostgreSQL's data was lost", "move that file away"):
        assert words in sentence


def test_cards_with_orders_that_are_not_traded_any_more_are_named(where: Path) -> None:
    with tcgx_up(where) as running:
        (trader,) = running.traders(1)
        trader.submit("pikachu", "buy", "4.00")
        trader.submit("squirtle", "buy", "4.00")
        settle(running.urls.redis, running.urls.database)
        assert running.stop() == 0
    fewer = {"TCGX_CARDS": "bulbasaur,pikachu"}

    with tcgx_up(where, variables=fewer) as running:
        (warning,) = [line for line in running.errors().splitlines() if "not traded any more" in line]
        doctor = running.run("doctor")

        assert "squirtle" in warning
        assert "pikachu" not in warning
        assert "not traded (TCGX_CARDS): squirtle" in doctor


def test_the_doctor_says_what_is_wrong_with_a_lock_that_is_a_folder(where: Path) -> None:
    (where / ".tcgx/lock").mkdir(parents=True)
    announced = {"api": "http://a", "redis": "redis://a", "database": "postgresql://a", "jwt_secret": 32 * "x"}
    (where / ".tcgx/run.json").write_text(json.dumps(announced))

    assert_refused(tcgx(where, "doctor"), "lock", "is a folder")


def test_it_starts_again_right_after_everything_was_killed(where: Path) -> None:
    with tcgx_up(where) as running:
        (trader,) = running.traders(1)
        for _ in range(3):
            kept = trader.submit("pikachu", "buy", "4.00")["order_id"]
            os.kill(running.pid, signal.SIGSTOP)  # it waits for none of them: they stay zombies
            for pid in descendants(running.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            running.stop(signal.SIGKILL)

            running.start()
            assert trader.get(f"/orders/{kept}")["status"] == "open"


def test_every_killed_member_is_started_again_and_trading_goes_on(where: Path) -> None:
    with tcgx_up(where) as running:
        urls = running.urls
        buyer, seller = running.traders(1, 2)

        for number, name in enumerate(MEMBERS):
            price = f"{number + 1}.00"
            killed = running.kill(name)
            orders = [
                trader.insist(
                    "POST",
                    "/orders",
                    {"card": "pikachu", "side": side, "price": price, "client_order_id": f"{name}-{side}"},
                )
                for trader, side in ((seller, "sell"), (buyer, "buy"))
            ]
            assert [answer.status for answer in orders] == [202, 202]
            for trader, answer in zip((seller, buyer), orders, strict=True):
                assert trader.completed(answer.body["order_id"])["status"] == "filled"
            assert until(lambda name=name: running.member(name), f"start of {name}") != killed  # type: ignore[misc]
        until(lambda: buyer.insist("GET", "/health").status == 200, "health")
        settle(urls.redis, urls.database)

        statuses = archived_statuses(urls.database)
        assert set(statuses.values()) == {"filled"}
        assert len(statuses) == 2 * len(MEMBERS)
        assert running.urls == urls
        assert running.stop() == 0


def test_killing_it_during_its_start_leaves_nothing_that_hinders_the_next(where: Path) -> None:
    running = TcgxUp(where)
    try:
        for moment in ("redis", "postgres", "api"):
            running.begin()
            until(lambda moment=moment: running.member(moment), f"start of {moment}")  # type: ignore[misc]
            assert running.stop(signal.SIGKILL) == -signal.SIGKILL

        running.start()
        buyer, seller = running.traders(1, 2)
        trade(buyer, seller, "pikachu", "5.00")

        assert running.stop() == 0
    finally:
        running.close()


def test_ctrl_c_during_its_start_is_a_clean_end(where: Path) -> None:
    running = TcgxUp(where)
    try:
        for moment in ("redis", "postgres", "api"):
            running.begin()
            until(lambda moment=moment: running.member(moment), f"start of {moment}")  # type: ignore[misc]
            assert running.stop(signal.SIGINT, group=True) == 0

        assert "Traceback" not in running.errors()
    finally:
        running.close()


def test_the_data_directory_is_private(shared: TcgxUp) -> None:
    data_dir = shared.where / ".tcgx"

    for name in ("secrets.json", "run.json", "traders.csv"):
        assert stat.S_IMODE((data_dir / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(data_dir.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)
