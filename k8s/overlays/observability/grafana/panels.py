"""What Grafana wants around a query: panels, and dashboards of rows of them. Used by generate.py."""

from __future__ import annotations

from typing import Any, Final

PROMETHEUS: Final = {"type": "prometheus", "uid": "prometheus"}
JAEGER: Final = {"type": "jaeger", "uid": "jaeger"}
TEMPO: Final = {"type": "tempo", "uid": "tempo"}
SERVICE: Final = "lakehouse-observer"
HEIGHT: Final = 8

Panel = dict[str, Any]


def stat(title: str, query: str, unit: str = "short", about: str = "") -> Panel:
    """One number of now."""
    return {
        **_panel("stat", title, PROMETHEUS, about),
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}},
        "targets": [_promql(query, "")],
    }


def over_time(title: str, unit: str, *queries: tuple[str, str], about: str = "", least: int | None = 0) -> Panel:
    """Lines; each query with what its lines are called. The axis begins at *least*."""
    return {
        **_panel("timeseries", title, PROMETHEUS, about),
        "fieldConfig": {"defaults": {"unit": unit, "min": least}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [_promql(query, name, chr(ord("A") + index)) for index, (query, name) in enumerate(queries)],
    }


def table(title: str, by: list[str], *columns: tuple[str, str, str], about: str = "") -> Panel:
    """A row for each combination of the labels in *by*; a column is a name, a unit and a query for now."""
    letters = [chr(ord("A") + index) for index in range(len(columns))]
    named = {f"Value #{letter}": name for letter, (name, _, _) in zip(letters, columns, strict=True)}
    return {
        **_panel("table", title, PROMETHEUS, about),
        "fieldConfig": {
            "defaults": {},
            "overrides": [
                {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": unit}]}
                for name, unit, _ in columns
            ],
        },
        "targets": [
            {**_promql(query, "", letter), "format": "table", "instant": True, "range": False}
            for letter, (_, _, query) in zip(letters, columns, strict=True)
        ],
        "transformations": [
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": {"Time": True},
                    "renameByName": named,
                    "indexByName": {name: place for place, name in enumerate([*by, *named])},
                },
            },
        ],
    }


def jaeger(title: str, operation: str, tags: str, about: str = "") -> Panel:
    """Traces that Jaeger finds."""
    target = {"refId": "A", "queryType": "search", "service": SERVICE, "limit": 20}
    wanted = {name: value for name, value in (("operation", operation), ("tags", tags)) if value}
    return {**_panel("table", title, JAEGER, about), "targets": [{**target, **wanted, "datasource": JAEGER}]}


def tempo(title: str, query: str, about: str = "") -> Panel:
    """Spans that Tempo finds by TraceQL."""
    target = {"refId": "A", "queryType": "traceql", "tableType": "spans", "query": query, "limit": 20}
    return {**_panel("table", title, TEMPO, about), "targets": [{**target, "datasource": TEMPO}]}


def _panel(kind: str, title: str, source: dict[str, str], about: str) -> Panel:
    return {"type": kind, "title": title, "datasource": source, **({"description": about} if about else {})}


def _promql(query: str, name: str, letter: str = "A") -> dict[str, Any]:
    return {"refId": letter, "datasource": PROMETHEUS, "expr": query, "legendFormat": name or "__auto"}


def dashboard(uid: str, title: str, rows: list[list[Panel]]) -> dict[str, Any]:
    """The JSON that Grafana is provisioned with."""
    return {
        "uid": f"lakehouse-{uid}",
        "title": title,
        "tags": [SERVICE],
        "schemaVersion": 39,
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "links": [{"type": "dashboards", "title": "More", "tags": [SERVICE], "asDropdown": False, "keepTime": True}],
        "templating": {"list": [_instances()]},
        "panels": _placed(rows),
    }


def _instances() -> dict[str, Any]:
    query = "label_values(observer_cycles_total, instance)"
    return {
        "name": "instance",
        "label": "Observer",
        "type": "query",
        "datasource": PROMETHEUS,
        "query": {"query": query, "refId": "instances"},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }


def _placed(rows: list[list[Panel]]) -> list[Panel]:
    """Rows of panels side by side; those of single numbers are half as high."""
    panels: list[Panel] = []
    top = 0
    for row in rows:
        high = HEIGHT // 2 if row[0]["type"] == "stat" else HEIGHT
        wide = 24 // len(row)
        for column, panel in enumerate(row):
            place = {"x": column * wide, "y": top, "w": wide, "h": high}
            panels.append({"id": len(panels) + 1, "gridPos": place, **panel})
        top += high
    return panels
