"""An exchange with all that operators see switched on: metrics of each process, a log line for each request."""

import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cli import datadir
from testing.exchange import SERVICES, ExchangeServer
from testing.servers import free_port


class ObservedExchange(ExchangeServer):
    """Its services have a port of metrics each."""

    def __init__(self, data_dir: Any, **changes: Any) -> None:
        """`changes`: settings by their field's name."""
        self._ports = {name: free_port() for name in SERVICES}
        super().__init__(data_dir, **changes)

    @property
    def ports(self) -> Mapping[str, Sequence[int]]:
        """The ports of metrics by service."""
        return {name: [port] for name, port in self._ports.items()}

    def start_service(self, *names: str) -> None:
        """Starts services, one after the other, each with its own port."""
        for name in names:
            self.servers.change(metrics_port=self._ports[name])
            super().start_service(name)

    def metrics(self, service: str) -> str:
        """What a scrape of a service gives."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self._ports[service]}/metrics", timeout=10) as answer:
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            text: str = answer.read().decode()
            return text


@contextmanager
def observed_exchange(**changes: Any) -> Iterator[ObservedExchange]:
    """A running one, gone at the end."""
    defaults = {"log_format": "json", "log_level": "debug", "log_requests_one_in": 1, "trace_one_in": 1}
    with datadir.ephemeral() as data_dir:
        server = ObservedExchange(data_dir, **{**defaults, **changes})
        try:
            server.start()
            yield server
        finally:
            server.stop()
