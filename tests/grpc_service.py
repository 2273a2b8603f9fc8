"""A running observer and a real gRPC client of its `ObserverService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from sidecar.pb.v1.observer_pb2_grpc import ObserverServiceStub
from sidecar.pipeline.observer import Observer
from tests.observers import observer

SERVICE = "sidecar.pb.v1.ObserverService"


@asynccontextmanager
async def service(tmp_path: Path, **env: Any) -> AsyncIterator[tuple[Observer, Any, Any]]:
    """A running observer, a client of its service, and their channel."""
    async with observer(tmp_path, OBSERVER_GRPC_PORT="0", **env) as running:
        assert running.otlp.grpc is not None
        async with grpc.aio.insecure_channel(f"127.0.0.1:{running.otlp.grpc.port}") as channel:
            yield running, ObserverServiceStub(channel), channel  # type: ignore[no-untyped-call]  # generated
