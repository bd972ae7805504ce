"""Metrics of an API process: its answers, and the state of the exchange as `GET /health` sees it."""

from bisect import bisect_left
from collections.abc import Iterable

from api.connections import Connections
from api.context import Context
from exchange import health_report
from exchange.health_report import Report
from observe.exposition import Source
from observe.tallies import SECONDS, Count, Distribution, Value

UNKNOWN = "unknown"

requests = Count(
    "tcgx_http_requests", "Answers, by operation of the OpenAPI document and status", ("operation", "status")
)
request_seconds = Distribution(
    "tcgx_http_request_seconds", "The time from a whole request to its answer", ("operation",)
)

_cells: dict[tuple[str, int], tuple[list[float], list[float]]] = {}
"""The numbers to add to, by operation and status: there are as many as calls of the OpenAPI document have statuses."""


def observe(operation: str, status: int, seconds: float) -> None:
    """Counts an answer; an observer of `api/gate.py`."""
    found = _cells.get((operation, status))
    if found is None:
        name = operation or UNKNOWN
        found = _cells[operation, status] = requests.cell(name, str(status)), request_seconds.row(name)
    count, row = found
    count[0] += 1
    row[bisect_left(SECONDS, seconds)] += 1
    row[-1] += seconds


def exchange_state(context: Context, connections: Connections | None) -> Source:
    """Makes the source of the values of an API process."""

    async def exchange_state() -> Iterable[Value]:
        found = list(_report(await context.readiness.report()))
        waiting = dict.fromkeys(context.settings.cards, 0) | context.exchange.waiting_commands()
        found += [Value("tcgx_append_waiting_commands", count, (("card", card),)) for card, count in waiting.items()]
        found.append(Value("tcgx_connections", connections.open_count if connections else 0))
        found.append(Value("tcgx_streams", len(context.hub.sessions)))
        idle, total = context.exchange.archive_connections()
        found.append(Value("tcgx_postgres_connections", idle, (("state", "idle"),)))
        found.append(Value("tcgx_postgres_connections", total - idle, (("state", "in_use"),)))
        return found

    return exchange_state


def _report(report: Report) -> Iterable[Value]:
    """The parts of a report. A number that is not known is left out, so that no alert takes it for 0."""
    for name, part in report.parts().items():
        for status in health_report.STATUSES:
            yield Value("tcgx_part_status", int(part.status == status), (("part", name), ("status", status)))
    numbers = {
        "tcgx_backlog_commands": report.engine.waiting_commands,
        "tcgx_backlog_still_seconds": report.engine.still_seconds,
        "tcgx_archive_lag_seconds": report.archiver.lag_seconds,
        "tcgx_archive_lag_commands": report.archiver.lag_commands,
    }
    for name, number in numbers.items():
        if number is not None:
            yield Value(name, number)
    for part in (report.engine, report.archiver):
        if part.heartbeat_seconds is not None:
            service = "engine" if part is report.engine else "archiver"
            yield Value("tcgx_heartbeat_age_seconds", part.heartbeat_seconds, (("service", service),))
