"""The dashboards' panels and their queries, with Grafana's placeholders filled in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.manifests import OBSERVABILITY

FOLDER = OBSERVABILITY / "grafana" / "dashboards"
_FILLED_IN = {"$__rate_interval": "1m", "$__range": "5m", "$instance": ".*"}


@dataclass(frozen=True)
class Query:
    """One query of a panel: *asked* is PromQL or TraceQL, or a search of Jaeger's."""

    name: str
    source: str
    asked: Any
    is_over_time: bool


def dashboards() -> dict[str, dict[str, Any]]:
    """The dashboards by file name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}


def queries(source: str) -> list[Query]:
    """All that ask a data source of this type."""
    return [one for one in _queries() if one.source == source]


def _queries() -> Iterator[Query]:
    for name, dashboard in dashboards().items():
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                source = target["datasource"]["type"]
                asked = target.get("expr") or (target.get("query") if source == "tempo" else target)
                if isinstance(asked, str):
                    for placeholder, value in _FILLED_IN.items():
                        asked = asked.replace(placeholder, value)
                label = f"{name}: {panel['title']} {target['refId']}"
                yield Query(label, source, asked, panel["type"] == "timeseries")
