"""The checks of `observer doctor` that call other services: gateway, model, collector, and the holders of our ports."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import msgspec
from opentelemetry.util.re import parse_env_headers

from sidecar.commands.addresses import place
from sidecar.commands.finding import LIMIT_S, Finding, Status, in_thread
from sidecar.commands.terminal import visible
from sidecar.commands.tls import pinned
from sidecar.export.otlp_target import DIRECT
from sidecar.redaction import Redactor
from sidecar.settings import Settings

ASK_S = LIMIT_S - 0.5  # less than the limit, so that a check can still name the service it called
_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_MOST_BYTES = 64 * 1024
_LIVEZ_S = 2.0
_COLLECTOR_FIX = "Start the collector, or correct OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_PROTOCOL"


async def gateway(settings: Settings, client: httpx.AsyncClient) -> tuple[Finding, float | None]:
    """Whether the gateway answers `GET /health`, and our clock minus its clock in seconds, None if unknown."""
    url = settings.gateway_url.rstrip("/") + "/health"
    started = time.monotonic()
    try:
        async with client.stream("GET", url) as response:
            took_ms = (time.monotonic() - started) * 1000
            skew_s = _skew(response.headers.get("Date"))
            status = response.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        fix = "Start the gateway, or correct GATEWAY_URL"
        return Finding("gateway", "fail", f"{shown(url)}: {why(exc)}", fix), None
    if 200 <= status < 300:
        return Finding("gateway", "ok", f"{shown(url)} answered {status} in {took_ms:.0f} ms"), skew_s
    level: Status = "fail" if status >= 500 or settings.require_gateway else "warn"
    return Finding("gateway", level, f"{shown(url)} answered {status}", "Look at the gateway's own log"), skew_s


async def model(settings: Settings, client: httpx.AsyncClient) -> Finding:
    """Whether the model answers a short question. Without a model, diagnoses are made by counting: only a warning."""
    if settings.model_api == "none":
        return Finding("model", "ok", "none: diagnoses are made by counting")
    url, asked = _question(settings)
    fix = "Look at LAKEHOUSE_URL and OBSERVER_MODEL. If there is no model, set OBSERVER_MODEL_API=none"
    try:
        async with client.stream(
            "POST", url, content=msgspec.json.encode(asked), headers={"Content-Type": "application/json"}
        ) as response:
            body = await _head(response)
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        return Finding("model", "warn", f"{shown(url)}: {why(exc)}", fix)
    if response.status_code == 200 and _text(body):
        return Finding("model", "ok", f"{settings.model} answers at {shown(url)}")
    what = "an answer without a text" if response.status_code == 200 else str(response.status_code)
    return Finding("model", "warn", f"{shown(url)} answered {what}", fix)


def _question(settings: Settings) -> tuple[str, dict[str, Any]]:
    """The URL and request body for the model, in the form that `run` uses."""
    base, bounds = settings.lakehouse_url.rstrip("/"), {"max_tokens": 5, "temperature": 0.0}
    if settings.model_api == "openai":
        messages = [{"role": "user", "content": "Say ok."}]
        return base.removesuffix("/v1") + "/v1/chat/completions", {
            "model": settings.model,
            "messages": messages,
            **bounds,
        }
    return base + "/ai/generate", {"prompt": "Say ok.", "model": settings.model, **bounds}


async def collector(settings: Settings, env: Mapping[str, str]) -> Finding:
    """Whether the collector accepts an export without spans, sent as `run` sends its own."""
    endpoint = settings.export_endpoint
    if not endpoint:
        off = settings.sdk_disabled or settings.traces_exporter == "none"
        why = "it is turned off" if off else "OTEL_EXPORTER_OTLP_ENDPOINT is not set"
        return Finding("collector", "ok", f"no export: {why}")
    try:
        if settings.export_protocol == "grpc":
            return await _collector_grpc(endpoint, env)
        return await _collector_http(
            endpoint if settings.otlp_traces_endpoint else endpoint.rstrip("/") + "/v1/traces", env
        )
    except OSError as exc:  # a certificate file
        return Finding("collector", "fail", str(exc), "Correct the OTEL_EXPORTER_OTLP_*CERTIFICATE and *KEY variables")


async def port(name: str, host: str, number: int, tls_cert: str) -> Finding:
    """Whether *number* is free on *host*, or held by an observer. *tls_cert* is the observer's certificate, or ""."""
    check = f"{name} port"
    if number == 0:
        return Finding(check, "ok", f"any free port of {host}")
    try:
        await in_thread(lambda: _bind(host, number))
    except PermissionError as exc:
        return Finding(check, "fail", f"{host}:{number}: {exc.strerror}", "Choose a port above 1023")
    except OSError as exc:
        if await _is_observer(host, number, tls_cert):
            return Finding(check, "ok", f"{host}:{number} is held by an observer that is running")
        fix = f"Stop what uses it, or choose another with OBSERVER_{'HEALTH_' if name == 'health' else ''}PORT"
        return Finding(check, "fail", f"{host}:{number}: {exc.strerror or exc}", fix)
    return Finding(check, "ok", f"{host}:{number} is free")


def _bind(host: str, number: int) -> None:
    family, kind, proto, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, proto) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen()  # binding alone succeeds beside a listener on another local address


