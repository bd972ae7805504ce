"""Reads series and alerts from a Prometheus, for /operate."""

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from core.errors import Unavailable
from observe.charts import Point
from observe.panels import Panel, filled

TIMEOUT_SECONDS = 5.0
POINTS = 140
"""Points of a line. A rate looks back over `RATE_STEPS` of them, and over `WINDOW_SECONDS_MIN` at least."""
RATE_STEPS = 2
WINDOW_SECONDS_MIN = 20
STEP_SECONDS_MIN = 1.0

Found = list[tuple[dict[str, str], list[Point]]]


class PrometheusReader:
    """A Prometheus at an address. Calls block, so they belong into a thread."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        # The address is an operator's own; a proxy of the environment does not lead to it.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def panel(self, panel: Panel, began_at: float, ended_at: float, *, window: float = 0.0) -> list[Found]:
        """The series of each query of a panel. `window`: of rates, in seconds; 0: by the length of the time.

        Raises:
            Unavailable: Prometheus does not answer.
        """
        step = max(STEP_SECONDS_MIN, (ended_at - began_at) / POINTS)
        seconds = window or max(WINDOW_SECONDS_MIN, RATE_STEPS * step)
        return [self._range(filled(query, f"{seconds:.0f}s"), began_at, ended_at, step) for query in panel.queries]

    def alerts(self) -> list[dict[str, str]]:
        """The alerts that are pending or fire: name, state, severity, summary, and since when.

        Raises:
            Unavailable: Prometheus does not answer.
        """
        return [
            {
                "name": each["labels"]["alertname"],
                "state": each["state"],
                "severity": each["labels"].get("severity", ""),
                "summary": each["annotations"].get("summary", ""),
                "since": each["activeAt"],
            }
            for each in self._get("alerts")["alerts"]
        ]

    def _range(self, expression: str, began_at: float, ended_at: float, step: float) -> Found:
        answer = self._get(
            "query_range", query=expression, start=f"{began_at:.3f}", end=f"{ended_at:.3f}", step=f"{step:.3f}"
        )
        return [
            (series["metric"], [(float(at), float(value)) for at, value in series["values"]])
            for series in answer["result"]
        ]

    def _get(self, what: str, **parameters: str) -> Any:
        try:
            query = urllib.parse.urlencode(parameters)
            with self._opener.open(f"{self._url}/api/v1/{what}?{query}", timeout=TIMEOUT_SECONDS) as answer:
                return json.load(answer)["data"]
        except (OSError, urllib.error.URLError, ValueError, KeyError) as error:
            raise Unavailable(f"Prometheus did not answer: {error}") from error
