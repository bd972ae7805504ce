"""The rules of alerts, in promtool: each fires when its case is bad, and not before, and not when it is well."""

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from observe import files
from observe.alerts import ALERTS, Alert
from testing.prometheus import MISSING, PROMTOOL

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


class Case(NamedTuple):
    """Series, a value a minute, that make an alert fire, and series that do not."""

    bad: dict[str, str]
    well: dict[str, str]


def part(name: str, status: str) -> Case:
    """A part that has this status for half an hour, and one that is well."""
    bad, well = (f'tcgx_part_status{{part="{name}",status="{each}"}}' for each in (status, "ok"))
    return Case({bad: "1x30", well: "0x30"}, {bad: "0x30", well: "1x30"})


def rising(series: str, *others: str) -> Case:
    """A counter that rises by 10 a minute, and one that stands still."""
    return Case({series: "0+10x70"} | dict.fromkeys(others, "0+10x70"), {series: "7x70"})


BUCKET = 'tcgx_http_request_seconds_bucket{operation="place_order",le="%s"}'
USED, MAX = "tcgx_redis_memory_used_bytes", "tcgx_redis_memory_max_bytes"
BACKLOG_MAX = 'tcgx_setting{name="backlog_max"}'
REQUESTS = 'tcgx_http_requests_total{operation="place_order",status="%s"}'
API = '{job="tcgx-api",instance="a"}'

CASES = {
    "TcgxProcessDown": Case({f"up{API}": "0x30"}, {f"up{API}": "1x30"}),
    "TcgxNoApi": Case({"up": "1x30"}, {'tcgx_part_status{part="redis",status="ok"}': "0x30"}),
    "TcgxOrdersRefused": part("redis", "refused"),
    "TcgxEngineDown": part("engine", "hung"),
    "TcgxArchiverDown": part("archiver", "missing"),
    "TcgxPostgresqlDown": part("postgresql", "missing"),
    "TcgxBacklogGrows": Case(
        {"tcgx_backlog_commands": "300000x30", BACKLOG_MAX: "1000000x30"},
        {"tcgx_backlog_commands": "200000x30", BACKLOG_MAX: "1000000x30"},
    ),
    "TcgxArchiveLags": Case({"tcgx_archive_lag_seconds": "61x30"}, {"tcgx_archive_lag_seconds": "59x30"}),
    "TcgxRedisMemory": Case({USED: "81x30", MAX: "100x30"}, {USED: "81x30", MAX: "0x30"}),
    "TcgxRedisDisk": Case({"tcgx_redis_aof_failed": "1x30"}, {"tcgx_redis_aof_failed": "0x30"}),
    "TcgxFaults": Case(
        {REQUESTS % 202: "0+97x30", REQUESTS % 503: "0+3x30"}, {REQUESTS % 202: "0+1000x30", REQUESTS % 503: "0+3x30"}
    ),
    "TcgxSlowAnswers": Case(
        {BUCKET % "0.5": "0+95x30", BUCKET % "1.0": "0+100x30", BUCKET % "+Inf": "0+100x30"},
        {BUCKET % "0.5": "0+100x30", BUCKET % "1.0": "0+100x30", BUCKET % "+Inf": "0+100x30"},
    ),
    "TcgxMatchFails": rising('tcgx_match_failures_total{card="pikachu"}'),
    "TcgxLogEntriesRejected": rising('tcgx_rejected_entries_total{card="pikachu"}'),
    "TcgxRestarts": Case(
        {f"process_start_time_seconds{API}": "0+60x30"}, {f"process_start_time_seconds{API}": "100x30"}
    ),
    "TcgxFilesRunShort": Case(
        {f"process_open_fds{API}": "90x30", f"process_max_fds{API}": "100x30"},
        {f"process_open_fds{API}": "70x30", f"process_max_fds{API}": "100x30"},
    ),
}

NAMES = [alert.name for alert in ALERTS]


def promtool(*words: str, where: Path) -> str:
    """What promtool says to these words; it must succeed."""
    if PROMTOOL is None:
        pytest.skip(MISSING)
    done = subprocess.run([PROMTOOL, *words], cwd=where, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rule_test(alert: Alert, series: dict[str, str], *, fires: bool) -> dict[str, Any]:
    """A unit test of promtool: whether the alert is among those that fire after 20 minutes."""
    asked = f'count(ALERTS{{alertname="{alert.name}",alertstate="firing"}}) > bool 0 or vector(0)'
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": asked, "eval_time": "20m", "exp_samples": [{"labels": "{}", "value": int(fires)}]},
        ],
    }


def test_every_alert_has_a_case() -> None:
    assert list(CASES) == NAMES


def test_alerts_fire_when_they_should_and_not_otherwise(tmp_path: Path) -> None:
    tests = [
        rule_test(alert, series, fires=fires)
        for alert in ALERTS
        for series, fires in ((CASES[alert.name].bad, True), (CASES[alert.name].well, False))
    ]
    (tmp_path / "alerts.yml").write_text(files.text(files.rules()))
    (tmp_path / "test.yml").write_text(
        json.dumps({"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": tests})
    )

    assert "SUCCESS" in promtool("test", "rules", "test.yml", where=tmp_path)


def test_the_committed_configuration_is_valid() -> None:
    folder = ROOT / "deploy" / "observability" / "prometheus"

    assert "SUCCESS" in promtool("check", "config", "prometheus.yml", where=folder)


@pytest.mark.parametrize("name", files.files())
def test_the_committed_files_are_those_of_the_definitions(name: str) -> None:
    """`python -m observe.files` writes them."""
    assert (files.FOLDER / name).read_text() == files.text(files.files()[name])


def test_every_alert_has_a_line_in_the_runbook_and_no_line_is_without_an_alert() -> None:
    section = OPERATIONS.partition("## Alerts\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `Tcgx")]

    assert [row[0].strip("| `") for row in rows] == NAMES
    assert all(len(row) == 3 and len(row[2]) > 20 for row in rows)
