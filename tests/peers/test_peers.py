"""With the real Collector and the real Jaeger: what is posted here is found there, and is the same op."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from sidecar.model import ObservedOp
from sidecar.spans.op_span import op_from_attributes
from tests.peers import peers
from tests.peers.peers import Collector, Jaeger
from tests.processes import Process, running_observer

pytestmark = [pytest.mark.skipif(bool(peers.missing()), reason=peers.missing() or "built")]

_EVENTS: list[dict[str, Any]] = [
    {
        "role": "welder",
        "success": True,
        "count": 3,
        "duration_ms": 12.5,
        "features": {"certified": True, "score": 0.25},
    },
    {"endpoint": "constructor", "error": "shard 7 timed out", "error_type": "timeout", "sig_hash": "ab12"},
    {"count": 2**62 + 1, "features": {"n": 2**63 - 1, "small": -(2**63), "": "empty key", "int": 1, "float": 1.0}},
    {"input_summary": "lone \ud800 and \x00", "shift": {"deep": [1, 2]}, "unknown": 10**30, "extra": {"k": "v"}},
    {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "parent_span_id": "00f067aa0ba902b7", "success": "true"},
    {f"field {number}": number for number in range(200)},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="module")
def jaeger(folder: Path) -> Iterator[Jaeger]:
    with peers.jaeger(folder) as running:
        yield running


@pytest.fixture(scope="module")
def collector(folder: Path, jaeger: Jaeger) -> Iterator[Collector]:
    with peers.collector(folder, jaeger.otlp) as running:
        yield running


def test_the_collector_finds_nothing_wrong_with_its_configuration() -> None:
    """`otelcol validate` is content."""
    verdict = peers.validated()
    assert (verdict.returncode, verdict.stderr) == (0, "")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_ops_are_found_in_jaeger_and_are_the_same_there(
    collector: Collector, jaeger: Jaeger, tmp_path: Path, protocol: str
) -> None:
    """Event → span → OTLP → Collector → Jaeger → query API → op: nothing is lost on the way, and nothing changed."""
    endpoint = collector.grpc if protocol == "grpc" else collector.http
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    with running_observer(tmp_path, **env) as observer:
        for event in _EVENTS:
            _post(observer, event)
        sent = _ops(observer)
        assert len(sent) == len(_EVENTS)
        for op in sent:
            assert op.trace_id is not None
            same = [
                _op(span) for span in jaeger.spans(op.trace_id, 1) if _tags(span).get("observer.op.op_id") == op.op_id
            ]
            assert same == [op]


def test_a_correction_is_linked_to_the_failures_that_it_is_about(
    collector: Collector, jaeger: Jaeger, tmp_path: Path
) -> None:
    """Jaeger shows the links as references."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc, "OBSERVER_CYCLE": "0.2"}
    row = {"sig_hash": "ab12", "task_class": "staffing.fill", "correction": "ask for fewer", "reason": "closed"}
    with running_observer(tmp_path, **env) as observer:
        failed = _post(observer, {"error": "closed", "sig_hash": "ab12"})
        (tmp_path / "corrections.jsonl").write_text(json.dumps(row) + "\n")
        correction = peers.waited_for(lambda: next((op for op in _ops(observer) if op.correction), None))
        assert correction.trace_id is not None
        (span,) = jaeger.spans(correction.trace_id, 1)
        assert {"traceID": failed["trace_id"], "spanID": failed["span_id"]}.items() <= span["references"][0].items()


def test_the_collector_makes_metrics_of_the_spans(collector: Collector, tmp_path: Path) -> None:
    """Calls by endpoint, status and source, as the dashboards read them."""
    with running_observer(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc) as observer:
        _post(observer, {"endpoint": "/counted", "error": "no"})

        def counted() -> str | None:
            lines = _get(collector.metrics).text.splitlines()
            return next((line for line in lines if "calls" in line and 'span_name="/counted"' in line), None)

        line = peers.waited_for(counted)
    assert 'status_code="STATUS_CODE_ERROR"' in line
    assert 'observer_op_source="scenario"' in line


def _ops(observer: Process) -> list[ObservedOp]:
    ops = _get(f"{observer.url}/ops?limit=100").json()["ops"]
    return [msgspec.convert(op, ObservedOp) for op in ops]


def _get(url: str) -> httpx.Response:
    return httpx.get(url, trust_env=False, timeout=peers.PATIENCE_S)


def _post(observer: Process, event: dict[str, Any]) -> Any:
    """The answer to *event*, which is taken."""
    sent = json.dumps(event)  # by us, as it may hold half a character
    answer = httpx.post(f"{observer.url}/event", content=sent, trust_env=False, timeout=peers.PATIENCE_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _tags(span: dict[str, Any]) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def _op(span: dict[str, Any]) -> ObservedOp | None:
    """The op that a span of Jaeger's query API says.

    Its JSON writes whole floats as integers, and integers that JavaScript cannot hold as text; their types tell.
    """
    read = {"float64": float, "int64": int}
    typed = {tag["key"]: read.get(tag["type"], lambda value: value)(tag["value"]) for tag in span["tags"]}
    parent = next((ref["spanID"] for ref in span.get("references", []) if ref["refType"] == "CHILD_OF"), None)
    return op_from_attributes(typed, span["traceID"], span["spanID"], parent)
