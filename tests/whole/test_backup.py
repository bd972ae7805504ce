"""Backup and restore: a backup under load is one moment of each card, and the restored exchange continues after it."""

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from archiver import backup_file
from cli.replay import Entry, ExpectedState, replay
from core.model import PlaceOrder
from core.settings import environment_of
from engine import codec, connection, keys, library
from testing.exchange import ExchangeServer, exchange_server, tcgx_up
from testing.flows import CARDS
from testing.oracle.judge import assert_archived, assert_books, log_of
from testing.oracle.reference_book import ReferenceBook
from testing.processes import environment, finished, module, tcgx
from testing.servers import KEEP_ALL, LoadedRedis, Servers, servers
from testing.waiting import until

pytestmark = pytest.mark.server

BATCH = 25
BUY = {"card": "pikachu", "side": "buy", "price": "5.50", "client_order_id": "first"}
SELL = {"card": "pikachu", "side": "sell", "price": "5.50", "quantity": 2}
JUMPED = 99_000_000
"""Sequences of a restored exchange are above this."""


@pytest.fixture(scope="module")
def running() -> Iterator[ExchangeServer]:
    """An exchange that keeps its log, for the oracle, and few events, so that the archiver trims all the time."""
    with exchange_server(log_retention=KEEP_ALL, event_retention=2_000) as server:
        yield server


@pytest.fixture
def own(running: ExchangeServer) -> ExchangeServer:
    running.reset()
    return running


@pytest.fixture
def target() -> Iterator[Servers]:
    """Empty servers."""
    with servers() as made:
        yield made


class Flow:
    """Batches of orders of more and more traders. `acknowledged`: order ids by client_order_id and trader."""

    def __init__(self, server: ExchangeServer) -> None:
        self.acknowledged: dict[tuple[int, str], str] = {}
        self.failures: list[Any] = []
        self._server = server
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Flow":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def reaches(self, count: int) -> None:
        """Waits until so many orders are acknowledged."""
        until(lambda: len(self.acknowledged) >= count or self.failures, f"{count} orders")
        assert not self.failures

    def _run(self) -> None:
        choose = random.Random(7)
        number = 0
        with self._server.client() as client:
            while not self._stopping.is_set() and not self.failures:
                number += 1
                trader = 1_000 + number
                orders = [self._order(choose, place) for place in range(BATCH)]
                answer = client.post("/orders/batch", json={"orders": orders}, headers=self._server.bearer(trader))
                if answer.status_code != 202:
                    self.failures.append(answer.text)
                    return
                for order, result in zip(orders, answer.json()["results"], strict=True):
                    self.acknowledged[trader, order["client_order_id"]] = result["order_id"]

    def _order(self, choose: random.Random, place: int) -> dict[str, Any]:
        return {
            "card": choose.choice(CARDS),
            "side": choose.choice(("buy", "sell")),
            "price": f"{choose.randint(400, 600) / 100:.2f}",
            "quantity": choose.randint(1, 5),
            "client_order_id": f"c{place}",
        }


def restored(target: Servers, file: Path, *options: str) -> str:
    """What `tcgx restore` prints; it must succeed."""
    done = module("tcgx", "restore", str(file), *options, local=target.settings)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(target: Servers, file: Path, *options: str) -> str:
    """The sentence with which `tcgx restore` ends."""
    done = module("tcgx", "restore", str(file), *options, local=target.settings)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


def taken(server: ExchangeServer, file: Path) -> backup_file.Manifest:
    """Takes a backup; its manifest."""
    done = server.tcgx("backup", str(file))
    assert done.returncode == 0, done.stderr
    assert [path.name for path in file.parent.iterdir()] == [file.name], "nothing else is left"
    with backup_file.opened(file) as reader:
        return reader.manifest


def books_at(server: ExchangeServer, sequences: Mapping[str, int]) -> dict[str, ReferenceBook]:
    """What the logs of an exchange lead to, up to these sequences."""
    books = {}
    for card, last in sequences.items():
        books[card] = ReferenceBook(card)
        for sequence, at, command in log_of(server.settings.redis_url, card):
            if sequence <= last:
                books[card].apply(sequence, at, command)
    return books


def assert_restored(target: Servers, source: ExchangeServer, sequences: Mapping[str, int]) -> None:
    """The target has books and archive as the logs of the source say, once an archiver has archived what was left."""
    books = books_at(source, sequences)
    assert_books(target.settings.redis_url, books)
    archiver = target.service("archiver")
    try:
        until(lambda: target.archived() == sequences, "the archive of what was left")
    finally:
        archiver.stop(seconds=10)
    assert_archived(target.settings.database_url, books)


