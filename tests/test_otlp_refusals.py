"""What the OTLP doors refuse, for good or for now, and how they say so."""

from __future__ import annotations

import asyncio
import errno
import gzip
from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sidecar.spans.op_span import op_attributes
from tests.fakes import an_op
from tests.observers import FaultyFile, client, journal
from tests.otlp_doors import channel, doors, exporters
from tests.otlp_requests import a_request, a_span, an_op_span
from tests.test_otlp_doors import EXPORT, PROTOBUF, _type


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
        assert running.otlp.invalid == 1
        assert 'reason="invalid"} 1.0' in (await http.get("/metrics")).text
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROTOBUF)
    assert Status.FromString(answer.content).message
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"resourceSpans": 1}', b'{"resourceSpans": [1]}', b"\xff"])
async def test_malformed_json_is_a_status_in_json(tmp_path: Path, body: bytes) -> None:
    """As our other errors it has `error` too."""
    async with doors(tmp_path) as running, client(running) as http:
        assert (await http.post("/v1/traces", json={})).status_code == 200  # of which none of these is a repetition
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
        assert running.otlp.invalid == 1
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
