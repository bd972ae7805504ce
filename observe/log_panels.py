"""The panels of logs, in both languages: LogQL for Loki, LogsQL for VictoriaLogs.

`$request` is a variable of the dashboard: the id of a request, or an order_id.
"""

from collections.abc import Sequence
from typing import NamedTuple


class LogPanel(NamedTuple):
    """A panel: a table of lines, or a number a second of lines by a field."""

    title: str
    text: str
    is_lines: bool
    loki: str
    victorialogs: str


LOKI = '{project="tcgx"} | json'
VICTORIALOGS = "project:tcgx"

LOG_PANELS: Sequence[LogPanel] = (
    LogPanel(
        "Lines by level",
        "Errors and warnings stand out.",
        False,
        f'sum by (level) (count_over_time({LOKI} | __error__="" [$__auto]))',
        f"{VICTORIALOGS} | stats by (level) count() lines",
    ),
    LogPanel(
        "Refusals and faults by code",
        "Sampled requests (TCGX_LOG_REQUESTS_ONE_IN), and all that ended with 500 or above.",
        False,
        f'sum by (code) (count_over_time({LOKI} | code!="" [$__auto]))',
        f"{VICTORIALOGS} code:* | stats by (code) count() lines",
    ),
    LogPanel(
        "Errors and warnings",
        "What a person must read.",
        True,
        f'{LOKI} | level=~"warning|error"',
        f"{VICTORIALOGS} level:in(warning,error)",
    ),
    LogPanel(
        "Slow requests",
        "Sampled requests that took 100 ms and longer.",
        True,
        f"{LOKI} | ms >= 100",
        f"{VICTORIALOGS} ms:>=100",
    ),
    LogPanel(
        "The way of a request or an order",
        "All lines with the id that is typed above, from the API to the archive.",
        True,
        f"{LOKI} |= `$request`",
        f'{VICTORIALOGS} "$request"',
    ),
)