def replayed_hashes(source: Redis, sequences: Mapping[str, int], empty: LoadedRedis) -> dict[str, str]:
    """The state hash of each card after its log up to this sequence has run through an empty server."""

    async def lines() -> Any:
        for card, last in sequences.items():
            entries: Any = source.xrange(keys.key(card, "orders"))
            for entry_id, fields in entries:
                if int(entry_id.partition(b"-")[2]) <= last:
                    texts = [text.decode() for pair in fields.items() for text in pair]
                    yield Entry(card, entry_id.decode(), texts)
            yield ExpectedState(card, "", "", last)

    async def run() -> dict[str, str]:
        async with connection.connect(empty.url) as redis:
            return {card: found for card, _, found in await replay(lines(), redis, batch=1_000)}

    return asyncio.run(run())


def traders_of(server: Redis, card: str) -> dict[str, set[int]]:
    """The sequences in each trader's list of a card."""
    found: dict[str, set[int]] = {}
    client: Any = server
    for name in client.scan_iter(match=keys.key(card, "trader:*"), count=1_000):
        runs = [run.partition("-") for item in client.lrange(name, 0, -1) for run in item.decode().split()]
        found[name.decode()] = {
            sequence for first, _, last in runs for sequence in range(int(first), int(last or first) + 1)
        }
    return found


def expected_traders(server: ExchangeServer, card: str, last: int) -> dict[str, set[int]]:
    """The sequences of each trader's orders in the log up to a sequence."""
    found: dict[str, set[int]] = {}
    for sequence, _, command in log_of(server.settings.redis_url, card):
        if sequence <= last and isinstance(command, PlaceOrder):
            found.setdefault(keys.key(card, f"trader:{command.trader_id}"), set()).add(sequence)
    return found


def test_a_backup_under_load_is_one_moment_of_log_books_and_archive(
    own: ExchangeServer, target: Servers, own_server: LoadedRedis, tmp_path: Path
) -> None:
    with Flow(own) as flow:
        flow.reaches(10_000)
        before = own.sequences()
        manifest = taken(own, tmp_path / "backup.tar")
        during = own.sequences()
        flow.reaches(len(flow.acknowledged) + 1_000)
    sequences = {card.card: card.sequence for card in manifest.cards}

    told = restored(target, tmp_path / "backup.tar", "--keep-history")

    assert all(before[card] <= last <= during[card] for card, last in sequences.items())
    assert sum(during.values()) > sum(before.values()), "no orders flowed meanwhile"
    assert any(card.archived < card.sequence for card in manifest.cards), "the archive was never behind"
    hashes = replayed_hashes(own.redis, sequences, own_server)
    assert all(hashes[card] in told for card in sequences), told
    assert_restored(target, own, sequences)
    with Redis.from_url(target.settings.redis_url) as client:
        for card, last in sequences.items():
            assert traders_of(client, card) == expected_traders(own, card, last)
        for (trader, client_id), order_id in flow.acknowledged.items():
            card, _, sequence = order_id.rpartition("-")
            known = _known_sequence(client, card, trader, client_id)
            assert known == (int(sequence) if int(sequence) <= sequences[card] else 0)


def _known_sequence(client: Redis, card: str, trader: int, client_id: str) -> int:
    """The sequence that Redis has for a client_order_id, or 0."""
    untyped: Any = client
    for name in untyped.keys(keys.key(card, "client_ids:*")):
        found = untyped.hget(name, f"{trader}:{client_id}")
        if found:
            return int(found.partition(b" ")[0])
    return 0


