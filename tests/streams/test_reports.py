"""What users of other exchanges have reported, beyond tests/streams/test_trust.py: bursts, peers that vanish, browsers.

docs/streams.md has the table of reports and tests.
"""

import ctypes
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from testing.browser import PROGRAM, Browser
from testing.clients.stream import EventStream, LocalBook
from testing.exchange import ExchangeServer, exchange_server
from testing.servers import free_port
from testing.services import Service
from testing.stream_storm import Load
from testing.waiting import until
from tests.streams.conftest import Socket

pytestmark = pytest.mark.server

CARD = "pikachu"
READERS, BATCHES, BATCH = 6, 10, 1_000
BOOKS_PER_SECOND = 10
VANISHED_MS = int(os.environ.get("TEST_VANISHED_MS", "3000"))
"""For how long a client may leave bytes unacknowledged. The API has 30 s, which take too long for each run."""

GRACE = 2
ATTACH_FILTER, RETURN_NOTHING = 26, 0x06
HEARTBEATS = 5


@pytest.fixture(scope="module")
def own() -> Iterator[ExchangeServer]:
    """An exchange with a short heartbeat, without a limit of streams."""
    with exchange_server(stream_heartbeat_seconds=1, stream_address_max=0, log_retention=1_000_000_000) as server:
        yield server


class Reader:
    """A subscriber of a book and trades, in a thread of its own."""

    def __init__(self, url: str) -> None:
        self.book = LocalBook()
        self.numbers: list[int] = []
        self.reached = 0
        self.updates: list[float] = []
        self.faults: list[str] = []
        self._goal = 0
        self._stream = EventStream(url, f"book:{CARD},trades:{CARD}")
        self.book.apply(self._stream.next("book").data)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for event in self._stream:
            if event.event == "book":
                self.updates.append(time.monotonic())
                if not self.book.apply(event.data):
                    self.faults.append(f"{event.data} does not follow {self.book.sequence}")
            elif event.event == "trades":
                self.numbers += [int(trade["trade_id"].rpartition("-t")[2]) for trade in event.data["trades"]]
                self.reached = event.data["sequence"]
            elif event.event not in {"heartbeat", "hello"}:
                self.faults.append(event.event)
            if self.faults or (self._goal and self.book.sequence >= self._goal):
                return

    def finish(self, sequence: int) -> None:
        """Reads up to a sequence."""
        self._goal = sequence
        self._thread.join(30)
        assert not self._thread.is_alive(), f"stands at {self.book.sequence}, not at {sequence}"
        self._stream.close()


def test_a_burst_reaches_every_subscriber_whole_and_few_books_tell_of_it(own: ExchangeServer) -> None:
    readers = [Reader(own.url) for _ in range(READERS)]
    load = Load(own.url, CARD, [own.bearer(1), own.bearer(2)], seed=21)
    load.send(BATCHES * BATCH, batch=BATCH)
    load.close()
    last = own.trader().place(CARD, "buy", "1.00")
    sequence = int(last["order_id"].rpartition("-")[2])
    for reader in readers:
        reader.finish(sequence)

    count = int(own.http.get(f"/cards/{CARD}/trades?limit=1").json()["trades"][0]["trade_id"].rpartition("-t")[2])
    rest = own.http.get(f"/cards/{CARD}/book", params={"depth": 1_000}).json()
    assert count > 1_000
    for reader in readers:
        assert reader.faults == []
        assert reader.numbers == list(range(1, count + 1))
        assert (reader.book.levels("bids"), reader.book.levels("asks")) == (rest["bids"], rest["asks"])
        seconds = reader.updates[-1] - reader.updates[0]
        assert len(reader.updates) <= BOOKS_PER_SECOND * (seconds + 1)


