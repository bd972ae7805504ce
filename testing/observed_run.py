"""`python -m testing.observed_run FOLDER`: a run that operators might see, drawn as the panels of /operate show it.

Load from a few clients, then a stopped archiver, then a frozen engine with a small backlog, so that orders are refused,
and then all is well again. A real Prometheus scrapes it. The pictures are SVG; `FOLDER/README.txt` has the times.
"""

import argparse
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from observe import charts, files
from observe.alerts import ALERTS
from observe.panels import panels
from observe.prometheus import PrometheusReader
from testing.clients.trader import Trader
from testing.observed import ObservedExchange, observed_exchange
from testing.prometheus import running_prometheus
from testing.servers import folder

CLIENTS = 6
BATCH = 20
PHASES: Sequence[tuple[str, float]] = (
    ("steady load", 45),
    ("the archiver is stopped", 45),
    ("the archiver is back", 30),
    ("the engine is frozen, and the backlog fills", 45),
    ("the engine is back", 45),
)
WINDOW_SECONDS = 10
ALERT_SECONDS = 15
"""Alerts wait for this long at most, since phases are short."""
BACKLOG_MAX = 4_000


class Load:
    """Clients that send a batch or an order after each answer, with a pause between them."""

    def __init__(self, exchange: ObservedExchange, *, pause: float) -> None:
        self._exchange, self._pause = exchange, pause
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=[seed]) for seed in range(CLIENTS)]

    @contextmanager
    def running(self) -> Iterator[None]:
        """The load goes on during the context."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._ending.set()
            for thread in self._threads:
                thread.join()

    def _send(self, seed: int) -> None:
        choose, trader = random.Random(seed), self._exchange.trader()
        while not self._ending.wait(self._pause * choose.uniform(0.5, 1.5)):
            if choose.random() < 0.5:
                trader.request("POST", "/orders", _order(choose))
            else:
                trader.request("POST", "/orders/batch", {"orders": [_order(choose) for _ in range(BATCH)]})
            if choose.random() < 0.1:
                _look(trader, choose)


def _order(choose: random.Random) -> dict[str, object]:
    card = choose.choices(("pikachu", "bulbasaur", "charmander", "squirtle"), (5, 3, 2, 1))[0]
    price = f"{5 + choose.gauss(0, 0.2):.2f}"
    return {"card": card, "side": choose.choice(("buy", "sell")), "price": price, "quantity": choose.randint(1, 20)}


def _look(trader: Trader, choose: random.Random) -> None:
    trader.request("GET", choose.choice(("/cards/pikachu/book", "/orders?limit=10", "/health")))


def main(words: Sequence[str]) -> int:
    """Runs all phases and draws the panels."""
    parser = argparse.ArgumentParser(prog="python -m testing.observed_run")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="of the length of each phase")
    given = parser.parse_args(words)
    given.folder.mkdir(parents=True, exist_ok=True)
    rules = files.rules([alert._replace(seconds=min(alert.seconds, ALERT_SECONDS)) for alert in ALERTS])
    changes = {"log_level": "info", "log_requests_one_in": 0, "trace_one_in": 20, "backlog_max": BACKLOG_MAX}
    with (
        observed_exchange(**changes) as exchange,
        folder() as place,
        running_prometheus(place, exchange.ports, rules=rules, seconds=1.0) as prometheus,
        Load(exchange, pause=0.02).running(),
    ):
        began_at, lines = time.time(), []
        for number, (name, seconds) in enumerate(PHASES):
            lines.append(f"{time.strftime('%H:%M:%S', time.gmtime())} {name}")
            print(lines[-1], flush=True)
            _begin(exchange, number)
            time.sleep(seconds * given.share)
            print("   fires:", ", ".join(sorted(prometheus.firing())) or "nothing", flush=True)
        reader, ended_at = PrometheusReader(prometheus.url), time.time()
        for panel in panels():
            series = charts.colored(panel, reader.panel(panel, began_at, ended_at, window=WINDOW_SECONDS))
            name = "-".join("".join(c if c.isalnum() else " " for c in panel.title.lower()).split())
            (given.folder / f"{name}.svg").write_text(charts.svg(panel, series, began_at, ended_at))
        (given.folder / "README.txt").write_text("\n".join(lines) + "\n")
    return 0


def _begin(exchange: ObservedExchange, phase: int) -> None:
    if phase == 1:
        exchange.stop_service("archiver")
    elif phase == 2:
        exchange.start_service("archiver")
    elif phase == 3:
        os.kill(exchange.pid("engine"), signal.SIGSTOP)
    elif phase == 4:
        os.kill(exchange.pid("engine"), signal.SIGCONT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
