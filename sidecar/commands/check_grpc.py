"""`observer doctor`'s check of the gRPC port: free, or held by an observer, as its health service shows."""

from __future__ import annotations

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # it has no types

from sidecar.commands.addresses import place
from sidecar.commands.finding import Finding
from sidecar.export.otlp_target import DIRECT
from sidecar.receivers.grpc_receiver import OBSERVER

_CHECK = "grpc port"
_PATIENCE_S = 2.0


async def grpc_port(host: str, number: int, free: Finding) -> Finding:
    """The finding for the port. *free* is the result of binding; if that failed, the port's holder is probed."""
    if number < 0:
        return Finding(_CHECK, "ok", "no gRPC port, as set")
    if free.status == "ok":
        return free
    if await _is_observer(host, number):
        return Finding(_CHECK, "ok", f"{host}:{number} is held by an observer that is running")
    fix = "Stop what uses it (a collector?), choose another with OBSERVER_GRPC_PORT, or -1 for none"
    return Finding(_CHECK, "fail", free.found, fix)


async def _is_observer(host: str, number: int) -> bool:
    async with grpc.aio.insecure_channel(place(host, number), DIRECT) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=OBSERVER), timeout=_PATIENCE_S
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
