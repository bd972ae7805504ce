"""The trading page while news come fast: what shifts, and what keeps it from answering.

`python -m testing.page_news` sends the page 500 changes of the book a second, as its stream would, and prints the
layout shift (CLS), the tasks longer than 50 ms, and when the page was first painted.
"""

import argparse
import json
import random
import re
import time
from typing import Any

import msgspec
from playwright.sync_api import WebSocketRoute

from testing.clients.trader import Trader
from testing.exchange import exchange_server
from testing.pages import browser, live

CARD = "pikachu"
STEP_MS = 5
SETTLE_MS = 1_500
AT = "2026-11-27T08:00:00.000Z"
WATCH = """
(() => {
  Object.assign(window, { shift: 0, long: [] });
  const watch = (type, look) =>
    new PerformanceObserver((list) => list.getEntries().forEach(look)).observe({ type, buffered: true });
  watch("layout-shift", (each) => { if (!each.hadRecentInput) window.shift += each.value; });
  watch("longtask", (each) => window.long.push([each.startTime, each.duration]));
})()
"""


class Report(msgspec.Struct, frozen=True):
    """What was seen. `loading_ms`, `long_ms`: tasks longer than 50 ms while the page loaded, and while news came."""

    messages: int
    shift: float
    loading_ms: list[float]
    long_ms: list[float]
    paint_ms: float


def run(seconds: float, *, rate: int, seed: int = 1) -> Report:
    """Sends so many changes a second, for so long."""
    choose, state = random.Random(seed), dict[str, Any]()

    def carry(client: WebSocketRoute) -> None:
        def pass_on(message: str | bytes) -> None:
            told = json.loads(message)
            if told.get("channel") == "book":
                state["sequence"] = told["sequence"]
            client.send(message)

        state["client"] = client
        client.connect_to_server().on_message(pass_on)

    def change(low: int) -> list[Any]:
        return [f"5.{choose.randint(low, low + 29)}", choose.randint(1, 30)]

    with exchange_server() as exchange, browser() as running:
        buyer, seller = Trader(exchange.client(1)), Trader(exchange.client(2))
        for step in range(20):
            buyer.submit(CARD, "buy", f"5.{10 + step}")
            seller.submit(CARD, "sell", f"5.{50 + step}")
        page = running.new_page(viewport={"width": 1440, "height": 900})
        page.add_init_script(WATCH)
        page.route_web_socket(re.compile("/stream/ws"), carry)
        live(page, exchange.url)
        page.wait_for_timeout(SETTLE_MS)  # of loading, which is told apart
        loaded_at = page.evaluate("performance.now()")
        began, sent = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            while sent < passed * rate:
                before, state["sequence"] = state["sequence"], state["sequence"] + 1
                place = {"previous_sequence": before, "sequence": before + 1, "at": AT}
                update = {"channel": "book", "card": CARD, "type": "update", **place}
                state["client"].send(json.dumps(update | {"bids": [change(10)], "asks": [change(50)]}))
                sent += 1
            page.wait_for_timeout(STEP_MS)
        shift, long = page.evaluate("[window.shift, window.long]")
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    return Report(
        messages=sent,
        shift=shift,
        loading_ms=[duration for at, duration in long if at < loaded_at],
        long_ms=[duration for at, duration in long if at >= loaded_at],
        paint_ms=paint,
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rate", type=int, default=500, help="messages a second")
    arguments = parser.parse_args()
    print(msgspec.json.format(msgspec.json.encode(run(arguments.seconds, rate=arguments.rate))).decode())


if __name__ == "__main__":
    main()
