"""The panels of an exchange: one definition for Grafana (`observe/grafana.py`) and for `/operate`.

Expressions are PromQL. `{window}` stands for the window of rates, which each place fills in. A colour has one meaning
on all panels: a part of the exchange, a bound, or a fault. Series that are no part have `OTHERS` in turn.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

Unit = Literal["seconds", "per second", "number", "bytes", "cores", "share"]
Role = Literal["api", "engine", "archiver", "redis", "postgres", "bound", "fault", "others"]

COLORS: Mapping[Role, str] = {
    "api": "#2e86c1",
    "engine": "#d9730d",
    "archiver": "#2e8b57",
    "redis": "#8a5a44",
    "postgres": "#7d5ba6",
    "bound": "#8d959e",
    "fault": "#c0182b",
}
OTHERS = ("#173f6b", "#5ab4c5", "#b58900", "#6c8f1f", "#c86fa8", "#3f4a56", "#9aa7d0", "#c9a27a")


class Query(NamedTuple):
    """An expression and the name of its series; `{{label}}` in it stands for the value of a label."""

    expression: str
    legend: str
    color: Role = "others"


class Panel(NamedTuple):
    """Queries that share an axis. `text`: what to look for."""

    title: str
    unit: Unit
    text: str
    queries: Sequence[Query]


class Row(NamedTuple):
    """Panels that answer one question."""

    title: str
    panels: Sequence[Panel]


def _quantile(share: float, metric: str, selector: str = "", by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{selector}[{{window}}])))"


def _mean(metric: str) -> str:
    return f"sum(rate({metric}_sum[{{window}}])) / sum(rate({metric}_count[{{window}}]))"


def _rate(metric: str, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({metric}[{{window}}]))"


ANSWERS = 'tcgx_http_requests_total{operation!~"get_health|get_readiness|get_liveness"'
"""Answers without health checks: their 503 is no fault of a call. A further selector and the brace follow."""
ORDERS = '{operation=~"place_order|place_orders"}'
NOT_WORKING = 'tcgx_part_status{status!~"ok|warning"}'

ROWS: Sequence[Row] = (
    Row(
        "Is all well?",
        (
            Panel(
                "Parts that do not work",
                "number",
                "0 is good. GET /health names the parts.",
                [Query(f"count(max by (part) ({NOT_WORKING}) == 1) or vector(0)", "parts", "fault")],
            ),
            Panel(
                "Processes that answer",
                "number",
                "As many of each kind as were started.",
                [
                    Query('sum(up{job="tcgx-api"})', "api", "api"),
                    Query('sum(up{job="tcgx-engine"})', "engine", "engine"),
                    Query('sum(up{job="tcgx-archiver"})', "archiver", "archiver"),
                ],
            ),
            Panel(
                "Commands",
                "per second",
                "Three lines, one upon the other. A gap between two is a part that falls behind.",
                [
                    Query(_rate("tcgx_appended_commands_total"), "appended", "api"),
                    Query(_rate("tcgx_matched_commands_total"), "matched", "engine"),
                    Query(_rate("tcgx_archived_commands_total"), "archived", "archiver"),
                ],
            ),
            Panel(
                "Commands that wait",
                "number",
                "For the engine and for the archiver. Near the bound, orders are refused.",
                [
                    Query("max(tcgx_backlog_commands)", "to be matched", "engine"),
                    Query("max(tcgx_archive_lag_commands)", "to be archived", "archiver"),
                ],
            ),
        ),
    ),
    Row(
        "What do clients see?",
        (
            Panel(
                "Answers by status",
                "per second",
                "Without health checks. 429 and 503 are refusals under load, 500 is a defect.",
                [
                    Query(f'sum by (status) (rate({ANSWERS}, status!~"5.."}}[{{window}}]))', "{{status}}"),
                    Query(f'sum(rate({ANSWERS}, status=~"5.."}}[{{window}}])) or vector(0)', "5xx", "fault"),
                ],
            ),
            Panel(
                "Refused commands by code",
                "per second",
                "Codes as in the answers: overloaded, unavailable, rate_limited, card_halted, …",
                [Query(f"{_rate('tcgx_refused_commands_total', 'code')} or vector(0)", "{{code}}")],
            ),
            Panel(
                "Time of an answer to orders",
                "seconds",
                "From the whole request to the answer, which waits for the fsync of Redis.",
                [
                    Query(_quantile(0.5, "tcgx_http_request_seconds", ORDERS), "50 % within", "others"),
                    Query(_quantile(0.99, "tcgx_http_request_seconds", ORDERS), "99 % within", "api"),
                ],
            ),
            Panel(
                "Answers by operation",
                "per second",
                "What clients ask for.",
                [Query(_rate("tcgx_http_requests_total", "operation"), "{{operation}}")],
            ),
        ),
    ),
    Row(
        "How long does an order take?",
        (
            Panel(
                "Stages of sampled orders, 90 % within",
                "seconds",
                "One in TCGX_TRACE_ONE_IN orders, from its request to its row in the archive.",
                [
                    Query(_quantile(0.9, "tcgx_order_stage_seconds", '{stage="append"}'), "append", "api"),
                    Query(_quantile(0.9, "tcgx_order_stage_seconds", '{stage="match"}'), "match", "engine"),
                    Query(_quantile(0.9, "tcgx_order_stage_seconds", '{stage="archive"}'), "archive", "archiver"),
                ],
            ),
            Panel(
                "From the append, 99 % within",
                "seconds",
                "Of the newest entry of a call or transaction: the least delay of all orders in it.",
                [
                    Query(_quantile(0.99, "tcgx_match_delay_seconds"), "matched", "engine"),
                    Query(_quantile(0.99, "tcgx_archive_delay_seconds"), "archived", "archiver"),
                ],
            ),
            Panel(
                "Calls of Redis and transactions, 99 % within",
                "seconds",
                "Appends wait for the fsync; match calls keep to TCGX_MATCH_HOLD_MS each.",
                [
                    Query(_quantile(0.99, "tcgx_append_seconds"), "append", "api"),
                    Query(_quantile(0.99, "tcgx_match_seconds"), "match", "engine"),
                    Query("max(tcgx_match_longest_seconds)", "longest match", "others"),
                    Query(_quantile(0.99, "tcgx_archive_transaction_seconds"), "transaction", "archiver"),
                ],
            ),
            Panel(
                "Commands of a call, on average",
                "number",
                "Calls grow with the load. At 1,000 they are as large as they get.",
                [
                    Query(_mean("tcgx_append_commands"), "append", "api"),
                    Query(_mean("tcgx_match_commands"), "match", "engine"),
                    Query(_mean("tcgx_archive_transaction_commands"), "transaction", "archiver"),
                ],
            ),
        ),
    ),
    Row(
        "Is there room?",
        (
            Panel(
                "Memory of Redis",
                "bytes",
                "From TCGX_REDIS_MEMORY_PERCENT of the bound on, orders are refused.",
                [
                    Query("max(tcgx_redis_memory_used_bytes)", "used", "redis"),
                    Query("max(tcgx_redis_memory_max_bytes) > 0", "bound", "bound"),
                    Query("max(tcgx_redis_aof_bytes)", "AOF on disk", "others"),
                ],
            ),
            Panel(
                "Entries of a card in Redis",
                "number",
                "Log and events. They grow while the archiver does not trim.",
                [Query("max by (card, stream) (tcgx_stream_entries)", "{{card}} {{stream}}")],
            ),
            Panel(
                "Lag of the archive",
                "seconds",
                "How old the oldest command is that is matched and not archived.",
                [Query("max(tcgx_archive_lag_seconds)", "lag", "archiver")],
            ),
            Panel(
                "Connections",
                "number",
                "Of clients, of streams, and to the servers.",
                [
                    Query("sum(tcgx_connections)", "clients", "api"),
                    Query("sum(tcgx_streams)", "streams", "others"),
                    Query("max(tcgx_redis_clients)", "Redis", "redis"),
                    Query("sum(tcgx_postgres_connections)", "PostgreSQL", "postgres"),
                ],
            ),
        ),
    ),
    Row(
        "What is busy?",
        (
            Panel(
                "CPU",
                "cores",
                "At 1 a process is busy all the time: more API processes help the API, nothing helps Redis.",
                [
                    Query('sum(rate(process_cpu_seconds_total{job="tcgx-api"}[{window}]))', "api", "api"),
                    Query('sum(rate(process_cpu_seconds_total{job="tcgx-engine"}[{window}]))', "engine", "engine"),
                    Query(
                        'sum(rate(process_cpu_seconds_total{job="tcgx-archiver"}[{window}]))', "archiver", "archiver"
                    ),
                    Query("max(rate(tcgx_redis_cpu_seconds_total[{window}]))", "Redis", "redis"),
                ],
            ),
            Panel(
                "Time of Redis in the Lua library",
                "share",
                "Of each second. The rest is left to reads, fsyncs and the network.",
                [Query("max(rate(tcgx_redis_function_seconds_total[{window}]))", "Lua", "redis")],
            ),
            Panel(
                "Memory of processes",
                "bytes",
                "Flat under a steady load.",
                [
                    Query('max(process_resident_memory_bytes{job="tcgx-api"})', "api, the largest", "api"),
                    Query('max(process_resident_memory_bytes{job="tcgx-engine"})', "engine", "engine"),
                    Query('max(process_resident_memory_bytes{job="tcgx-archiver"})', "archiver", "archiver"),
                ],
            ),
            Panel(
                "Open files, of what is allowed",
                "share",
                "Near 1 new connections are refused.",
                [
                    Query('max(process_open_fds{job="tcgx-api"} / process_max_fds)', "api, the fullest", "api"),
                    Query('max(process_open_fds{job="tcgx-engine"} / process_max_fds)', "engine", "engine"),
                    Query('max(process_open_fds{job="tcgx-archiver"} / process_max_fds)', "archiver", "archiver"),
                ],
            ),
        ),
    ),
)


def panels() -> Sequence[Panel]:
    """All panels in order."""
    return [panel for row in ROWS for panel in row.panels]


def filled(query: Query, window: str) -> str:
    """The expression of a query with this window of rates."""
    return query.expression.replace("{window}", window)
