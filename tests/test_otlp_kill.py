"""A stock exporter sends on while the observer is killed and started again, and while the collector is away."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path

import httpx
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sidecar.export.batch import MAX_SPANS
from tests.otlp_receiver import OtlpReceiver, otlp_receiver
from tests.peers.peers import free_ports
from tests.processes import PATIENCE_S, UNMEASURED, running_observer

REQUESTS, SPANS = 120, 20
TOOL = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "find"}


def batches() -> list[list[ReadableSpan]]:
    """What an agent's SDK made: each request holds an operation and others."""
    provider, kept = TracerProvider(resource=Resource({}), shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("agent")
    for _ in range(REQUESTS):
        for number in range(SPANS):
            tracer.start_span("step", attributes=TOOL if number == 0 else {"step": number}).end()
    spans = list(kept.get_finished_spans())
    return [spans[first : first + SPANS] for first in range(0, len(spans), SPANS)]


class Sender:
    """Exports every batch, one after the other, with the stock exporter's own retries and nothing else."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.results: list[SpanExportResult] = []
        self._changed = threading.Condition()

    def run(self) -> None:
        exporter = OTLPSpanExporter(endpoint=f"127.0.0.1:{self._port}", insecure=True, timeout=30)
        for batch in batches():
            result = exporter.export(batch)
            with self._changed:
                self.results.append(result)
                self._changed.notify_all()
        exporter.shutdown()

    def wait_for(self, count: int) -> None:
        """Return once *count* batches were exported, well or not."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.results) >= count, PATIENCE_S)


def span_ids(receiver: OtlpReceiver) -> Counter[bytes]:
    """How often each span arrived."""
    return Counter(span.span_id for span in receiver.spans)


async def test_a_kill_costs_the_sender_nothing(tmp_path: Path) -> None:
    """Killed in full flow, collector away for a while: every batch is acknowledged, all arrives, ops count once."""
    (port,) = free_ports(1)
    sender = Sender(port)
    async with otlp_receiver() as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint, "OBSERVER_GRPC_PORT": str(port)}
        env["OTEL_METRICS_EXPORTER"] = "none"
        with running_observer(tmp_path, **env, **UNMEASURED) as observer:
            sending = asyncio.create_task(asyncio.to_thread(sender.run))
            await asyncio.to_thread(sender.wait_for, REQUESTS // 4)
            receiver.gate.clear()  # the collector answers no more
            await asyncio.to_thread(sender.wait_for, REQUESTS // 2)
            await asyncio.to_thread(observer.kill)
        with running_observer(tmp_path, **env) as observer:
            await asyncio.wait_for(sending, PATIENCE_S)
            receiver.gate.set()
            while len(span_ids(receiver)) < REQUESTS * SPANS:
                await asyncio.wait_for(receiver.wait_for(len(receiver.spans) + 1), PATIENCE_S)
            async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
                stats = (await http.get(f"{observer.url}/stats")).json()
    assert sender.results == [SpanExportResult.SUCCESS] * REQUESTS
    assert (stats["total"], stats["successes"]) == (REQUESTS, REQUESTS)
    # What was in flight when it was killed comes again: one request of the sender's, and one on its way out.
    assert sum(span_ids(receiver).values()) - REQUESTS * SPANS <= SPANS + MAX_SPANS