async def _is_observer(host: str, number: int, tls_cert: str) -> bool:
    url = f"http{'s' if tls_cert else ''}://{place(host, number)}/livez"
    try:
        async with (
            httpx.AsyncClient(
                timeout=_LIVEZ_S, trust_env=False, verify=pinned(tls_cert) if tls_cert else False
            ) as client,
            client.stream("GET", url) as response,
        ):
            answer = await _head(response)
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        return False
    return response.status_code == 200 and answer.replace(b" ", b"") == b'{"status":"ok"}'


async def _collector_grpc(endpoint: str, env: Mapping[str, str]) -> Finding:
    parts = urlsplit(endpoint)
    headers = tuple(_headers(env).items())
    if parts.scheme == "https":
        roots, key, chain = (_pem(env, name) for name in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"))
        credentials = grpc.ssl_channel_credentials(roots, key, chain)
        channel = grpc.aio.secure_channel(parts.netloc, credentials, DIRECT)
    else:
        channel = grpc.aio.insecure_channel(parts.netloc, DIRECT)
    async with channel:
        try:
            await channel.unary_unary(_EXPORT)(b"", timeout=ASK_S, metadata=headers)
        except grpc.aio.AioRpcError as exc:
            return _collector_refused(f"{shown(endpoint)} over gRPC: {_rpc_reason(exc)}", exc.code().name)
    return Finding("collector", "ok", f"{shown(endpoint)} takes spans over gRPC")


def _rpc_reason(exc: grpc.aio.AioRpcError) -> str:
    """The status code and its details; for a failed connection only the last of the details, which form a chain."""
    details = visible(exc.details() or "")
    if exc.code() is grpc.StatusCode.UNAVAILABLE:
        details = details.rsplit(": ", 1)[-1].rstrip("]")
    return f"{exc.code().name}, {details[:200]}"


async def _collector_http(url: str, env: Mapping[str, str]) -> Finding:
    headers = {**_headers(env), "Content-Type": "application/x-protobuf"}
    try:
        async with (
            httpx.AsyncClient(timeout=ASK_S, verify=_tls(url, env)) as client,  # proxies apply, as for the export
            client.stream("POST", url, content=b"", headers=headers) as response,
        ):
            status = response.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        return _collector_refused(f"{shown(url)}: {why(exc)}", "")
    if 200 <= status < 300:
        return Finding("collector", "ok", f"{shown(url)} takes spans over HTTP")
    return _collector_refused(f"{shown(url)} answered {status}", str(status))


def _collector_refused(found: str, code: str) -> Finding:
    if code in ("401", "403", "UNAUTHENTICATED", "PERMISSION_DENIED"):
        return Finding("collector", "fail", found, "Give what it asks for in OTEL_EXPORTER_OTLP_HEADERS")
    if code in ("404", "405", "UNIMPLEMENTED"):
        fix = "Something else answers there: correct the endpoint, or OTEL_EXPORTER_OTLP_PROTOCOL"
        return Finding("collector", "fail", found, fix)
    return Finding("collector", "fail", found, _COLLECTOR_FIX)


def _headers(env: Mapping[str, str]) -> dict[str, str]:
    text = env.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS") or env.get("OTEL_EXPORTER_OTLP_HEADERS") or ""
    return dict(parse_env_headers(text, liberal=True))


def _pem_path(env: Mapping[str, str], name: str) -> str:
    return env.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or env.get(f"OTEL_EXPORTER_OTLP_{name}") or ""


def _pem(env: Mapping[str, str], name: str) -> bytes | None:
    path = _pem_path(env, name)
    return Path(path).read_bytes() if path else None


def _tls(url: str, env: Mapping[str, str]) -> ssl.SSLContext | bool:
    if not url.startswith("https:"):
        return False
    context = ssl.create_default_context(cafile=_pem_path(env, "CERTIFICATE") or None)
    chain = _pem_path(env, "CLIENT_CERTIFICATE")
    if chain:
        context.load_cert_chain(chain, _pem_path(env, "CLIENT_KEY") or None)
    return context


async def _head(response: httpx.Response) -> bytes:
    """The start of the body, limited in size."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _MOST_BYTES:
            break
    return bytes(body)


def _text(body: bytes) -> str:
    """The model's answer, in either response format; "" if there is no text."""
    try:
        answer = msgspec.json.decode(body, type=dict[str, Any])
        text = answer["choices"][0]["message"]["content"] if "choices" in answer else answer.get("text")
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError):
        return ""
    return text.strip() if isinstance(text, str) else ""


def _skew(date: str | None) -> float | None:
    try:
        return time.time() - parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return None


def shown(url: str) -> str:
    """*url* for printing, without credentials."""
    return visible(Redactor().text(url))


def why(exc: BaseException) -> str:
    """The reason for *exc*: the system's own words if there are any, such as `Connection refused`."""
    if isinstance(exc, httpx.TimeoutException):
        return f"no answer within {ASK_S:g} s"
    words = str(exc)
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            words = os.strerror(cause.errno) if cause.errno and cause.errno > 0 else cause.strerror
        inner = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else None
        cause = inner or cause.__cause__ or cause.__context__
    return visible(words) or type(exc).__name__
