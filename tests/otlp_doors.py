"""An observer with all OTLP doors open, and the stock SDK exporters as its senders."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, StatusCode

from sidecar.pipeline.observer import Observer
from tests.observers import observer

_OTLP = {"OBSERVER_GRPC_PORT": "0", "OBSERVER_OTLP_HTTP_PORT": "0"}


@asynccontextmanager
async def doors(tmp_path: Path, **env: Any) -> AsyncIterator[Observer]:
    """An observer with all OTLP doors open."""
    async with observer(tmp_path, **{**_OTLP, **env}) as running:
        yield running


def grpc_port(running: Observer) -> int:
    assert running.otlp.grpc is not None
    return running.otlp.grpc.port


def otlp_http_port(running: Observer) -> int:
    assert running.otlp.http is not None
    return running.otlp.http.port


@asynccontextmanager
async def channel(running: Observer) -> AsyncIterator[Any]:
    """A channel with a connection of its own."""
    own = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port(running)}", options=own) as opened:
        yield opened


@contextmanager
def sdk_spans() -> Iterator[list[Any]]:
    """Spans as an agent's SDK makes them: a parent with a child that failed, with event, link and odd attributes."""
    kept = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "agent"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("instrumentation", "1.2")
    with tracer.start_as_current_span("parent", attributes={"list": ["a", "b"], "int": 2**62, "float": 0.5}) as parent:
        link = [Link(parent.get_span_context(), {"why": "retry"})]
        with tracer.start_as_current_span("child", links=link) as child:
            child.add_event("thought", {"text": "é ×"})
            child.set_status(StatusCode.ERROR, "did not work")
    yield list(kept.get_finished_spans())
    provider.shutdown()


def exporters(running: Observer) -> dict[str, SpanExporter]:
    main, other = f"http://127.0.0.1:{running.port}", f"http://127.0.0.1:{otlp_http_port(running)}"
    target = f"127.0.0.1:{grpc_port(running)}"
    return {
        "grpc": GrpcExporter(endpoint=target, insecure=True),
        "grpc gzip": GrpcExporter(endpoint=target, insecure=True, compression=grpc.Compression.Gzip),
        "http": HttpExporter(endpoint=f"{main}/v1/traces"),
        "http gzip": HttpExporter(endpoint=f"{other}/v1/traces", compression=Compression.Gzip),
    }
