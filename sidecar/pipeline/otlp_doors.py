"""Builds the doors for agents that already trace, and the gRPC door.

OTLP ──► intake ──► span processor ──► ring, journal, analysis
            └─────► (sampling) ──► spool ──► collector
"""

from __future__ import annotations

from sidecar.export.tail_sampling import TailSampling
from sidecar.gateway.route_template import Templates
from sidecar.metrics import OwnMetrics
from sidecar.pipeline.grpc_door import GrpcDoor
from sidecar.pipeline.parts import Parts
from sidecar.protocols import Stage
from sidecar.receivers.bodies import BodyReader
from sidecar.receivers.health_resource import LivezResource
from sidecar.receivers.http_app import create_app
from sidecar.receivers.http_receiver import HttpReceiver, tls_context
from sidecar.receivers.otlp_http import OtherSignalResource, OtlpTracesResource
from sidecar.receivers.otlp_receiver import OtlpIntake
from sidecar.receivers.otlp_wire import MAX_REQUEST_BYTES
from sidecar.spans.conventions import SpanConventions
from sidecar.spans.received import ReceivedRecorder


class OtlpDoors:
    """All OTLP doors and the gRPC server: `routes` for the main door, `stages` for separate ports."""

    def __init__(self, parts: Parts) -> None:
        settings, clock, export = parts.settings, parts.clock, parts.spans.export
        self.sampling: TailSampling | None = None
        if export is not None and settings.export_success_ratio < 1:
            self.sampling = TailSampling(settings.export_success_ratio, clock)
        self.names = Templates()
        self.conventions = SpanConventions(parts.normalizer, parts.gateway.urls, self.names, clock)
        self.witness = ReceivedRecorder(parts.spans.provider, parts.judged.absorbed)
        self.intake = OtlpIntake(
            self.conventions,
            self.witness,
            export.door if export is not None else None,
            self.sampling,
            open_ops=parts.entrance.open_ops,
        )
        bodies = BodyReader(parts.entrance.budget, max_bytes=MAX_REQUEST_BYTES)
        self.routes: dict[str, object] = {
            "/v1/traces": OtlpTracesResource(self.intake, bodies),
            "/v1/logs": OtherSignalResource("logs"),
            "/v1/metrics": OtherSignalResource("metrics"),
        }
        self.grpc = GrpcDoor(parts, self.intake) if settings.grpc_port >= 0 else None
        self.http = _otlp_http(parts, self.routes) if settings.otlp_http_port >= 0 else None

    @property
    def stages(self) -> list[Stage]:
        """The doors with their own ports."""
        return [door for door in (self.grpc, self.http) if door is not None]

    @property
    def sampled_out(self) -> int:
        """Received spans that were not exported because of the sampling setting."""
        return self.sampling.sampled_out if self.sampling is not None else 0

    @property
    def refused(self) -> int:
        """Calls over gRPC refused for lack of a token or scope."""
        return self.grpc.refused if self.grpc is not None else 0

    @property
    def invalid(self) -> int:
        """OTLP requests refused for good, over HTTP and gRPC: malformed, or too large."""
        return self.intake.invalid + (self.grpc.invalid if self.grpc is not None else 0)

    @property
    def overloads(self) -> int:
        """Calls over gRPC refused or aborted for lack of room for incoming bytes."""
        return self.grpc.overloads if self.grpc is not None else 0


def register(metrics: OwnMetrics, otlp: OtlpDoors) -> None:
    """Register the doors' counters as *metrics*."""
    count = metrics.observe_count
    count("observer.otlp.spans", "{span}", "Spans received and acknowledged", lambda: otlp.intake.spans)
    count("observer.otlp.ops", "{op}", "Operations recorded from spans", lambda: otlp.intake.ops)
    count("observer.otlp.rejected", "{span}", "Spans rejected as invalid", lambda: otlp.intake.rejected)
    count("observer.otlp.repeats", "{request}", "Repeated requests acknowledged", lambda: otlp.intake.repeats)
    forgotten = "Failed requests dropped before a retry came"
    count("observer.otlp.forgotten", "{request}", forgotten, lambda: otlp.intake.forgotten)
    count("observer.otlp.sampled_out", "{span}", "Spans not exported because of sampling", lambda: otlp.sampled_out)


def _otlp_http(parts: Parts, routes: dict[str, object]) -> HttpReceiver:
    settings = parts.settings
    return HttpReceiver(
        "otlp-http",
        create_app({**routes, "/livez": LivezResource()}, parts.entrance.guard),
        host=settings.host,
        port=settings.otlp_http_port,
        setting="OBSERVER_OTLP_HTTP_PORT",
        request_timeout_s=settings.body_timeout,
        grace_s=settings.grace,
        tls=tls_context(settings.tls_cert, settings.tls_key),
    )
