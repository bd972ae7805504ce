"""What an API process does before it decodes a request, where it has no room for one, and how it lets clients in."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api.server import ACCEPTS
from testing.exchange import ExchangeServer, exchange_server
from testing.faults import all_of, paused
from testing.waiting import until

pytestmark = pytest.mark.server

CARD = "pikachu"
NO_ORDERS: dict[str, list[object]] = {"orders": [{}]}
"""A batch with an order that breaks every rule: it is refused for that where it is decoded, and needs no Redis."""
ORDER = {"card": CARD, "side": "buy", "price": "5.00", "quantity": 1}


@pytest.fixture(scope="module")
def crowded() -> Iterator[ExchangeServer]:
    """An exchange of one card on which one command may wait while an append is under way."""
    with exchange_server(cards=(CARD,), append_pending_max=1) as server:
        yield server


def test_a_batch_that_no_card_has_room_for_is_refused_before_it_is_decoded(crowded: ExchangeServer) -> None:
    stranger = crowded.client(9)
    assert stranger.post("/orders/batch", json=NO_ORDERS).json()["results"][0]["error"]["status"] == 422

    def place(trader_id: int) -> int:
        return crowded.client(trader_id).post("/orders", json=ORDER).status_code

    with ThreadPoolExecutor(2) as pool:
        with paused(all_of(crowded.servers.redis)):
            placed = [pool.submit(place, trader_id) for trader_id in (1, 2)]
            refused = until(
                lambda: (
                    answer if (answer := stranger.post("/orders/batch", json=NO_ORDERS)).status_code == 503 else None
                ),
                "nothing is refused",
            )
        answered = [one.result() for one in placed]

    assert answered == [202, 202]
    assert refused.json()["code"] == "overloaded"
    assert refused.headers["retry-after"] == "1"
    assert stranger.post("/orders/batch", json=NO_ORDERS).status_code == 202


def test_a_process_lets_several_clients_in_at_once(crowded: ExchangeServer) -> None:
    """libuv accepts one connection a turn of the loop for each descriptor of the listening socket."""
    host, _, port = crowded.url.rpartition("//")[2].partition(":")
    listening = f":{int(port):04X} 00000000:0000 0A "
    (line,) = [line for line in Path("/proc/net/tcp").read_text().splitlines() if listening in line]
    inode = line.split()[9]
    descriptors = Counter(str(path.readlink()) for path in Path(f"/proc/{crowded.pid('api')}/fd").iterdir())

    assert host == "127.0.0.1"
    assert descriptors[f"socket:[{inode}]"] >= ACCEPTS
