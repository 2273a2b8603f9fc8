"""Agents that already trace, with the stock SDK exporters and with raw requests, against a running observer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.sdk.trace.export import SpanExportResult

from sidecar.errors import StartError
from sidecar.receivers.otlp_json import protobuf_request
from sidecar.receivers.otlp_wire import Rejected
from tests.fakes import an_op
from tests.fuzz_otlp import Target, fuzz
from tests.observers import client, journal, without_crc
from tests.otlp_doors import channel, doors, exporters, grpc_port, otlp_http_port, sdk_spans
from tests.otlp_receiver import OtlpReceiver, otlp_receiver
from tests.otlp_requests import a_request, a_span, an_op_span, flat
from tests.processes import running_observer

PROTOBUF = "application/x-protobuf"
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


async def test_the_stock_exporters_spans_reach_the_collector_unchanged(tmp_path: Path) -> None:
    """By gRPC and HTTP, gzip or not, either port: the collector gets what the SDK sent, decoded."""
    async with (
        otlp_receiver() as collector,
        doors(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc_endpoint) as running,
        otlp_receiver() as straight,
    ):
        with sdk_spans() as spans:
            wanted = await _sent_straight(straight, spans)
            for count, (name, exporter) in enumerate(exporters(running).items(), 1):
                assert await asyncio.to_thread(exporter.export, spans) is SpanExportResult.SUCCESS, name
                exporter.shutdown()
                # The same bytes are the same request; compressed or not, by whatever door.
                assert running.otlp.intake.repeats == count - 1
        await collector.wait_for(2)
        assert [each for request in collector.requests for each in flat(request)] == wanted


async def _sent_straight(receiver: OtlpReceiver, spans: list[Any]) -> list[Any]:
    exporter = GrpcExporter(endpoint=receiver.grpc_endpoint, insecure=True)
    assert await asyncio.to_thread(exporter.export, spans) is SpanExportResult.SUCCESS
    exporter.shutdown()
    return [each for request in receiver.requests for each in flat(request)]


async def test_an_op_is_learnt_under_its_own_ids_and_leaves_once(tmp_path: Path) -> None:
    """In journal, ring and counts like any op; to the collector goes the span that came, and no second one."""
    span = an_op_span(an_op(op_id="op-1", endpoint="/tools/fill", success=False, error="full", source="otlp"))
    async with (
        otlp_receiver() as collector,
        doors(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc_endpoint) as running,
        client(running) as http,
    ):
        answer = await http.post("/v1/traces", content=a_request(span).SerializeToString(), headers=_type(PROTOBUF))
        assert answer.status_code == 200
        (line,) = journal(tmp_path)
        stats = (await http.get("/stats")).json()
        assert (await http.post("/event", json={"endpoint": "/own", "success": True})).status_code == 200
        await collector.wait_for(2)
    assert (line["trace_id"], line["span_id"]) == (span.trace_id.hex(), span.span_id.hex())
    assert without_crc(line)["endpoint"] == "/tools/fill"
    assert (stats["total"], stats["failures"], stats["by_source"], stats["incidents"]) == (1, 1, {"otlp": 1}, 1)
    assert sorted(each.name for each in collector.spans) == ["/own", "work"]


async def test_json_becomes_the_protobuf_request(tmp_path: Path) -> None:
    """Hex ids, numbers as text, enums as numbers, unknown fields ignored; answered in JSON."""
    span = {
        "traceId": "5B8EFFF798038103D269B633813FC60C",
        "spanId": "EEE19B7EC3C1B174",
        "name": "I'm a server span",
        "startTimeUnixNano": "1544712660000000000",
        "kind": 2,
        "attributes": [{"key": "my.span.attr", "value": {"intValue": "9007199254740993"}}],
        "links": [{"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b173"}],
        "invented": {"later": True},
    }
    bad = {**span, "spanId": "xyz"}
    body = {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {"name": "lib"}, "spans": [span, bad]}]}]}
    async with (
        otlp_receiver() as collector,
        doors(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc_endpoint) as running,
        client(running) as http,
    ):
        answer = await http.post("/v1/traces", json=body)
        await collector.wait_for(1)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["partialSuccess"]["rejectedSpans"] == "1"
    assert answer.json()["partialSuccess"]["errorMessage"].startswith("spanId is 'xyz': it is not hexadecimal")
    (sent,) = collector.spans
    assert (sent.trace_id.hex(), sent.kind, sent.links[0].span_id.hex()) == (
        "5b8efff798038103d269b633813fc60c",
        2,
        "eee19b7ec3c1b173",
    )
    assert sent.attributes[0].value.int_value == 9007199254740993


def _type(media: str) -> dict[str, str]:
    return {"content-type": media}


async def test_a_share_leaves_and_all_is_learnt(tmp_path: Path) -> None:
    """`OBSERVER_EXPORT_SUCCESS_RATIO=0`: of the received traces only those with a failure are passed on."""
    other: dict[str, Any] = {"trace_id": bytes(15) + b"\x07"}
    failed = an_op_span(an_op(op_id="op-1", success=False, error="no", source="otlp"), name="failed")
    spans = [failed, an_op_span(name="good", **other), a_span("sibling")]
    async with (
        otlp_receiver() as collector,
        doors(
            tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc_endpoint, OBSERVER_EXPORT_SUCCESS_RATIO="0"
        ) as running,
        channel(running) as opened,
    ):
        await opened.unary_unary(EXPORT)(a_request(*spans).SerializeToString())
        await collector.wait_for(2)
        assert len(running.ring) == 2
    assert sorted(span.name for span in collector.spans) == ["failed", "sibling"]


async def test_what_is_acknowledged_waits_on_disk_for_the_collector(tmp_path: Path) -> None:
    """The collector is away: spans are acknowledged, the observer stops, and the next one passes them on."""
    request = a_request(a_span("kept"))
    async with otlp_receiver() as collector:
        collector.refusals = 1000
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc_endpoint}
        async with doors(tmp_path, **env) as running, channel(running) as opened:
            await opened.unary_unary(EXPORT)(request.SerializeToString())
            await collector.wait_refused(1)
        collector.refusals = 0
        async with doors(tmp_path, **env):
            await collector.wait_for(1)
    assert [each for sent in collector.requests for each in flat(sent)] == flat(request)


async def test_the_port_in_use_is_named(tmp_path: Path) -> None:
    """Two observers do not share it in silence, each with half of the spans."""
    async with doors(tmp_path) as running:
        with pytest.raises(StartError, match="OBSERVER_GRPC_PORT"):
            async with doors(tmp_path / "second", OBSERVER_GRPC_PORT=str(grpc_port(running))):
                pass


async def test_json_and_protobuf_say_the_same(tmp_path: Path) -> None:
    """A request in protobuf's own JSON mapping, ids in hex, gives the bytes that protobuf would."""
    request = a_request(an_op_span(), a_span("é"))

    said = MessageToDict(request)
    for span, told in zip(
        request.resource_spans[0].scope_spans[0].spans,
        said["resourceSpans"][0]["scopeSpans"][0]["spans"],
        strict=True,
    ):
        told["traceId"], told["spanId"] = span.trace_id.hex(), span.span_id.hex()
    rejected = Rejected()
    assert ExportTraceServiceRequest.FromString(protobuf_request(json.dumps(said).encode(), rejected)) == request
    assert rejected.spans == 0


async def test_httpx_is_answered_on_the_other_port_too(tmp_path: Path) -> None:
    """`OBSERVER_OTLP_HTTP_PORT` has the OTLP paths, and health for `observer doctor`; nothing else."""
    async with doors(tmp_path) as running, httpx.AsyncClient(trust_env=False, timeout=30) as http:
        base = f"http://127.0.0.1:{otlp_http_port(running)}"
        assert (await http.post(f"{base}/v1/traces", json={})).status_code == 200
        assert (await http.get(f"{base}/livez")).json() == {"status": "ok"}
        assert (await http.get(f"{base}/stats")).status_code == 404


def test_broken_requests_do_no_harm(tmp_path: Path) -> None:
    """A short, repeatable run of what `make fuzz-otlp` does at length."""
    with running_observer(tmp_path, OBSERVER_GRPC_PORT="0") as process:
        ready = process.wait_for("observer.ready")
        fuzz(Target(ready["port"], ready["grpc_port"]), 40, derandomize=True)
        assert [event for event in process.events if event["event"] in ("request.failed", "call.failed")] == []
