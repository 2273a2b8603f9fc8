"""Sends encoded OTLP requests over gRPC or HTTP, one bounded attempt each, and returns the verdict.

Requests come from a lane (`export.lane`) or from `metric_export`; nothing is encoded or kept here. This module is
imported only when export is on: gRPC alone takes 10 MiB.
"""

from __future__ import annotations

import gzip
import ssl
import time
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import grpc
import httpx
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from sidecar.errors import StartError
from sidecar.export.answers import Answer, delivered, grpc_answer, http_answer
from sidecar.export.http_client import attempt, tls_context
from sidecar.export.otlp_target import DIRECT, OtlpTarget

Signal = Literal["traces", "metrics"]
METHODS: Final[dict[Signal, str]] = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}
_RECONNECT: Final = (  # gRPC's own back-off grows to two minutes: a recovered collector would wait that long
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.min_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
_STATUS_KEY: Final = "grpc-status-details-bin"
_GZIP_LEVEL: Final = 1


class OtlpSender(Protocol):
    """One destination. Used by one thread; `close` may come from another, and aborts an attempt where possible."""

    def send(self, request: bytes, timeout_s: float) -> Answer:
        """Make one attempt of at most *timeout_s* seconds. Never raises for what the server does."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


def otlp_sender(target: OtlpTarget, signal: Signal = "traces") -> OtlpSender:
    """The sender for *target*; connects on the first send. Raises StartError if a PEM file is unusable."""
    try:
        return GrpcSender(target, signal) if target.protocol == "grpc" else HttpSender(target)
    except (OSError, ValueError) as exc:
        raise StartError(
            "the OTLP export cannot use its certificates",
            str(exc),
            "Look at the files that OTEL_EXPORTER_OTLP_CERTIFICATE, _CLIENT_KEY and _CLIENT_CERTIFICATE name",
        ) from exc


class GrpcSender:
    """OTLP/gRPC: sends serialised requests over one channel, which reconnects soon after an outage."""

    def __init__(self, target: OtlpTarget, signal: Signal) -> None:
        options = [*_RECONNECT, *DIRECT, ("grpc.primary_user_agent", "lakehouse-observer")]
        compression = grpc.Compression.Gzip if target.gzip else None
        if target.is_tls:
            self._channel = grpc.secure_channel(target.authority, grpc_credentials(target), options, compression)
        else:
            self._channel = grpc.insecure_channel(target.authority, options, compression)
        self._export: Any = self._channel.unary_unary(METHODS[signal])
        self._metadata = target.headers

    def send(self, request: bytes, timeout_s: float) -> Answer:
        """See `OtlpSender`."""
        try:
            return delivered(self._export(request, timeout=timeout_s, metadata=self._metadata))
        except grpc.RpcError as exc:
            return _grpc_failure(exc)

    def close(self) -> None:
        """Abort the request in flight and close the channel."""
        self._channel.close()


class HttpSender:
    """OTLP/HTTP with protobuf bodies over a kept-alive connection. Honours proxy variables, like the SDK's exporter."""

    def __init__(self, target: OtlpTarget) -> None:
        headers = {"Content-Type": "application/x-protobuf", **dict(target.headers)}
        self._gzip = target.gzip
        if target.gzip:
            headers["Content-Encoding"] = "gzip"
        self._url = target.endpoint
        self._client = httpx.Client(verify=http_tls(target), headers=headers)

    def send(self, request: bytes, timeout_s: float) -> Answer:
        """See `OtlpSender`."""
        body = gzip.compress(request, _GZIP_LEVEL) if self._gzip else request
        return attempt(self._client, self._url, body, timeout_s, _meaning)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _meaning(response: httpx.Response, said: bytes) -> Answer:
    return http_answer(response.status_code, said, response.headers.get("retry-after", ""), time.time_ns())


def _grpc_failure(error: Any) -> Answer:
    return grpc_answer(error.code().name, error.details() or "", _retry_delay_s(error.trailing_metadata() or ()))


def _retry_delay_s(trailers: Any) -> float | None:
    """RetryInfo's delay in seconds, or None. Source: google/rpc/error_details.proto."""
    for key, value in trailers:
        if key != _STATUS_KEY:
            continue
        try:
            for detail in Status.FromString(value).details:
                info = RetryInfo()
                if detail.Unpack(info):
                    delay_s: float = info.retry_delay.seconds + info.retry_delay.nanos / 1e9
                    return max(0.0, delay_s)
        except DecodeError:
            return None
    return None


def grpc_credentials(target: OtlpTarget) -> grpc.ChannelCredentials:
    """The credentials of a channel to *target* over TLS. Raises OSError if a PEM file cannot be read."""

    def content(path: str) -> bytes | None:
        return Path(path).read_bytes() if path else None

    return grpc.ssl_channel_credentials(
        content(target.certificate), content(target.client_key), content(target.client_certificate)
    )


def http_tls(target: OtlpTarget) -> ssl.SSLContext:
    """The TLS context of a client of *target*. Raises OSError if a PEM file is unusable."""
    context = tls_context(target.endpoint, target.certificate)
    if target.client_certificate:
        context.load_cert_chain(target.client_certificate, target.client_key or None)
    return context
