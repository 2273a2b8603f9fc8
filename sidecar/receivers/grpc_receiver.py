"""The gRPC door: one `grpc.aio` server for OTLP traces, `ObserverService`, health and reflection, as a stage.

Import it only when needed: gRPC takes 10 MiB.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # it has no types
from grpc_health.v1.health import aio as health  # type: ignore[import-untyped]  # it has no types
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]  # it has no types
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from sidecar.errors import StartError
from sidecar.pb.v1 import observer_pb2, observer_pb2_grpc
from sidecar.receivers.bodies import ByteBudget
from sidecar.receivers.event_resource import MAX_EVENT_BYTES
from sidecar.receivers.grpc_guard import TRANSPORT_OPTIONS, Access, GrpcGuard
from sidecar.receivers.observer_service import ObserverService
from sidecar.receivers.otlp_http import not_taken
from sidecar.receivers.otlp_receiver import OtlpIntake
from sidecar.receivers.otlp_wire import MAX_REQUEST_BYTES
from sidecar.receivers.tokens import TokenStore

log = structlog.get_logger(__name__)

TRACES = trace_service_pb2.DESCRIPTOR.services_by_name["TraceService"].full_name
OBSERVER = observer_pb2.DESCRIPTOR.services_by_name["ObserverService"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_OTHERS = {
    f"opentelemetry.proto.collector.{signal}.v1.{signal.removesuffix('s').capitalize()}sService": signal
    for signal in ("logs", "metrics")
}
_SMALL = 64 * 1024
_ACCESS = {
    f"/{TRACES}/": Access("ingest", MAX_REQUEST_BYTES),
    f"/{OBSERVER}/": Access("read", MAX_EVENT_BYTES),
    f"/{OBSERVER}/Record": Access("ingest", MAX_EVENT_BYTES),
    f"/{OBSERVER}/RecordStream": Access("ingest", MAX_EVENT_BYTES),
    f"/{OBSERVER}/GetAdvice": Access("advice", _SMALL),
    f"/{OBSERVER}/ReportOutcome": Access("advice", _SMALL),
    f"/{HEALTH}/": Access(None, _SMALL),
    f"/{reflection.SERVICE_NAME}/": Access(None, _SMALL),
    **{f"/{service}/": Access("ingest", _SMALL) for service in _OTHERS},
}
_MOST_CALLS = 1024  # includes idle ones, such as Watch
_HOUR_MS = 3_600_000
_OPTIONS = (
    *TRANSPORT_OPTIONS,
    ("grpc.so_reuseport", 0),  # a port in use must be an error, not shared
    ("grpc.max_concurrent_streams", 100),  # per connection
    ("grpc.keepalive_time_ms", 60_000),  # detects dead clients, whose Watch calls then end
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),  # how often clients may ping
    ("grpc.max_connection_age_ms", _HOUR_MS),  # no age grace: a Watch may last longer
    ("grpc.max_connection_idle_ms", _HOUR_MS // 4),
)


class GrpcReceiver:
    """Listens on *host*:*port* (0: any free port; see `port`); *tls* is (certificate, key) in PEM."""

    name = "grpc"

    def __init__(
        self,
        otlp: OtlpIntake,
        service: ObserverService,
        tokens: TokenStore,
        budget: ByteBudget,
        *,
        host: str,
        port: int,
        request_timeout_s: float,
        grace_s: float,
        tls: tuple[bytes, bytes] | None = None,
    ) -> None:
        self.port = port
        self._otlp = otlp
        self._service = service
        self._guard = GrpcGuard(tokens, budget, _ACCESS, request_timeout_s=request_timeout_s)
        self._host = host
        self._grace_s = grace_s
        self._tls = tls
        self._server: Any = None
        self._health = health.HealthServicer()

    @property
    def refused(self) -> int:
        """Calls refused for lack of a token or scope."""
        return self._guard.refused

    @property
    def invalid(self) -> int:
        """OTLP calls with a message that is refused for good."""
        return self._guard.invalid[f"/{TRACES}/"]

    @property
    def overloads(self) -> int:
        """Calls refused or aborted for lack of room for incoming messages."""
        return self._guard.overloads

    async def start(self, _tasks: asyncio.TaskGroup) -> None:
        """Bind and listen. Raises StartError if the address is not available."""
        server = grpc.aio.server(interceptors=[self._guard], options=_OPTIONS, maximum_concurrent_rpcs=_MOST_CALLS)
        server.add_generic_rpc_handlers([_traces(self._otlp), *map(_refusing, _OTHERS.items())])
        observer_pb2_grpc.add_ObserverServiceServicer_to_server(self._service, server)  # type: ignore[no-untyped-call]  # generated
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection([TRACES, OBSERVER, HEALTH, reflection.SERVICE_NAME], server)
        self.port = self._bind(server)
        await server.start()
        for service in ("", TRACES, OBSERVER):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        self._server = server
        log.info("port.opened", serves=self.name, host=self._host, port=self.port)

    async def stop(self) -> None:
        """Stop accepting calls and finish those in progress; calls that do not end in time are cancelled."""
        server, self._server = self._server, None
        if server is not None:
            await self._health.enter_graceful_shutdown()
            await server.stop(self._grace_s / 4)

    def _bind(self, server: Any) -> int:
        address = f"[{self._host}]" if ":" in self._host else self._host
        try:
            self._probe()
        except OSError as exc:
            raise self._cannot_listen(exc.strerror or str(exc)) from exc
        try:
            if self._tls is None:
                port: int = server.add_insecure_port(f"{address}:{self.port}")
            else:
                cert, key = self._tls
                port = server.add_secure_port(f"{address}:{self.port}", grpc.ssl_server_credentials([(key, cert)]))
        except RuntimeError as exc:
            raise self._cannot_listen(str(exc)[:200]) from exc
        return port

    def _probe(self) -> None:
        """Bind a plain socket for a moment, as gRPC's errors do not say why a port cannot be had. Raises OSError."""
        family, kind, proto, _, address = socket.getaddrinfo(self._host, self.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()  # binding alone succeeds beside a listener on another local address

    def _cannot_listen(self, why: str) -> StartError:
        return StartError(
            f"the observer cannot listen on {self._host}:{self.port} for gRPC",
            why,
            "Stop what uses that port, choose another with OBSERVER_GRPC_PORT, or -1 for none",
        )


def _traces(intake: OtlpIntake) -> Any:
    """`TraceService` on raw bytes, so that requests are passed on unchanged."""

    async def export(request: bytes, _context: Any) -> Any:
        return (await intake.take(request)).response()

    method = grpc.unary_unary_rpc_method_handler(
        export, None, trace_service_pb2.ExportTraceServiceResponse.SerializeToString
    )
    return grpc.method_handlers_generic_handler(TRACES, {"Export": method})


def _refusing(other: tuple[str, str]) -> Any:
    """The service of another signal: answers UNIMPLEMENTED, with what to do instead."""
    service, signal = other

    async def export(_request: bytes, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, not_taken(signal))

    return grpc.method_handlers_generic_handler(service, {"Export": grpc.unary_unary_rpc_method_handler(export)})
