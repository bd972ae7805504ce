"""`python -m observe.files`: writes the files of deploy/observability that are made of the definitions.

Rules of alerts are JSON, which is YAML as well. A test compares the files with the definitions.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from observe import grafana
from observe.alerts import ALERTS, RUNBOOK, Alert

FOLDER = Path(__file__).parents[1] / "deploy" / "observability"


def rules(alerts: Iterable[Alert] = ALERTS) -> dict[str, Any]:
    """The rules for Prometheus."""
    return {"groups": [{"name": "tcgx", "rules": [_rule(alert) for alert in alerts]}]}


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        "for": f"{alert.seconds}s",
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "runbook": f"{RUNBOOK} ({alert.name})"},
    }


def files() -> Mapping[str, Any]:
    """The content of each file by its path within deploy/observability."""
    return {
        "prometheus/alerts.yml": rules(),
        "grafana/dashboards/tcgx.json": grafana.metrics_dashboard(),
        "grafana/dashboards/tcgx-logs-loki.json": grafana.logs_dashboard("loki"),
        "grafana/dashboards/tcgx-logs-victorialogs.json": grafana.logs_dashboard("victorialogs"),
    }


def text(content: Any) -> str:
    """The text of a file."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Writes all files."""
    for name, content in files().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