def test_a_restored_exchange_continues_above_all_that_may_have_been_given_out(
    own: ExchangeServer, tmp_path: Path
) -> None:
    file = tmp_path / "backup.tar"
    sold = own.client(1).post("/orders", json=SELL, headers={"prefer": "wait=5"}).json()
    bought = own.client(2).post("/orders", json=BUY, headers={"prefer": "wait=5"}).json()
    taken(own, file)
    lost = own.client(3).post("/orders", json=SELL | {"price": "9.00"}).json()

    own.stop_service("api", "archiver", "engine")
    told = module("tcgx", "restore", str(file), "--overwrite", local=own.settings)
    assert told.returncode == 0, told.stderr
    own.start_service("engine", "archiver", "api")
    own.ready()

    again = own.client(2).post("/orders", json=BUY).json()
    assert again["order_id"] == bought["order_id"], "its client_order_id is known"
    after = own.client(4).post("/orders", json=BUY, headers={"prefer": "wait=5"}).json()
    assert int(after["order_id"].rpartition("-")[2]) > JUMPED
    assert [trade["price"] for trade in after["trades"]] == ["5.50"], "it meets the rest of the first order"
    assert own.client(1).get(f"/orders/{sold['order_id']}").json()["status"] == "filled"
    assert own.client(3).get(f"/orders/{lost['order_id']}").status_code == 404
    squirtle = own.client(4).post("/orders", json=SELL | {"card": "squirtle"}).json()
    assert int(squirtle["order_id"].rpartition("-")[2]) > JUMPED, "a card without orders at the backup"
    own.archived()
    rows = own.execute("SELECT sequence FROM orders WHERE card = 'pikachu' ORDER BY sequence")
    assert [row["sequence"] for row in rows][:2] == [1, 2]
    assert own.tcgx("doctor", "--only", "history").returncode == 0


def test_a_stopped_archiver_leaves_its_events_to_the_restore(
    own: ExchangeServer, target: Servers, tmp_path: Path
) -> None:
    file = tmp_path / "backup.tar"
    own.stop_service("archiver")
    own.client(1).post("/orders", json=SELL, headers={"prefer": "wait=5"})
    own.client(2).post("/orders", json=BUY, headers={"prefer": "wait=5"})
    own.stop_service("engine")
    own.client(2).post("/orders", json=BUY | {"client_order_id": "waits"})
    (pikachu,) = [card for card in taken(own, file).cards if card.card == "pikachu"]
    own.start_service("engine", "archiver")

    restored(target, file)

    assert (pikachu.archived, pikachu.matched, pikachu.sequence) == (0, 2, 3)
    books = books_at(own, {"pikachu": 3})
    assert_archived(target.settings.database_url, books)
    assert len(books["pikachu"].trades) == 2


def test_a_damaged_member_is_named_and_nothing_is_restored(
    own: ExchangeServer, target: Servers, tmp_path: Path
) -> None:
    file = tmp_path / "backup.tar"
    own.client(1).post("/orders", json=SELL, headers={"prefer": "wait=5"})
    taken(own, file)
    whole = file.read_bytes()

    for place in ("redis/pikachu.00001.gz", "postgresql/traders.00001.gz", "manifest.json"):
        content = bytearray(whole)
        content[content.index(place.encode() + b"\0") + 512 + 40] ^= 1
        file.write_bytes(content)
        assert f"is damaged in {place}" in refused(target, file)

    with Redis.from_url(target.settings.redis_url) as client:
        assert client.dbsize() == 0
    file.write_bytes(whole)
    assert "all 11 members are as they were written" in restored(target, file, "--check")


def test_a_file_that_is_cut_off_is_refused(own: ExchangeServer, target: Servers, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    own.client(1).post("/orders", json=SELL, headers={"prefer": "wait=5"})
    taken(own, file)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])

    assert "is cut off or damaged after" in refused(target, file)
    file.write_bytes(b"nothing of a backup" * 100)
    assert "is no backup" in refused(target, file)
    assert "there is no file" in refused(target, tmp_path / "nowhere")


