"""Agents that already trace, with the stock SDK exporters and with raw requests, against a running observer."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.json_format import MessageToDict
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sidecar.errors import StartError
from sidecar.receivers.otlp_json import protobuf_request
from sidecar.receivers.otlp_wire import Rejected
from sidecar.spans.op_span import op_attributes
from tests.fakes import an_op
from tests.fuzz_otlp import Target, fuzz
from tests.observers import FaultyFile, client, journal, without_crc
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
    (sent,) = collector.spans
    assert (sent.trace_id.hex(), sent.kind, sent.links[0].span_id.hex()) == (
        "5b8efff798038103d269b633813fc60c",
        2,
        "eee19b7ec3c1b173",
    )
    assert sent.attributes[0].value.int_value == 9007199254740993


def _type(media: str) -> dict[str, str]:
    return {"content-type": media}


def _bomb() -> bytes:
    return gzip.compress(bytes(64 * 2**20))


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"\xff\xff", "identity", 400),
        (b"not gzip", "gzip", 400),
        (_bomb(), "gzip", 413),
        (bytes(20 * 2**20 + 1), "identity", 413),
        (b"", "deflate", 415),
    ],
)
async def test_what_http_refuses_is_a_status_in_protobuf(
    tmp_path: Path, body: bytes, encoding: str, status: int
) -> None:
    """Malformed, too large, too large once decompressed: none is retried, all say why, Content-Type echoed."""
    async with doors(tmp_path) as running, client(running) as http:
        headers = {**_type(PROTOBUF), "content-encoding": encoding}
        answer = await http.post("/v1/traces", content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROTOBUF)
    assert Status.FromString(answer.content).message
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"resourceSpans": 1}', b'{"resourceSpans": [1]}', b"\xff"])
async def test_malformed_json_is_a_status_in_json(tmp_path: Path, body: bytes) -> None:
    """As our other errors it has `error` too."""
    async with doors(tmp_path) as running, client(running) as http:
        answer = await http.post("/v1/traces", content=body, headers=_type("application/json; charset=utf-8"))
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["code"] == 3
    assert answer.json()["error"] == answer.json()["message"]


@pytest.mark.parametrize(
    ("body", "compression"),
    [
        (b"\xff\xff", grpc.Compression.NoCompression),
        (b"\x1f\x8bnot gzip", grpc.Compression.NoCompression),
        (bytes(64 * 2**20), grpc.Compression.Gzip),
    ],
)
async def test_what_grpc_refuses_is_permanent_and_says_why(
    tmp_path: Path, body: bytes, compression: grpc.Compression
) -> None:
    """INVALID_ARGUMENT, with `BadRequest` in the details; a bomb is not inflated by the transport either."""
    async with doors(tmp_path) as running, channel(running) as opened:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await opened.unary_unary(EXPORT)(body, compression=compression)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    detail = BadRequest()
    assert _status(refused.value).details[0].Unpack(detail)
    assert detail.field_violations[0].description


def _status(error: grpc.aio.AioRpcError) -> Status:
    found: Status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    return found


async def test_grpc_refuses_an_oversize_message_before_it_is_here(tmp_path: Path) -> None:
    """The transport's own answer has no RetryInfo: it is not to be retried."""
    async with doors(tmp_path) as running, channel(running) as opened:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await opened.unary_unary(EXPORT)(bytes(4 * 2**20 + 1))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "grpc-status-details-bin" not in dict(refused.value.trailing_metadata())


async def test_half_bad_batches_are_a_partial_success(tmp_path: Path) -> None:
    """By every door the good spans are taken, and the answer counts the others."""
    async with doors(tmp_path) as running, channel(running) as opened, client(running) as http:

        def half_bad() -> bytes:
            request: bytes = a_request(an_op_span(), a_span(trace_id=b"")).SerializeToString()
            return request

        by_grpc = ExportTraceServiceResponse.FromString(await opened.unary_unary(EXPORT)(half_bad()))
        answer = await http.post("/v1/traces", content=half_bad(), headers=_type(PROTOBUF))
        by_http = ExportTraceServiceResponse.FromString(answer.content)
        assert len(running.ring) == 2
    for response in (by_grpc, by_http):
        assert response.partial_success.rejected_spans == 1
        assert "trace_id" in response.partial_success.error_message


async def test_under_pressure_senders_are_told_to_come_again(tmp_path: Path) -> None:
    """503 with Retry-After, UNAVAILABLE with RetryInfo, before any work is done; later the same request is taken."""
    request = a_request(an_op_span()).SerializeToString()
    async with doors(tmp_path) as running, channel(running) as opened, client(running) as http:
        running.budget.take(running.budget.limit)
        answer = await http.post("/v1/traces", content=request, headers=_type(PROTOBUF))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await opened.unary_unary(EXPORT)(request)
        assert len(running.ring) == 0
        running.budget.give_back(running.budget.limit)
        await opened.unary_unary(EXPORT)(request)
        assert (len(running.ring), running.budget.used) == (1, 0)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert Status.FromString(answer.content).code == 14
    _retryable(refused.value)


