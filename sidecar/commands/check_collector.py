"""The checks of `observer doctor` for collectors: whether they accept an empty export, sent as `run` sends its own."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable

import grpc
import httpx

from sidecar.commands.checks_remote import ASK_S, shown, why
from sidecar.commands.finding import Finding, bounded
from sidecar.commands.terminal import visible
from sidecar.export.otlp_sender import METHODS, Signal, grpc_credentials, http_tls
from sidecar.export.otlp_target import DIRECT, OtlpTarget
from sidecar.pipeline.export import otlp_target
from sidecar.settings import Settings

_CHECKS: dict[Signal, str] = {"traces": "collector", "metrics": "metrics"}


def collectors(settings: Settings) -> list[Awaitable[Finding]]:
    """The check of the collector for spans, and if our own metrics go elsewhere, of the one for them."""
    checks: list[Awaitable[Finding]] = [bounded(_CHECKS["traces"], spans(settings))]
    if settings.metrics_endpoint not in ("", settings.export_endpoint):
        checks.append(bounded(_CHECKS["metrics"], metrics(settings)))
    return checks


async def spans(settings: Settings) -> Finding:
    """Whether the collector for spans accepts an export; "ok" too if there is none."""
    if settings.export_endpoint:
        return await _check(settings, "traces")
    off = settings.sdk_disabled or settings.traces_exporter == "none"
    reason = "it is turned off" if off else "OTEL_EXPORTER_OTLP_ENDPOINT is not set"
    return Finding(_CHECKS["traces"], "ok", f"no export: {reason}")


async def metrics(settings: Settings) -> Finding:
    """Whether the collector for our own metrics, of which there is one, accepts an export."""
    return await _check(settings, "metrics")


async def _check(settings: Settings, signal: Signal) -> Finding:
    check, target = _CHECKS[signal], otlp_target(settings, signal)
    try:
        asked = _over_grpc(target, signal) if target.protocol == "grpc" else _over_http(target)
        found, refused = await asked
    except (OSError, ValueError) as exc:  # a certificate file
        return Finding(check, "fail", str(exc), "Correct the OTEL_EXPORTER_OTLP_*CERTIFICATE and *KEY variables")
    if refused is None:
        over = "gRPC" if target.protocol == "grpc" else "HTTP"
        return Finding(
            check, "ok", f"{shown(target.endpoint)} takes {'spans' if signal == 'traces' else signal} over {over}"
        )
    return Finding(check, "fail", found, _fix(settings, signal, refused))


async def _over_grpc(target: OtlpTarget, signal: Signal) -> tuple[str, str | None]:
    """What was found, and the code of the refusal, None if there was none. Raises OSError."""
    if target.is_tls:
        channel = grpc.aio.secure_channel(target.authority, grpc_credentials(target), DIRECT)
    else:
        channel = grpc.aio.insecure_channel(target.authority, DIRECT)
    async with channel:
        try:
            await channel.unary_unary(METHODS[signal])(b"", timeout=ASK_S, metadata=target.headers)
        except grpc.aio.AioRpcError as exc:
            return f"{shown(target.endpoint)} over gRPC: {_rpc_reason(exc)}", exc.code().name
    return "", None


def _rpc_reason(exc: grpc.aio.AioRpcError) -> str:
    """The status code and its details; for a failed connection only the last of the details, which form a chain."""
    details = visible(exc.details() or "")
    if exc.code() is grpc.StatusCode.UNAVAILABLE:
        details = details.rsplit(": ", 1)[-1].rstrip("]")
    return f"{exc.code().name}, {details[:200]}"


async def _over_http(target: OtlpTarget) -> tuple[str, str | None]:
    """As `_over_grpc`; the code is the status, "" if nothing answered."""
    headers = {**dict(target.headers), "Content-Type": "application/x-protobuf"}
    verify: ssl.SSLContext | bool = http_tls(target) if target.is_tls else False
    try:
        async with (
            httpx.AsyncClient(timeout=ASK_S, verify=verify) as client,  # proxies apply, as for the export
            client.stream("POST", target.endpoint, content=b"", headers=headers) as response,
        ):
            status = response.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        return f"{shown(target.endpoint)}: {why(exc)}", ""
    return f"{shown(target.endpoint)} answered {status}", None if 200 <= status < 300 else str(status)


def _fix(settings: Settings, signal: Signal, refused: str) -> str:
    if refused in ("401", "403", "UNAUTHENTICATED", "PERMISSION_DENIED"):
        return "Give what it asks for in OTEL_EXPORTER_OTLP_HEADERS"
    own = settings.otlp_traces_endpoint if signal == "traces" else settings.otlp_metrics_endpoint
    endpoint = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT" if own else "OTEL_EXPORTER_OTLP_ENDPOINT"
    otherwise = "" if signal == "traces" else ", or set OTEL_METRICS_EXPORTER=none"
    if refused in ("404", "405", "UNIMPLEMENTED"):
        return f"Something else answers there: correct {endpoint} or OTEL_EXPORTER_OTLP_PROTOCOL{otherwise}"
    return f"Start the collector, or correct {endpoint} and OTEL_EXPORTER_OTLP_PROTOCOL{otherwise}"
