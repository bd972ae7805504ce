"""`GET /metrics` of a process, for Prometheus, and its health: a port of its own, which is off by default.

The server belongs to the event loop of its process. So a process that hangs answers no scrape, and Prometheus sees it.
A fault here stops no order: a taken port, a failed source or an odd request ends in a log line at most.
"""

import asyncio
import contextlib
import platform
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from typing import TYPE_CHECKING

import msgspec
import structlog

from core.errors import TcgxError, reason
from core.heartbeat import Progress
from core.log_limit import RateLimitedLog
from core.service import cancel_and_wait
from core.settings import Settings
from observe import tallies
from observe.tallies import Count, Value
from observe.values import VALUES

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = structlog.get_logger()
rate_limited_log = RateLimitedLog(log)

Source = Callable[[], Awaitable[Iterable[Value]]]
"""Reads values at a scrape. A `TcgxError` leaves them out of this scrape."""

PATH = "/metrics"
LIVE, READY = "/health/live", "/health/ready"
HEAD_BYTES_MAX = 8_192
HEAD_SECONDS = 5.0
SOURCE_SECONDS = 3.0
SCRAPES_MAX = 8
BIND_SECONDS = 1.0
"""The interval at which a taken port is tried again. During a restart the predecessor has it for a while."""

failures = Count("tcgx_scrape_failures", "Scrapes in which a source of values did not answer", ("source",))


@contextlib.asynccontextmanager
async def serving(
    settings: Settings, service: str, sources: Sequence[Source] = (), progress: Progress | None = None
) -> AsyncIterator[None]:
    """Answers scrapes during the context, if `metrics_port` is set."""
    if not settings.metrics_port:
        yield
        return
    exposition = Exposition(settings, service, sources, progress)
    task = asyncio.create_task(exposition.run(), name="metrics")
    try:
        yield
    finally:
        await cancel_and_wait(task)


class Exposition:
    """The metrics of a process, and the server that answers scrapes."""

    def __init__(
        self, settings: Settings, service: str, sources: Sequence[Source], progress: Progress | None = None
    ) -> None:
        from prometheus_client import GCCollector, PlatformCollector, ProcessCollector  # noqa: PLC0415 - takes 60 ms
        from prometheus_client.registry import CollectorRegistry  # noqa: PLC0415

        self._host, self._port = settings.metrics_host, settings.metrics_port
        self._sources = sources
        self._progress = progress
        self._constant = [*_build_info(service), *_numbers(settings)]
        self._values: list[Value] = []
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._registry.register(self)
        self._open = 0

    async def run(self) -> None:
        """Listens until canceled. A port that is taken is tried again."""
        while True:
            try:
                server = await asyncio.start_server(self._answer, self._host, self._port, limit=HEAD_BYTES_MAX)
            except OSError as error:
                rate_limited_log.warning(
                    "the port of metrics is not free", host=self._host, port=self._port, reason=reason(error)
                )
                await asyncio.sleep(BIND_SECONDS)
                continue
            async with server:
                await server.serve_forever()

    async def text(self) -> bytes:
        """All metrics, in the text format of Prometheus."""
        from prometheus_client.exposition import generate_latest  # noqa: PLC0415

        found = list(self._constant)
        if self._progress is not None:
            found.append(
                Value("tcgx_activity_seconds", self._progress.seconds, (("activity", self._progress.activity),))
            )
        for values in await asyncio.gather(*(self._ask(source) for source in self._sources)):
            found += values
        self._values = found
        return generate_latest(self._registry)  # no other task runs between these two lines

    async def _ask(self, source: Source) -> list[Value]:
        try:
            async with asyncio.timeout(SOURCE_SECONDS):
                return list(await source())
        except (TcgxError, TimeoutError) as error:
            name = getattr(source, "__qualname__", type(source).__name__)
            failures.add(1, name)
            rate_limited_log.warning("metrics are not known", source=name, reason=reason(error))
            return []

    def collect(self) -> Iterable["Metric"]:
        """The metrics of this project: tallies, and the values of the scrape. prometheus_client calls it."""
        from prometheus_client.core import (  # noqa: PLC0415
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        for count in tallies.COUNTS:
            counter = CounterMetricFamily(count.name, count.text, labels=count.labels)
            for labels, (amount,) in count.cells.items():
                counter.add_metric(labels, amount)
            yield counter
        for distribution in tallies.DISTRIBUTIONS:
            histogram = HistogramMetricFamily(distribution.name, distribution.text, labels=distribution.labels)
            bounds = [*(str(float(bound)) for bound in distribution.bounds), "+Inf"]
            for labels, row in distribution.rows.items():
                buckets = list(zip(bounds, accumulate(row[:-1]), strict=True))
                histogram.add_metric(labels, buckets, sum_value=row[-1])
            yield histogram
        for longest in tallies.LONGEST:
            yield GaugeMetricFamily(longest.name, longest.text, value=longest.seconds())
        by_name: dict[str, list[Value]] = {}
        for value in self._values:
            by_name.setdefault(value.name, []).append(value)
        for name, values in by_name.items():
            kind, text = VALUES[name]
            family = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(
                name, text, labels=[label for label, _ in values[0].labels]
            )
            for each in values:
                family.add_metric([content for _, content in each.labels], each.value)
            yield family

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request, and closes the connection."""
        self._open += 1
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            if self._open > SCRAPES_MAX:
                writer.write(_response("503 Service Unavailable", b"too many scrapes at once\n"))
            else:
                method, _, rest = head.partition(b" ")
                writer.write(
                    await self._response(rest.partition(b" ")[0].decode("latin-1") if method == b"GET" else "")
                )
            async with asyncio.timeout(HEAD_SECONDS):
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError) as error:
            log.debug("a scrape ended early", reason=reason(error))
        finally:
            self._open -= 1
            writer.close()

    async def _response(self, path: str) -> bytes:
        if path in (PATH, "/"):
            return _response("200 OK", await self.text())
        if path not in (LIVE, READY) or self._progress is None:
            return _response("404 Not Found", b"there is GET /metrics\n")
        obstacle = ""
        if self._progress.stands_still:
            obstacle = f"{self._progress.activity} for {self._progress.seconds:.0f} s"
        elif path == READY and not self._progress.is_ready:
            obstacle = "starting"
        return _response("503 Service Unavailable" if obstacle else "200 OK", f"{obstacle or 'ok'}\n".encode())


def _response(status: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


def _build_info(service: str) -> Iterable[Value]:
    try:
        own = version("tcgx")
    except PackageNotFoundError:
        own = ""
    labels = (("service", service), ("version", own), ("python", platform.python_version()))
    yield Value("tcgx_build_info", 1, labels)


def _numbers(settings: Settings) -> Iterable[Value]:
    """The settings that are numbers. Texts are left out: they may be secrets."""
    for name, value in msgspec.structs.asdict(settings).items():
        if isinstance(value, int):
            yield Value("tcgx_setting", value, (("name", name),))