def test_servers_that_are_in_use_or_not_empty_are_refused(own: ExchangeServer, target: Servers, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    own.client(1).post("/orders", json=SELL, headers={"prefer": "wait=5"})
    taken(own, file)

    in_use = own.tcgx("restore", str(file), "--overwrite")
    own.stop_service("engine")
    archived = own.tcgx("restore", str(file), "--overwrite")
    own.stop_service("archiver", "api")
    filled = own.tcgx("restore", str(file))
    own.redis.flushall()
    rows = own.tcgx("restore", str(file))

    assert [done.returncode for done in (in_use, archived, filled, rows)] == [1, 1, 1, 1]
    assert "an engine is connected to Redis" in in_use.stderr
    assert "an archiver works on the database" in archived.stderr
    assert "Redis is not empty" in filled.stderr
    assert "PostgreSQL is not empty" in rows.stderr
    assert restored(target, file)


def test_a_backup_of_a_data_directory_becomes_another_data_directory(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    tmp_path.chmod(0o755)
    file = tmp_path / "backup.tar"
    with tcgx_up(first) as up:
        (trader,) = up.traders(1)
        placed = trader.place("pikachu", "sell", "5.50", client_order_id="mine")
        running = up.run("backup", str(file))
        up.stop()
    stopped = tcgx(first, "backup", str(tmp_path / "stopped.tar"), "--no-compress")
    nothing = tcgx(second, "backup", str(tmp_path / "nothing.tar"))
    restoring = tcgx(second, "restore", str(tmp_path / "stopped.tar"))

    assert stopped.returncode == 0, stopped.stderr
    assert running.splitlines()[0] == stopped.stdout.splitlines()[0], "nothing happened in between"
    assert (nothing.returncode, "no exchange runs in" in nothing.stderr) == (1, True)
    assert restoring.returncode == 0, restoring.stderr
    with tcgx_up(second) as up:
        (trader,) = up.traders(1)
        assert trader.order(placed["order_id"])["status"] == "open"
        assert trader.submit("pikachu", "sell", "5.50", client_order_id="mine")["order_id"] == placed["order_id"]
        bought = up.traders(2)[0].place("pikachu", "buy", "5.50")
        assert bought["status"] == "filled"
        refusal = tcgx(second, "restore", str(file), "--overwrite")
        assert (refusal.returncode, "an engine is connected" in refusal.stderr) == (1, True)


def test_a_killed_restore_leaves_servers_that_every_service_refuses(
    own: ExchangeServer, target: Servers, tmp_path: Path
) -> None:
    file = tmp_path / "backup.tar"
    with Flow(own) as flow:
        flow.reaches(2_000)
    taken(own, file)
    command = [sys.executable, "-P", "-m", "tcgx", "restore", str(file)]
    restoring = subprocess.Popen(command, env=environment(**environment_of(target.settings)), stdout=subprocess.DEVNULL)
    with Redis.from_url(target.settings.redis_url) as client:
        until(lambda: int(client.dbsize()) > len(CARDS), "the first key after the marks")
        restoring.kill()
        restoring.wait()
        assert client.hget(keys.key(CARDS[0], "history"), "format") == b"0"

    migrated = module("tcgx", "migrate", local=target.settings)

    assert (migrated.returncode, "was not restored to the end" in migrated.stderr) == (1, True), migrated.stderr
    assert "Redis is not empty" in refused(target, file)
    assert restored(target, file, "--overwrite")
    assert module("tcgx", "migrate", local=target.settings).returncode == 0


def test_a_backup_that_does_not_fit_on_the_disk_leaves_nothing(own: ExchangeServer, tmp_path: Path) -> None:
    own.client(1).post("/orders", json=SELL, headers={"prefer": "wait=5"})
    command = ["prlimit", "--fsize=2000", sys.executable, "-P", "-m", "tcgx", "backup", str(tmp_path / "backup.tar")]

    done = finished(command, variables=environment_of(own.settings))

    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
    assert "backup.tar can't be written: File too large" in done.stderr


def test_a_backup_is_never_written_over_a_file(own: ExchangeServer, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    file.write_text("of yesterday")

    done = own.tcgx("backup", str(file))

    assert (done.returncode, file.read_text()) == (1, "of yesterday")
    assert "exists: a backup is never written over another file" in done.stderr


def test_a_list_whose_name_was_not_known_is_made_of_the_log(own_server: LoadedRedis) -> None:
    """`_lists_of` gets the entries that were appended while names were read."""
    from engine.card_copy import _Before, _lists_of  # noqa: PLC0415

    columns = {b"kinds": b"GgC", b"traders": b'["5","6","5"]', b"prices": b"[500,600,2]", b"quantities": b"[1,1,0]"}
    entries = [
        (b"1000-3", {b"entry": b"1000-3", b"at": b"2026-01-01T00:00:00.000Z", **columns}),
        (b"1001-6", {b"entry": b"made by hand"}),
    ]
    before = _Before(sequence=3, entry_id="-", names=[])

    lists = list(_lists_of("pikachu", entries, before))

    assert [(one.name, one.items) for one in lists] == [("{pikachu}:trader:6", ["4"])]
    assert codec.decode("pikachu", entries[0][1])
    asyncio.run(_restores_lists(own_server, lists))
    assert own_server.client().lrange("{pikachu}:trader:6", 0, -1) == [b"4"]


async def _restores_lists(server: LoadedRedis, lists: Any) -> None:
    from engine import card_copy  # noqa: PLC0415

    async with connection.connect(server.url) as redis:
        await library.load(redis)
        await card_copy.restore(redis, lists)
