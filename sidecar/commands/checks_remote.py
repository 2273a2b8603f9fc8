"""The checks of `observer doctor` that call other services: gateway, model, and the holders of our ports."""

from __future__ import annotations

import socket
import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import httpx
import msgspec

from sidecar.clock import SystemClock
from sidecar.commands.addresses import place
from sidecar.commands.finding import LIMIT_S, Finding, Status, in_thread
from sidecar.commands.terminal import visible
from sidecar.commands.tls import pinned
from sidecar.commands.why_failed import why_failed
from sidecar.normalize import clean_text
from sidecar.pipeline.webhook import local_model
from sidecar.redaction import Redactor
from sidecar.settings import Settings

ASK_S = LIMIT_S - 0.5  # less than the limit, so that a check can still name the service it called
_MOST_BYTES = 64 * 1024
_LIVEZ_S = 2.0
_MODEL_TOKENS = 5  # enough to see that it answers; what it says is not read


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
    asked = local_model(settings, client, SystemClock(), clean_text)
    if asked is None:
        return Finding("model", "ok", "none: diagnoses are made by counting")
    url, body = asked.url, msgspec.json.encode(asked.request("Say ok.", _MODEL_TOKENS))
    fix = "Look at LAKEHOUSE_URL and OBSERVER_MODEL. If there is no model, set OBSERVER_MODEL_API=none"
    try:
        async with client.stream("POST", url, content=body, headers={"Content-Type": "application/json"}) as response:
            answer = await _head(response)
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        return Finding("model", "warn", f"{shown(url)}: {why(exc)}", fix)
    if response.status_code == 200 and _text(answer):
        return Finding("model", "ok", f"{settings.model} answers at {shown(url)}")
    what = "an answer without a text" if response.status_code == 200 else str(response.status_code)
    return Finding("model", "warn", f"{shown(url)} answered {what}", fix)


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
        if running := await _running(check, host, number, tls_cert):
            return running
        setting = "OBSERVER_PORT" if name == "http" else f"OBSERVER_{name.upper().replace('-', '_')}_PORT"
        fix = f"Stop what uses it, or choose another with {setting}"
        return Finding(check, "fail", f"{host}:{number}: {exc.strerror or exc}", fix)
    return Finding(check, "ok", f"{host}:{number} is free")


def _bind(host: str, number: int) -> None:
    family, kind, proto, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, proto) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen()  # binding alone succeeds beside a listener on another local address


async def _running(check: str, host: str, number: int, tls_cert: str) -> Finding | None:
    """The finding for a port that an observer holds; None if something else does."""
    status, answer = await _asked(host, number, tls_cert, "/livez")
    if status != HTTPStatus.OK or answer.replace(b" ", b"") != b'{"status":"ok"}':
        return None
    found = f"{host}:{number} is held by an observer that is running"
    status, answer = await _asked(host, number, tls_cert, "/readyz")  # not at every door
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return Finding(check, "fail", f"{found}, but not ready: {_reason(answer)}")
    return Finding(check, "ok", found)


async def _asked(host: str, number: int, tls_cert: str, path: str) -> tuple[int, bytes]:
    """Status and start of the body; 0 if there was no answer."""
    url = f"http{'s' if tls_cert else ''}://{place(host, number)}{path}"
    try:
        async with (
            httpx.AsyncClient(
                timeout=_LIVEZ_S, trust_env=False, verify=pinned(tls_cert) if tls_cert else False
            ) as client,
            client.stream("GET", url) as response,
        ):
            return response.status_code, await _head(response)
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        return 0, b""


def _reason(answer: bytes) -> str:
    try:
        return visible(str(msgspec.json.decode(answer, type=dict[str, Any])["error"]))
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError):
        return "it does not say why"


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
    """The reason for *exc*, which a check met."""
    return why_failed(exc, ASK_S)
