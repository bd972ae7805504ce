"""A real Prometheus (Debian's package `prometheus`) over the processes of an exchange."""

import json
import shutil
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli import prometheus
from testing.servers import free_port
from testing.waiting import until

PROGRAM = shutil.which("prometheus")
PROMTOOL = shutil.which("promtool")
MISSING = "Prometheus is not installed: apt-get install prometheus"


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression now."""
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def range(self, expression: str, began_at: float, ended_at: float, step: float) -> list[dict[str, Any]]:
        """The series of an expression within a time."""
        found: list[dict[str, Any]] = self._get(
            "query_range", query=expression, start=str(began_at), end=str(ended_at), step=str(step)
        )["result"]
        return found

    def value(self, expression: str) -> float | None:
        """The value of an expression with one series; None if it has none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        return {each["metric"]["alertname"] for each in self.query('ALERTS{alertstate="firing"}')}

    def _get(self, what: str, **parameters: str) -> Any:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=10) as answer:
            return json.load(answer)["data"]


@contextmanager
def running_prometheus(
    folder: Path,
    targets: Mapping[str, Sequence[int]],
    *,
    rules: Mapping[str, Any] | None = None,
    seconds: float = 1.0,
    port: int = 0,
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes these ports by name of the service, every `seconds`, gone at the end."""
    assert PROGRAM, MISSING
    port = port or free_port()
    config = prometheus.write_config(folder, targets, rules=rules, seconds=seconds)
    process = prometheus.process(PROGRAM, config, folder, port)
    running = Prometheus(f"http://127.0.0.1:{port}")
    try:
        until(lambda: _answers(running), "Prometheus does not start", seconds=20)
        yield running
    finally:
        process.kill()
        while not process.ended():
            pass


def _answers(running: Prometheus) -> bool:
    try:
        return running.query("vector(1)") != []
    except OSError:
        return False
