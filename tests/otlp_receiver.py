"""An OTLP receiver on 127.0.0.1, gRPC and HTTP/protobuf, that keeps the spans it is sent."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import uvicorn
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from sidecar.export.otlp_sender import OtlpSender, otlp_sender
from sidecar.export.otlp_target import OtlpTarget
from sidecar.model import ObservedOp
from sidecar.spans.op_span import op_from_attributes


def attribute_value(value: AnyValue) -> Any:
    """The Python value of an OTLP `AnyValue`; its type is the one that was sent."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [attribute_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return attributes_dict(value.kvlist_value.values)
    return getattr(value, kind) if kind else None


def attributes_dict(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    """OTLP attributes as a dict."""
    return {attribute.key: attribute_value(attribute.value) for attribute in attributes}


def op_from_otlp(span: Span) -> ObservedOp | None:
    """The op of an OTLP *span*; None if the span is not an op."""
    parent = span.parent_span_id.hex() or None
    return op_from_attributes(attributes_dict(span.attributes), span.trace_id.hex(), span.span_id.hex(), parent)


def spans_in(request: ExportTraceServiceRequest) -> list[Span]:
    """Every span of one export request, in order."""
    return [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]


class Said(NamedTuple):
    """A response: a gRPC code with details and RetryInfo, or an HTTP status with headers."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""
    retry_info_s: float | None = None
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    rejected: int = 0
    message: str = ""


TAKEN = Said()


class OtlpReceiver:
    """Keeps what was exported. `refusals` makes the next requests fail (UNAVAILABLE, 503), one each.

    `answer` decides the response to each other request; only requests answered with success are kept. Requests wait
    while `gate` is clear; `arrived` counts all of them.
    """

    def __init__(self) -> None:
        self.answer: Callable[[ExportTraceServiceRequest], Said] = lambda _: TAKEN
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = 0
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.spans: list[Span] = []
        self.refusals = 0
        self.refused = 0
        self.grpc_endpoint = ""
        self.http_endpoint = ""
        self._changed = asyncio.Condition()

    def ops(self) -> list[ObservedOp]:
        """The ops among the spans, in the order of their arrival."""
        return [op for span in self.spans if (op := op_from_otlp(span)) is not None]

    async def wait_for(self, count: int) -> None:
        """Return once at least *count* spans have arrived."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.spans) >= count)

    async def wait_refused(self, count: int) -> None:
        """Return once at least *count* requests were refused."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.refused >= count)

    async def wait_arrived(self, count: int) -> None:
        """Return once at least *count* requests have come, answered or not."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.arrived >= count)

    async def wait_metrics(self, count: int) -> None:
        """Return once metrics were pushed *count* times."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.metrics) >= count)

    async def take(self, request: ExportTraceServiceRequest, headers: dict[str, str]) -> Said:
        """Keep *request* if it is answered with success."""
        async with self._changed:
            self.arrived += 1
            self._changed.notify_all()
        await self.gate.wait()
        async with self._changed:
            said = self.answer(request)
            if self.refusals:
                self.refusals -= 1
                said = Said(grpc.StatusCode.UNAVAILABLE, "told to refuse", status=503)
            if said.status == 200 and said.code is grpc.StatusCode.OK:
                self.requests.append(request)
                self.headers.append(headers)
                self.spans += spans_in(request)
            else:
                self.refused += 1
            self._changed.notify_all()
        return said

    async def take_metrics(self, request: ExportMetricsServiceRequest) -> None:
        """Keep pushed metrics."""
        async with self._changed:
            self.metrics.append(request)
            self._changed.notify_all()


class _TraceService(TraceServiceServicer):
    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    async def Export(  # noqa: N802 - the name is the protocol's
        self, request: ExportTraceServiceRequest, context: grpc.aio.ServicerContext
    ) -> ExportTraceServiceResponse:
        headers = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        said = await self._receiver.take(request, headers)
        if said.code is not grpc.StatusCode.OK:
            if said.retry_info_s is not None:
                context.set_trailing_metadata((("grpc-status-details-bin", _details(said)),))
            await context.abort(said.code, said.details)
        return _response(said)


def _details(said: Said) -> bytes:
    info = RetryInfo()
    info.retry_delay.FromNanoseconds(round((said.retry_info_s or 0.0) * 1e9))
    status = Status(code=8, message=said.details)
    status.details.add().Pack(info)
    return bytes(status.SerializeToString())


def _response(said: Said) -> ExportTraceServiceResponse:
    partial = ExportTracePartialSuccess(rejected_spans=said.rejected, error_message=said.message)
    return ExportTraceServiceResponse(partial_success=partial if said.rejected or said.message else None)


class _MetricsService(MetricsServiceServicer):
    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    async def Export(  # noqa: N802 - the name is the protocol's
        self, request: ExportMetricsServiceRequest, _context: grpc.aio.ServicerContext
    ) -> ExportMetricsServiceResponse:
        await self._receiver.take_metrics(request)
        return ExportMetricsServiceResponse()


class _Door:
    """`POST /v1/traces` as a bare ASGI application."""

    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        body = b""
        more = True
        while more:
            event = await receive()
            body += event.get("body", b"")
            more = event.get("more_body", False)
        said = await self._said(scope["path"], headers, body)
        answer = [(b"content-type", b"application/x-protobuf"), *said.headers]
        await send({"type": "http.response.start", "status": said.status, "headers": answer})
        await send({"type": "http.response.body", "body": _response(said).SerializeToString()})

    async def _said(self, path: str, headers: dict[str, str], body: bytes) -> Said:
        try:
            raw = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
            if path == "/v1/metrics":
                await self._receiver.take_metrics(ExportMetricsServiceRequest.FromString(raw))
                return TAKEN
            request = ExportTraceServiceRequest.FromString(raw)
        except (DecodeError, OSError):
            return Said(status=400)
        return await self._receiver.take(request, headers) if path == "/v1/traces" else Said(status=404)


class _Server(uvicorn.Server):
    """A uvicorn server that installs no signal handlers and tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Any:
        yield

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@asynccontextmanager
async def otlp_receiver(
    like: OtlpReceiver | None = None, *, tls: tuple[Path, Path] | None = None
) -> AsyncIterator[OtlpReceiver]:
    """A receiver that listens on `grpc_endpoint` and `http_endpoint` for the length of the block.

    After an outage, *like* is the one that was there before: its ports are used again. With *tls*, a certificate and
    its key, it speaks TLS and lets those in who show that certificate.
    """
    receiver = OtlpReceiver()
    grpc_port, http_port = (_port(like.grpc_endpoint), _port(like.http_endpoint)) if like is not None else (0, 0)
    server = grpc.aio.server()
    add_TraceServiceServicer_to_server(_TraceService(receiver), server)  # type: ignore[no-untyped-call]  # generated
    add_MetricsServiceServicer_to_server(_MetricsService(receiver), server)  # type: ignore[no-untyped-call]  # as above
    address, scheme = f"127.0.0.1:{grpc_port}", "https" if tls else "http"
    bound = server.add_secure_port(address, _credentials(*tls)) if tls else server.add_insecure_port(address)
    receiver.grpc_endpoint = f"{scheme}://127.0.0.1:{bound}"
    await server.start()
    config = uvicorn.Config(_Door(receiver), host="127.0.0.1", port=http_port, log_config=None, lifespan="off")
    if tls is not None:
        config.ssl_certfile, config.ssl_keyfile, config.ssl_ca_certs = *map(str, tls), str(tls[0])
        config.ssl_cert_reqs = ssl.CERT_REQUIRED
    web = _Server(config)
    running = asyncio.create_task(web.serve())
    await web.listening.wait()
    receiver.http_endpoint = f"{scheme}://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield receiver
    finally:
        receiver.gate.set()
        web.should_exit = True
        await running
        await server.stop(None)


def _credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    shown = certificate.read_bytes()
    return grpc.ssl_server_credentials([(key.read_bytes(), shown)], shown, require_client_auth=True)


def _port(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def request_of(*names: str) -> bytes:
    """A request with spans of these names."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for name in names:
        scope.spans.add(name=name)
    return bytes(request.SerializeToString())


@asynccontextmanager
async def sender(receiver: OtlpReceiver, protocol: str, **more: Any) -> AsyncIterator[OtlpSender]:
    """The real sender to *receiver*."""
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else f"{receiver.http_endpoint}/v1/traces"
    made = otlp_sender(OtlpTarget(endpoint, protocol, **more))  # type: ignore[arg-type]  # one of the two names
    try:
        yield made
    finally:
        made.close()
