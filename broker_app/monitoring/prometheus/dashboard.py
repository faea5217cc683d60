"""Grafana dashboard in its JSON model (grafana.com/docs/grafana/latest)."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

from broker_app.metrics import catalogue
from broker_app.monitoring.prometheus.panels import JOB, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker_app.monitoring.prometheus.panel import Panel, PanelRow

_ALL = {"text": "All", "value": "$__all"}
UID = "broker-app"
COLUMNS = 24
_SCHEMA_VERSION = 39  # Grafana 10 and 11; later versions read it
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_HEIGHTS = {"stat": 4, "timeseries": 8}


def dashboard_text() -> str:
    """Return the dashboard as JSON. Job and queue are variables, so it does not depend on the settings."""
    return json.dumps(_dashboard(), indent=1, ensure_ascii=False) + "\n"


def _dashboard() -> dict[str, Any]:
    return {
        "uid": UID,
        "title": "broker-app",
        "description": "Queues, tasks and workers. `broker-app metrics rules` writes the matching alerts.",
        "tags": ["celery", "rabbitmq"],
        "schemaVersion": _SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,  # shared crosshair
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": list(_laid_out()),
    }


def _variables() -> list[dict[str, Any]]:
    job = f"label_values({catalogue.BUILD_INFO.name}, job)"
    queue = f'label_values({catalogue.READY.name}{{job="{JOB}"}}, queue)'
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return [
        source,
        _choice("job", job),
        _choice("queue", queue) | {"multi": True, "includeAll": True, "allValue": ".*", "current": _ALL},
    ]


def _choice(name: str, query: str) -> dict[str, Any]:
    return {"name": name, "type": "query", "datasource": _SOURCE, "query": query, "refresh": 2, "sort": 1}


def _laid_out() -> Iterator[dict[str, Any]]:
    """Yield rows and panels with their grid positions, from the top."""
    numbers, top = count(1), 0
    for row in rows():
        yield {"id": next(numbers), "type": "row", "title": row.title, "gridPos": _place(0, top, COLUMNS, 1)}
        top += 1
        across = _across(row)
        for number, panel in enumerate(row.panels):
            height, width = _HEIGHTS[panel.kind], COLUMNS // across
            down, right = divmod(number, across)
            yield _panel(panel, next(numbers), _place(right * width, top + down * height, width, height))
        top += -(-len(row.panels) // across) * _HEIGHTS[row.panels[0].kind]


def _across(row: PanelRow) -> int:
    return len(row.panels) if row.panels[0].kind == "stat" else 3


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    stacking = {"mode": "normal" if panel.stacked else "none"}
    drawn = {"lineWidth": 1, "fillOpacity": 30 if panel.stacked else 5, "stacking": stacking}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "gridPos": place,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": drawn}, "overrides": []},
        "options": _OPTIONS[panel.kind],
        "targets": [
            {"refId": ref_id, "datasource": _SOURCE, "expr": query.expr, "legendFormat": query.legend}
            for ref_id, query in zip("ABCDEF", panel.queries, strict=False)
        ],
    }


_OPTIONS: dict[str, dict[str, Any]] = {
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none"},
    "timeseries": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
}
