"""An OTLP receiver on 127.0.0.1, gRPC and HTTP/protobuf, that keeps the spans it is sent."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import uvicorn
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

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
    """The op that an OTLP *span* says, or None if it is not one."""
    parent = span.parent_span_id.hex() or None
    return op_from_attributes(attributes_dict(span.attributes), span.trace_id.hex(), span.span_id.hex(), parent)


def spans_in(request: ExportTraceServiceRequest) -> list[Span]:
    """Every span of one export request, in order."""
    return [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]


class OtlpReceiver:
    """Keeps what was exported. `refusals` makes the next requests fail (UNAVAILABLE, 503), one each."""

    def __init__(self) -> None:
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

    async def take(self, request: ExportTraceServiceRequest, headers: dict[str, str]) -> bool:
        """Keep *request*; False if it is one of those to refuse."""
        async with self._changed:
            kept = self.refusals == 0
            if kept:
                self.requests.append(request)
                self.headers.append(headers)
                self.spans += spans_in(request)
            else:
                self.refusals -= 1
                self.refused += 1
            self._changed.notify_all()
        return kept


class _TraceService(TraceServiceServicer):
    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    async def Export(  # noqa: N802 - the name is the protocol's
        self, request: ExportTraceServiceRequest, context: grpc.aio.ServicerContext
    ) -> ExportTraceServiceResponse:
        headers = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        if not await self._receiver.take(request, headers):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "told to refuse")
        return ExportTraceServiceResponse()


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
        status = await self._status(scope["path"], headers, body)
        answer = [(b"content-type", b"application/x-protobuf")]
        await send({"type": "http.response.start", "status": status, "headers": answer})
        await send({"type": "http.response.body", "body": ExportTraceServiceResponse().SerializeToString()})

    async def _status(self, path: str, headers: dict[str, str], body: bytes) -> int:
        if path != "/v1/traces":
            return 404
        try:
            raw = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
            request = ExportTraceServiceRequest.FromString(raw)
        except (DecodeError, OSError):
            return 400
        return 200 if await self._receiver.take(request, headers) else 503


class _Server(uvicorn.Server):
    """Leaves signals alone, and says when it listens."""

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
async def otlp_receiver() -> AsyncIterator[OtlpReceiver]:
    """A receiver that listens on `grpc_endpoint` and `http_endpoint` for the length of the block."""
    receiver = OtlpReceiver()
    server = grpc.aio.server()
    add_TraceServiceServicer_to_server(_TraceService(receiver), server)  # type: ignore[no-untyped-call]  # generated
    receiver.grpc_endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    config = uvicorn.Config(_Door(receiver), host="127.0.0.1", port=0, log_config=None, lifespan="off")
    web = _Server(config)
    running = asyncio.create_task(web.serve())
    await web.listening.wait()
    receiver.http_endpoint = f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield receiver
    finally:
        web.should_exit = True
        await running
        await server.stop(None)
