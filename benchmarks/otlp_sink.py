"""The sink: an OTLP receiver over gRPC that counts distinct spans and records when the last one arrived.

`python -m benchmarks.otlp_sink PORT` answers each line on its standard input with a `Received` as JSON. The line `reset
SERVICE` restarts the count: from then on only spans of that `service.name` count.
"""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]


class Received(msgspec.Struct, frozen=True):
    """Distinct spans, all spans, requests; the arrival of the first and the last request (`time.monotonic`)."""

    spans: int
    deliveries: int
    requests: int
    first_s: float
    last_s: float


class Sink(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc's classes are untyped
    """The handler of the receiver's one method."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handler = grpc.unary_unary_rpc_method_handler(self._export)
        self.reset("")

    def reset(self, service: str) -> None:
        """Restart the count, for spans of *service*."""
        self._service = service
        self._ids: set[bytes] = set()
        self._deliveries = self._requests = 0
        self._first_s = self._last_s = 0.0

    def received(self) -> Received:
        """The counts since the last reset."""
        with self._lock:
            return Received(len(self._ids), self._deliveries, self._requests, self._first_s, self._last_s)

    def service(self, details: Any) -> Any:
        """The handler for the method, None for any other."""
        return self._handler if details.method == _METHOD else None

    def _export(self, data: bytes, _context: Any) -> bytes:
        arrived = time.monotonic()
        request = ExportTraceServiceRequest.FromString(data)
        ids = [
            span.trace_id + span.span_id
            for resource in request.resource_spans
            if any(each.value.string_value == self._service for each in resource.resource.attributes)
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        if not ids:
            return b""
        with self._lock:
            self._ids.update(ids)
            self._deliveries += len(ids)
            self._requests += 1
            self._first_s = self._first_s or arrived
            self._last_s = arrived
        return b""


def main(port: int) -> None:
    """Serve until the standard input ends."""
    sink = Sink()
    server = grpc.server(ThreadPoolExecutor(4), options=_UNLIMITED)
    server.add_generic_rpc_handlers((sink,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    for line in sys.stdin:
        if line.startswith("reset "):
            sink.reset(line.split()[1])
        print(msgspec.json.encode(sink.received()).decode(), flush=True)
    server.stop(None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
