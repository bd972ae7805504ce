"""Dashboards of Grafana as JSON, made of `observe/panels.py` and `observe/log_panels.py`."""

from collections.abc import Mapping, Sequence
from typing import Any

from observe.log_panels import LOG_PANELS, LogPanel
from observe.panels import COLORS, OTHERS, ROWS, Panel, Query, Unit, filled

SCHEMA_VERSION = 39
COLUMNS = 24
"""The columns of Grafana's grid."""
A_LINE = 2
"""Panels side by side."""
HEIGHT = 8

UNITS: Mapping[Unit, str] = {
    "seconds": "s",
    "per second": "cps",
    "number": "short",
    "bytes": "bytes",
    "cores": "short",
    "share": "percentunit",
}
PROMETHEUS = {"type": "prometheus", "uid": "tcgx-prometheus"}
LOKI = {"type": "loki", "uid": "tcgx-loki"}
VICTORIALOGS = {"type": "victoriametrics-logs-datasource", "uid": "tcgx-victorialogs"}
WINDOW = "$__rate_interval"


def metrics_dashboard() -> dict[str, Any]:
    """The dashboard of metrics."""
    made: list[dict[str, Any]] = []
    y = 0
    for row in ROWS:
        made.append({"type": "row", "title": row.title, "collapsed": False, "gridPos": _place(y, 0, COLUMNS, 1)})
        y += 1
        for place, panel in enumerate(row.panels):
            column = place % A_LINE
            made.append(_panel(panel) | {"gridPos": _place(y, column * COLUMNS // A_LINE, COLUMNS // A_LINE, HEIGHT)})
            if column == A_LINE - 1:
                y += HEIGHT
    return _dashboard("tcgx", "tcgx", made, [])


def logs_dashboard(flavour: str) -> dict[str, Any]:
    """The dashboard of logs. `flavour`: `loki` or `victorialogs`."""
    source = LOKI if flavour == "loki" else VICTORIALOGS
    made = [
        _log_panel(panel, panel.loki if flavour == "loki" else panel.victorialogs, source)
        | {"gridPos": _place(place * HEIGHT, 0, COLUMNS, HEIGHT)}
        for place, panel in enumerate(LOG_PANELS)
    ]
    request = {"type": "textbox", "name": "request", "label": "request id or order", "query": "", "current": {}}
    return _dashboard(f"tcgx-logs-{flavour}", f"tcgx logs ({flavour})", made, [request])


def _dashboard(
    uid: str, title: str, made: Sequence[dict[str, Any]], variables: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "uid": uid,
        "title": title,
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "tags": ["tcgx"],
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": list(variables)},
        "panels": [panel | {"id": number} for number, panel in enumerate(made, 1)],
    }


def _place(y: int, x: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": PROMETHEUS,
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": PROMETHEUS, "expr": filled(query, WINDOW)}
            | {"legendFormat": query.legend}
            for place, query in enumerate(panel.queries)
        ],
        "fieldConfig": {
            "defaults": {
                "unit": UNITS[panel.unit],
                "min": 0,
                "custom": {"fillOpacity": 8, "lineWidth": 2, "showPoints": "never", "spanNulls": False},
            },
            "overrides": list(_overrides(panel.queries)),
        },
        "options": {"tooltip": {"mode": "multi"}, "legend": {"displayMode": "list", "placement": "bottom"}},
    }


def _overrides(queries: Sequence[Query]) -> Sequence[dict[str, Any]]:
    """A fixed colour for each series that is a part, a bound or a fault."""
    found = []
    others = iter(OTHERS)
    for query in queries:
        if "{{" in query.legend:
            continue
        color = next(others) if query.color == "others" else COLORS[query.color]
        properties: list[dict[str, Any]] = [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}]
        if query.color == "bound":
            properties.append({"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 6]}})
        found.append({"matcher": {"id": "byName", "options": query.legend}, "properties": properties})
    return found


def _log_panel(panel: LogPanel, expression: str, source: Mapping[str, str]) -> dict[str, Any]:
    target: dict[str, Any] = {"refId": "A", "datasource": source, "expr": expression}
    if not panel.is_lines and source is VICTORIALOGS:
        target["queryType"] = "statsRange"
    return {
        "type": "logs" if panel.is_lines else "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": source,
        "targets": [target],
        "options": {"showTime": True, "sortOrder": "Descending", "enableLogDetails": True} if panel.is_lines else {},
    }
