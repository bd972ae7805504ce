"""The alerts of an exchange. Each has a line in docs/operations.md ("Alerts"), which says what to do."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from observe.panels import ANSWERS

RUNBOOK = "docs/operations.md#alerts"


class Alert(NamedTuple):
    """An alert fires once its expression has had a result for `seconds`. `page`: somebody must look at once."""

    name: str
    expression: str
    seconds: int
    severity: Literal["page", "ticket"]
    summary: str


def _part(names: str) -> str:
    return f'max by (part, status) (tcgx_part_status{{part=~"{names}", status!~"ok|warning|unknown"}}) == 1'


ALERTS: Sequence[Alert] = (
    Alert(
        "TcgxProcessDown",
        'up{job=~"tcgx-.*"} == 0',
        60,
        "page",
        "{{ $labels.job }} at {{ $labels.instance }} answers no scrape: it has ended, or it hangs",
    ),
    Alert(
        "TcgxNoApi",
        'absent(tcgx_part_status{part="redis"})',
        60,
        "page",
        "no API process tells how the exchange is",
    ),
    Alert(
        "TcgxOrdersRefused",
        _part("redis|functions|history|backlog"),
        30,
        "page",
        "no order can be appended: {{ $labels.part }} is {{ $labels.status }}",
    ),
    Alert("TcgxEngineDown", _part("engine"), 30, "page", "orders are not matched: engine is {{ $labels.status }}"),
    Alert(
        "TcgxArchiverDown",
        _part("archiver"),
        60,
        "page",
        "nothing is archived, and Redis fills up: archiver is {{ $labels.status }}",
    ),
    Alert(
        "TcgxPostgresqlDown",
        _part("postgresql"),
        60,
        "page",
        "PostgreSQL is {{ $labels.status }}: no logins, no archive, no old orders",
    ),
    Alert(
        "TcgxBacklogGrows",
        'max(tcgx_backlog_commands) > 0.25 * min(tcgx_setting{name="backlog_max"})',
        60,
        "ticket",
        "{{ $value }} commands wait to be matched",
    ),
    Alert(
        "TcgxArchiveLags",
        "max(tcgx_archive_lag_seconds) > 60",
        60,
        "ticket",
        "the archive is {{ $value }} s behind",
    ),
    Alert(
        "TcgxRedisMemory",
        "max(tcgx_redis_memory_used_bytes) / (max(tcgx_redis_memory_max_bytes) > 0) > 0.8",
        60,
        "page",
        "Redis uses {{ $value | humanizePercentage }} of its maxmemory; at 90 % orders are refused",
    ),
    Alert(
        "TcgxRedisDisk", "max(tcgx_redis_aof_failed) == 1", 0, "page", "Redis cannot write its AOF: the disk is full"
    ),
    Alert(
        "TcgxFaults",
        f'sum(rate({ANSWERS}, status=~"5.."}}[5m])) / sum(rate({ANSWERS}}}[5m])) > 0.01',
        120,
        "page",
        "{{ $value | humanizePercentage }} of all answers but health checks are 5xx",
    ),
    Alert(
        "TcgxSlowAnswers",
        "histogram_quantile(0.99, sum by (le) "
        '(rate(tcgx_http_request_seconds_bucket{operation="place_order"}[5m]))) > 0.5',
        300,
        "ticket",
        "one in a hundred orders waits for {{ $value }} s and more",
    ),
    Alert(
        "TcgxMatchFails",
        "sum by (card) (increase(tcgx_match_failures_total[5m])) > 0",
        60,
        "page",
        "match calls of {{ $labels.card }} are refused",
    ),
    Alert(
        "TcgxLogEntriesRejected",
        "sum by (card) (increase(tcgx_rejected_entries_total[1h])) > 0",
        0,
        "ticket",
        "entries in the log of {{ $labels.card }} are no orders",
    ),
    Alert(
        "TcgxRestarts",
        'changes(process_start_time_seconds{job=~"tcgx-.*"}[15m]) > 3',
        0,
        "ticket",
        "{{ $labels.job }} at {{ $labels.instance }} starts again and again",
    ),
    Alert(
        "TcgxFilesRunShort",
        'max by (job, instance) (process_open_fds{job=~"tcgx-.*"} / process_max_fds) > 0.8',
        60,
        "ticket",
        "{{ $labels.job }} at {{ $labels.instance }} has {{ $value | humanizePercentage }} of its files open",
    ),
)
