"""`observer doctor`'s check of the gRPC port: free, or held by an observer, as its health service shows."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # it has no types

from sidecar.commands.addresses import place
from sidecar.commands.finding import Finding, in_thread
from sidecar.commands.tls import pinned
from sidecar.export.otlp_target import DIRECT
from sidecar.receivers.grpc_receiver import OBSERVER

_CHECK = "grpc port"
_PATIENCE_S = 2.0


async def grpc_port(host: str, number: int, free: Finding, tls_cert: str) -> Finding:
    """The finding for the port. *free* is the result of binding; if that failed, the port's holder is probed.

    *tls_cert* is the observer's certificate (PEM file), or "".
    """
    if number < 0:
        return Finding(_CHECK, "ok", "no gRPC port, as set")
    if free.status == "ok":
        return free
    if await _is_observer(host, number, tls_cert):
        return Finding(_CHECK, "ok", f"{host}:{number} is held by an observer that is running")
    fix = "Stop what uses it (a collector?), choose another with OBSERVER_GRPC_PORT, or -1 for none"
    return Finding(_CHECK, "fail", free.found, fix)


async def _is_observer(host: str, number: int, tls_cert: str) -> bool:
    try:
        channel = await _channel(host, number, tls_cert)
    except OSError:  # it cannot be read, or the holder of the port does not have it
        return False
    async with channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=OBSERVER), timeout=_PATIENCE_S
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _channel(host: str, number: int, tls_cert: str) -> grpc.aio.Channel:
    """A channel to the port, over TLS if there is a certificate. Raises OSError."""
    address = place(host, number)
    if not tls_cert:
        return grpc.aio.insecure_channel(address, DIRECT)
    reached = urlsplit(f"//{address}").hostname or host
    trusted, name = await in_thread(lambda: (Path(tls_cert).read_bytes(), _name_held(reached, number, tls_cert)))
    options = (*DIRECT, ("grpc.ssl_target_name_override", name or reached))
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(trusted), options)


def _name_held(host: str, number: int, tls_cert: str) -> str:
    """A name in the holder's certificate: we connect by address, and gRPC always checks a name. Raises OSError."""
    with (
        socket.create_connection((host, number), timeout=_PATIENCE_S) as plain,
        pinned(tls_cert).wrap_socket(plain) as secured,
    ):
        held: Any = secured.getpeercert() or {}
    names = [name for _, name in held.get("subjectAltName", ())]
    names += [value for part in held.get("subject", ()) for key, value in part if key == "commonName"]
    return names[0].replace("*", "any") if names else ""