def vanish(connection: socket.socket) -> None:
    """Lets no more packet reach a connection, as behind a network that is gone: nothing is acknowledged."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", RETURN_NOTHING, 0, 0, 0))
    connection.setsockopt(socket.SOL_SOCKET, ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


class At:
    """Another API process of an exchange, as far as streams need it."""

    def __init__(self, exchange: ExchangeServer, url: str) -> None:
        self.url = url
        self.bearer = exchange.bearer


@pytest.fixture
def impatient(own: ExchangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An API process that notices vanished clients sooner."""
    monkeypatch.setenv("UNACKNOWLEDGED_MS", str(VANISHED_MS))
    settings = msgspec.structs.replace(own.settings, port=free_port(), api_workers=1)
    service = Service("api", settings, tmp_path / "output", module="testing.impatient_api")
    at = At(own, f"http://127.0.0.1:{settings.port}")
    try:
        until(lambda: _answers(settings.port), f"the API does not answer: {service.output()}")
        yield at
    finally:
        service.stop()


def _answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def test_the_stream_of_a_peer_that_vanished_ends_and_its_lease_cancels(own: ExchangeServer, impatient: Any) -> None:
    trader, other = own.trader(), own.trader()
    order = trader.place(CARD, "buy", "1.00")
    gone, lives = Socket(impatient, trader_id=trader.trader_id), Socket(impatient, trader_id=other.trader_id)
    for each in (gone, lives):
        each.say(op="lease", grace_seconds=GRACE)
        assert each.next("lease")["grace_seconds"] == GRACE
    kept = other.place(CARD, "buy", "1.00")
    vanish(gone.socket.socket)
    began = time.monotonic()
    path = f"/orders/{order['order_id']}"
    until(lambda: trader.http.get(path).json()["status"] == "canceled", "the lease cancels", seconds=60)
    seconds = time.monotonic() - began
    lives.next("heartbeat")
    gone.socket.socket.close()
    lives.close()

    assert VANISHED_MS / 1_000 < seconds < VANISHED_MS / 1_000 + 15
    assert other.http.get(f"/orders/{kept['order_id']}").json()["status"] == "open"


@pytest.mark.skipif(not PROGRAM, reason="needs Chromium")
def test_an_event_source_of_a_browser_hears_heartbeats_and_does_not_reconnect(
    own: ExchangeServer, tmp_path: Path
) -> None:
    script = f"""new Promise(done => {{
        const found = {{opens: 0, errors: 0, heartbeats: 0}};
        const stream = new EventSource('/stream?channels=book:{CARD}');
        stream.onopen = () => found.opens++;
        stream.onerror = () => found.errors++;
        stream.addEventListener('heartbeat', event => {{
            found.heartbeats++;
            found.position = JSON.parse(event.data).positions.{CARD};
            if (found.heartbeats == {HEARTBEATS}) {{ stream.close(); done(found); }}
        }});
    }})"""
    with Browser(tmp_path, f"{own.url}/health/live") as browser:
        found = browser.run(script)

    assert found == {
        "opens": 1,
        "errors": 0,
        "heartbeats": HEARTBEATS,
        "position": own.sequences()[CARD],
    }


@pytest.mark.skipif(not PROGRAM, reason="needs Chromium")
def test_the_page_of_the_document_shows_it_and_loads_only_own_files(own: ExchangeServer, tmp_path: Path) -> None:
    shown = "(document.querySelector('asyncapi-viewer').shadowRoot || {textContent: ''}).textContent"
    with Browser(tmp_path, f"{own.url}/schema/asyncapi") as browser:
        until(lambda: "OrderMessage" in browser.run(shown), "the document is shown")
        text = browser.run(shown)
        loaded = browser.run("performance.getEntriesByType('resource').map(entry => entry.name)")
    page = own.http.get("/schema/asyncapi")

    assert "tcgx streams" in text
    assert {url.removeprefix(own.url) for url in loaded} >= {
        "/schema/asyncapi.yaml",
        "/schema/assets-asyncapi/asyncapi-viewer.iife.js",
    }
    assert all(url.startswith(own.url) for url in loaded)
    assert "script-src 'self'" in page.headers["content-security-policy"]