def _retryable(error: grpc.aio.AioRpcError) -> None:
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    info = RetryInfo()
    assert _status(error).details[0].Unpack(info)
    assert info.retry_delay.seconds == 1


async def test_a_full_disk_is_retryable_and_counts_once(tmp_path: Path) -> None:
    """Nothing is acknowledged that is not on disk; the retry that finds room is, and the op is there once."""
    file = FaultyFile.fresh()
    request = a_request(an_op_span()).SerializeToString()
    async with doors(tmp_path, open_file=file) as running, channel(running) as opened, client(running) as http:
        file.failure = OSError(errno.ENOSPC, "No space left on device")
        answer = await http.post("/v1/traces", content=request, headers=_type(PROTOBUF))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await opened.unary_unary(EXPORT)(request)
        file.failure = None
        for _ in range(2):
            await opened.unary_unary(EXPORT)(request)
        assert len(running.ring) == 1
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    _retryable(refused.value)
    assert len(journal(tmp_path)) == 1


async def test_a_stock_exporter_waits_out_a_full_disk(tmp_path: Path) -> None:
    """It retries what is retryable, and succeeds once there is room."""
    file = FaultyFile.fresh()
    span_data = an_op(op_id="op-1", source="otlp")
    async with doors(tmp_path, open_file=file) as running:
        file.failure = OSError(errno.ENOSPC, "No space left on device")
        provider = TracerProvider(shutdown_on_exit=False)
        kept = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(kept))

        provider.get_tracer("agent").start_span("tool", attributes=op_attributes(span_data)).end()
        exporter = exporters(running)["grpc"]
        exporting = asyncio.create_task(asyncio.to_thread(exporter.export, kept.get_finished_spans()))
        while running.ops_log.write_errors == 0:  # noqa: ASYNC110 - a thread counts it
            await asyncio.sleep(0.01)
        file.failure = None
        assert await exporting is SpanExportResult.SUCCESS
        exporter.shutdown()
        assert len(running.ring) == 1


async def test_tokens_are_asked_for_by_every_door(tmp_path: Path) -> None:
    """Bearer in header or metadata, with the scope `ingest`; refused before the message is read."""
    tokens = tmp_path / "tokens"
    tokens.write_text("agent ingest\nreader read\n")
    request = a_request(an_op_span()).SerializeToString()
    async with (
        doors(tmp_path, OBSERVER_TOKEN_FILE=str(tokens)) as running,
        channel(running) as opened,
        client(running) as http,
    ):
        call = opened.unary_unary(EXPORT)
        for token, status, code in [
            (None, 401, grpc.StatusCode.UNAUTHENTICATED),
            ("wrong", 401, grpc.StatusCode.UNAUTHENTICATED),
            ("reader", 403, grpc.StatusCode.PERMISSION_DENIED),
        ]:
            shown = {"authorization": f"Bearer {token}"} if token else {}
            answer = await http.post("/v1/traces", content=request, headers={**_type(PROTOBUF), **shown})
            assert (answer.status_code, answer.headers["content-type"]) == (status, PROTOBUF)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(request, metadata=tuple(shown.items()))
            assert refused.value.code() is code
        assert len(running.ring) == 0
        await call(request, metadata=(("authorization", "Bearer agent"),))
        assert len(running.ring) == 1
        assert running.otlp.grpc is not None
        assert running.otlp.grpc.refused == 3


@pytest.mark.parametrize("signal", ["logs", "metrics"])
async def test_other_signals_are_refused_for_good(tmp_path: Path, signal: str) -> None:
    """404 and UNIMPLEMENTED: no exporter retries them, and the text says what to do."""
    service = f"opentelemetry.proto.collector.{signal}.v1.{signal[:-1].capitalize() if signal == 'logs' else 'Metric'}s"
    async with doors(tmp_path) as running, channel(running) as opened, client(running) as http:
        answer = await http.post(f"/v1/{signal}", content=b"", headers=_type(PROTOBUF))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await opened.unary_unary(f"/{service}Service/Export")(b"")
    wanted = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    assert answer.status_code == 404
    assert wanted in Status.FromString(answer.content).message
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert wanted in str(refused.value.details())


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
    """`OBSERVER_OTLP_HTTP_PORT` has the OTLP paths and nothing else."""
    async with doors(tmp_path) as running, httpx.AsyncClient(trust_env=False, timeout=30) as http:
        base = f"http://127.0.0.1:{otlp_http_port(running)}"
        assert (await http.post(f"{base}/v1/traces", json={})).status_code == 200
        assert (await http.get(f"{base}/stats")).status_code == 404


def test_broken_requests_do_no_harm(tmp_path: Path) -> None:
    """A short, repeatable run of what `make fuzz-otlp` does at length."""
    with running_observer(tmp_path, OBSERVER_GRPC_PORT="0") as process:
        ready = process.wait_for("observer.ready")
        fuzz(Target(ready["port"], ready["grpc_port"]), 40, derandomize=True)
        assert [event for event in process.events if event["event"] in ("request.failed", "call.failed")] == []
