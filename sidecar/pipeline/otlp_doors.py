"""Builds the doors for agents that already trace, and the gRPC door.

OTLP ──► intake ──► span processor ──► ring, journal, analysis
            └─────► (sampling) ──► spool ──► collector
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from sidecar.errors import StartError
from sidecar.export.tail_sampling import TailSampling
from sidecar.gateway.route_template import Templates
from sidecar.receivers.bodies import BodyReader
from sidecar.receivers.http_app import create_app
from sidecar.receivers.http_receiver import HttpReceiver, tls_context
from sidecar.receivers.otlp_http import OtherSignalResource, OtlpTracesResource
from sidecar.receivers.otlp_receiver import OtlpIntake
from sidecar.receivers.otlp_wire import MAX_REQUEST_BYTES
from sidecar.spans.conventions import SpanConventions
from sidecar.spans.received import ReceivedRecorder

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from sidecar.pipeline.observer import Observer
    from sidecar.protocols import Stage
    from sidecar.receivers.grpc_receiver import GrpcReceiver
    from sidecar.settings import Settings

log = structlog.get_logger(__name__)


class OtlpDoors:
    """All OTLP doors and the gRPC server: `routes` for the main door, `stages` for separate ports."""

    def __init__(self, observer: Observer, settings: Settings, provider: TracerProvider) -> None:
        export = observer.export
        self.sampling: TailSampling | None = None
        if export is not None and settings.export_success_ratio < 1:
            self.sampling = TailSampling(settings.export_success_ratio, observer.clock)
        self.names = Templates()
        self.conventions = SpanConventions(
            observer.normalizer, lambda: _gateways(observer, settings), self.names, observer.clock
        )
        self.witness = ReceivedRecorder(provider, observer.judged.absorbed)
        self.intake = OtlpIntake(
            self.conventions,
            self.witness,
            export.door if export is not None else None,
            self.sampling,
        )
        bodies = BodyReader(observer.budget, max_bytes=MAX_REQUEST_BYTES)
        self.routes: dict[str, object] = {
            "/v1/traces": OtlpTracesResource(self.intake, bodies),
            "/v1/logs": OtherSignalResource("logs"),
            "/v1/metrics": OtherSignalResource("metrics"),
        }
        self.grpc = GrpcDoor(observer, settings, self.intake) if settings.grpc_port >= 0 else None
        self.http = _otlp_http(observer, settings, self.routes) if settings.otlp_http_port >= 0 else None

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
    def overloads(self) -> int:
        """Calls over gRPC refused or aborted for lack of room for incoming bytes."""
        return self.grpc.overloads if self.grpc is not None else 0


def register(observer: Observer) -> None:
    """Register the doors' counters as metrics."""
    count, otlp = observer.metrics.observe_count, observer.otlp
    count("observer.otlp.spans", "{span}", "Spans received and acknowledged", lambda: otlp.intake.spans)
    count("observer.otlp.ops", "{op}", "Operations recorded from spans", lambda: otlp.intake.ops)
    count("observer.otlp.rejected", "{span}", "Spans rejected as invalid", lambda: otlp.intake.rejected)
    count("observer.otlp.repeats", "{request}", "Repeated requests acknowledged", lambda: otlp.intake.repeats)
    forgotten = "Failed requests dropped before a retry came"
    count("observer.otlp.forgotten", "{request}", forgotten, lambda: otlp.intake.forgotten)
    count("observer.otlp.sampled_out", "{span}", "Spans not exported because of sampling", lambda: otlp.sampled_out)


class GrpcDoor:
    """The gRPC server, imported only when it starts: gRPC alone takes 10 MiB."""

    name = "grpc"

    def __init__(self, observer: Observer, settings: Settings, intake: OtlpIntake) -> None:
        self.port = settings.grpc_port
        self._observer = observer
        self._settings = settings
        self._intake = intake
        self._receiver: GrpcReceiver | None = None

    @property
    def refused(self) -> int:
        """Calls refused for lack of a token or scope."""
        return self._receiver.refused if self._receiver is not None else 0

    @property
    def overloads(self) -> int:
        """Calls refused or aborted for lack of room for incoming bytes."""
        return self._receiver.overloads if self._receiver is not None else 0

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Bind and listen. Raises StartError."""
        from sidecar.receivers.grpc_receiver import GrpcReceiver  # noqa: PLC0415 - see above
        from sidecar.receivers.observer_service import Memory, ObserverService  # noqa: PLC0415 - as above

        observer, settings = self._observer, self._settings
        memory = Memory(observer.books.incidents.incidents, observer.learning.views)
        self._receiver = GrpcReceiver(
            self._intake,
            ObserverService(
                observer.intake,
                observer.ring,
                observer.feed,
                memory,
                advisor=observer.learning.advisor,
                clean=observer.normalizer.text,
            ),
            observer.tokens,
            observer.budget,
            host=settings.host,
            port=self.port,
            request_timeout_s=settings.body_timeout,
            grace_s=settings.grace,
            tls=_pem(settings),
        )
        await self._receiver.start(tasks)
        self.port = self._receiver.port

    async def stop(self) -> None:
        """Finish the calls in progress."""
        if self._receiver is not None:
            await self._receiver.stop()


def _gateways(observer: Observer, settings: Settings) -> list[str]:
    """The URLs that agents call: the gateway's and the proxy's; the proxy starts before these doors."""
    proxy = [f"http://localhost:{observer.proxy.port}"] if observer.proxy is not None else []
    return [settings.gateway_url, *proxy]


def _otlp_http(observer: Observer, settings: Settings, routes: dict[str, object]) -> HttpReceiver:
    return HttpReceiver(
        "otlp-http",
        create_app(routes, observer.guard),
        host=settings.host,
        port=settings.otlp_http_port,
        setting="OBSERVER_OTLP_HTTP_PORT",
        request_timeout_s=settings.body_timeout,
        grace_s=settings.grace,
        tls=tls_context(settings.tls_cert, settings.tls_key),
    )


def _pem(settings: Settings) -> tuple[bytes, bytes] | None:
    """Certificate and key, or None if there are none. Raises StartError."""
    if not settings.tls_cert:
        return None
    try:
        return Path(settings.tls_cert).read_bytes(), Path(settings.tls_key).read_bytes()
    except OSError as exc:
        raise StartError("TLS cannot be set up", str(exc), "Give a PEM certificate and its unencrypted key") from exc
