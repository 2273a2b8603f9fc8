"""The dashboards are what their definition writes, and ask for what the product emits."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from sidecar.model import ObservedOp
from sidecar.spans import attributes
from tests.advised import advised
from tests.dashboards import FOLDER, dashboards, queries
from tests.processes import NOWHERE, running_observer

FROM_SPANS = {"observer_spans_calls_total", "observer_spans_duration_milliseconds_bucket"}
"""What the Collector makes of spans, under the names in otel-collector.yaml; tests/k8s asks the real one."""
_METRIC = re.compile(r"\b((?:observer|process)_[a-z_]+)\{")
_LABEL = re.compile(r"(?:by \(|[{,] ?)([a-z_]+)(?=[=!),])")


@pytest.fixture
def definition(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The generator, loaded from beside the dashboards."""
    spec = importlib.util.spec_from_file_location("generate", FOLDER.parent / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    monkeypatch.syspath_prepend(str(FOLDER.parent))  # as for a script that is run
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_what_the_definition_writes(definition: ModuleType) -> None:
    """`make dashboards` would change nothing."""
    for path, text in definition.written().items():
        assert path.read_text(encoding="utf-8") == text, "make dashboards"


def test_every_metric_that_is_asked_for_is_one_that_the_observer_gives(tmp_path: Path) -> None:
    """By its name in `/metrics`; the Collector gives the same names."""
    asked = {name for query in queries("prometheus") for name in _METRIC.findall(query.asked)}
    export = {"OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE, "OBSERVER_PROXY_PORT": "0", "OBSERVER_GRPC_PORT": "0"}
    with running_observer(tmp_path, OBSERVER_CYCLE="0.1", **export) as observer:
        events = [
            {"endpoint": "/a", "success": True, "input_summary": "one", "task": f"t-{number}"} for number in range(12)
        ]
        httpx.post(f"{observer.url}/events", json=events, trust_env=False, timeout=30)
        advised(observer.url, "/a", 4)
        text = httpx.get(f"{observer.url}/metrics", trust_env=False, timeout=30).text
    given = set(re.findall(r"^([a-z_]+)[{ ]", text, re.MULTILINE))
    assert len(asked) > 20
    assert asked - FROM_SPANS <= given
    labels = {name for query in queries("prometheus") for name in _LABEL.findall(query.asked)}
    known = set(re.findall(r'[{,]([a-z_]+)="', text))
    assert labels - {"instance", "le", "status_code", "error_type", "observer_op_source"} <= known


def test_every_attribute_that_traceql_asks_for_is_one_that_spans_have() -> None:
    """Fields of ops and the attributes of our own spans; no bracket is left open."""
    ours = {value for name, value in vars(attributes).items() if name.isupper() and isinstance(value, str)}
    ours |= {f"observer.op.{field}" for field in ObservedOp.__struct_fields__}
    asked = queries("tempo")
    assert asked
    for query in asked:
        found = set(re.findall(r"span\.([a-z_.]+)", query.asked))
        assert found <= ours, query.asked
        for opening, closing in ("{}", "()"):
            assert query.asked.count(opening) == query.asked.count(closing)


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    """Each square of the grid belongs to one panel at most."""
    for dashboard in dashboards().values():
        squares = [
            (place["x"] + column, place["y"] + row)
            for place in (panel["gridPos"] for panel in dashboard["panels"])
            for column in range(place["w"])
            for row in range(place["h"])
        ]
        assert len(squares) == len(set(squares))
        assert all(0 <= column < 24 for column, _ in squares)
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(ids) == len(set(ids))
