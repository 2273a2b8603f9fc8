"""The delay between an op's acknowledgement and its appearance in a `Watch` over gRPC."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc

from sidecar.pb.v1 import observer_pb2 as pb
from sidecar.pb.v1.observer_pb2_grpc import ObserverServiceStub

_PATIENCE_S = 3.0


async def watched(port: int, count: int) -> list[float]:
    """Milliseconds from each op's acknowledgement until a `Watch` of all ops shows it, one op after the other."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = ObserverServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
        watch = stub.Watch(pb.WatchRequest(equals={"endpoint": "/watched"}))
        await watch.initial_metadata()
        seen: dict[str, float] = {}
        arrived = asyncio.Event()

        async def look() -> None:
            async for message in watch:
                seen[message.op.span_id] = time.monotonic()
                arrived.set()

        looking = asyncio.create_task(look())
        waited = []
        for _ in range(count):
            recorded = await stub.Record(pb.RecordRequest(op=pb.ObservedOp(endpoint="/watched", success=True)))
            acknowledged = time.monotonic()
            async with asyncio.timeout(_PATIENCE_S):
                while recorded.span_id not in seen:
                    arrived.clear()
                    await arrived.wait()
            waited.append(max(0.0, seen[recorded.span_id] - acknowledged) * 1000)
        watch.cancel()
        await asyncio.wait([looking])
        return waited
