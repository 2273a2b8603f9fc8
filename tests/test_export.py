"""Spans on their way to a collector: the same op arrives; a collector that fails hurts nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, TraceFlags

from sidecar.export.otlp_exporter import SpanExport
from sidecar.model import ObservedOp
from sidecar.pipeline import Observer
from tests.observers import DEAD, client, journal, observer, says, settled, stand_in, without_crc
from tests.otlp_receiver import OtlpReceiver, otlp_receiver

_ODD_EVENT: dict[str, Any] = {
    "endpoint": "constructor",
    "success": "true",
    "duration_ms": 12.5,
    "count": 3,
    "role": "a\u0000b\ud800",
    "features": {"certified": True, "pay": 31.5, "n": 2**63 - 1, "huge": 2**70, "list": [1, {"a": None}], "": "empty"},
    "task": "t1",
    "unknown": {"nested": 1},
    "api_key": "hunter2",
}
_TO_GRPC, _TO_HTTP = "grpc", "http/protobuf"


def collector(receiver: OtlpReceiver, protocol: str) -> dict[str, str]:
    """The standard variables that point an observer at *receiver*."""
    endpoint = receiver.grpc_endpoint if protocol == _TO_GRPC else receiver.http_endpoint
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}


async def post(running: Observer, *events: dict[str, Any], **headers: str) -> None:
    async with client(running) as http:
        answer = await http.post("/events", content=json.dumps(events).encode(), headers=headers)
        assert answer.json()["accepted"] == len(events)


def as_json(ops: list[ObservedOp]) -> list[dict[str, Any]]:
    return [json.loads(json.dumps(_plain(op))) for op in ops]


def _plain(op: ObservedOp) -> dict[str, Any]:
    fields = {name: getattr(op, name) for name in op.__struct_fields__}
    return {name: value for name, value in fields.items() if value is not None}


@pytest.mark.parametrize("protocol", [_TO_GRPC, _TO_HTTP])
async def test_every_op_arrives_as_it_is_in_ring_and_journal(tmp_path: Path, protocol: str) -> None:
    """Events and gateway calls: the op rebuilt from the exported span is the one in `/ops` and `ops.jsonl`."""
    async with (
        otlp_receiver() as receiver,
        stand_in() as gateway,
        observer(tmp_path, GATEWAY_URL=gateway.url, **collector(receiver, protocol)) as running,
    ):
        gateway.answers["/x"] = says({"error": "closed \ud800"}, 409)
        await post(running, _ODD_EVENT, {f"field_{n}": n for n in range(200)}, {})
        await running.gateway.observed("/x", {"state": "NV"}, "call")
        await settled(running, 4)
        await asyncio.wait_for(receiver.wait_for(4), 60)
        async with client(running) as http:
            in_ring = (await http.get("/ops")).json()["ops"][::-1]
        lines = [without_crc(line) for line in journal(tmp_path)]
        assert as_json(receiver.ops()) == in_ring == lines
        assert [span.name for span in receiver.spans] == ["constructor", "scenario:fill", "scenario:fill", "/x"]
        assert receiver.spans[0].end_time_unix_nano - receiver.spans[0].start_time_unix_nano == 12_500_000
        assert "hunter2" not in str(receiver.requests)


async def test_the_resource_says_who_exports(tmp_path: Path) -> None:
    """`service.*`, from the standard variables."""
    async with (
        otlp_receiver() as receiver,
        observer(tmp_path, OTEL_SERVICE_NAME="witness", **collector(receiver, _TO_GRPC)) as running,
    ):
        await post(running, {})
        await asyncio.wait_for(receiver.wait_for(1), 60)
        resource = receiver.requests[0].resource_spans[0].resource
        said = {attribute.key: attribute.value.string_value for attribute in resource.attributes}
        assert said["service.name"] == "witness"
        assert said["service.version"]
        assert said["service.instance.id"]


async def test_what_waits_is_exported_at_the_stop(tmp_path: Path) -> None:
    """A drain, not a loss."""
    async with otlp_receiver() as receiver:
        async with observer(tmp_path, **collector(receiver, _TO_GRPC)) as running:
            await post(running, *({} for _ in range(700)))
        assert len(receiver.ops()) == 700
        assert running.export is not None
        assert (running.export.exported, running.export.queued) == (700, 0)


async def test_cycles_and_diagnoses_are_exported_with_links_to_their_evidence(tmp_path: Path) -> None:
    """The observer's own work is traced, in traces of its own."""
    async with otlp_receiver() as receiver, observer(tmp_path, **collector(receiver, _TO_GRPC)) as running:
        await post(running, {"error": "closed city"})
        await running.cycle.run_once()
        await asyncio.wait_for(receiver.wait_for(3), 60)
        spans = {span.name: span for span in receiver.spans}
        failure, diagnosis = spans["scenario:fill"], spans["observer.diagnosis"]
        assert [(link.trace_id, link.span_id) for link in diagnosis.links] == [(failure.trace_id, failure.span_id)]
        assert diagnosis.parent_span_id == spans["observer.cycle"].span_id
        assert len(receiver.ops()) == 1


@pytest.mark.parametrize(
    "env",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_SAMPLER": "always_off"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
    ],
)
async def test_export_can_be_turned_off_but_not_the_witness(tmp_path: Path, env: dict[str, str]) -> None:
    """The standard variables decide what leaves; ring, journal and analysis see everything all the same."""
    async with otlp_receiver() as receiver:
        async with (
            stand_in() as gateway,
            observer(tmp_path, **{**collector(receiver, _TO_GRPC), "GATEWAY_URL": gateway.url, **env}) as running,
        ):
            await post(running, {"error": "no"}, {})
            _, op = await running.gateway.observed("/x", {}, "call")
            await settled(running, 3)
            await running.cycle.run_once()
            assert [line["op_id"] for line in journal(tmp_path)][-1] == op.op_id
            assert len(running.incidents) == 1 + 1
        assert receiver.spans == []


async def test_an_unsampled_parent_is_journalled_and_not_exported(tmp_path: Path) -> None:
    """The sampled ones beside it are."""
    async with otlp_receiver() as receiver:
        async with observer(tmp_path, **collector(receiver, _TO_GRPC)) as running:
            parent = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"
            await post(running, {"role": "hidden"}, traceparent=f"00-{parent}-00")
            await post(running, {"role": "shown"}, traceparent=f"00-{parent}-01")
            assert [line["role"] for line in journal(tmp_path)] == ["hidden", "shown"]
        assert [op.role for op in receiver.ops()] == ["shown"]


class HeldExporter(SpanExporter):
    """Exports nothing until `gate` is set, then gives *result*, or raises."""

    def __init__(self, result: SpanExportResult | None = SpanExportResult.SUCCESS) -> None:
        self.result = result
        self.loop = asyncio.get_running_loop()
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()
        self.batches: list[list[str]] = []

    def export(self, spans: Any) -> SpanExportResult:
        self.loop.call_soon_threadsafe(self.entered.set)
        asyncio.run_coroutine_threadsafe(self._opened(), self.loop).result(60)
        self.batches.append([span.name for span in spans])
        if self.result is None:
            raise ConnectionError("the collector hung up")
        return self.result

    async def _opened(self) -> None:
        await self.gate.wait()


def a_span(name: str, text: str = "") -> ReadableSpan:
    """An ended, sampled span with *text* as an attribute."""
    context = SpanContext(1, 1, False, TraceFlags(1))
    return ReadableSpan(name, context, resource=Resource.get_empty(), attributes={"text": text})


@asynccontextmanager
async def exporting(exporter: SpanExporter, drain_s: float = 30.0) -> AsyncIterator[SpanExport]:
    export = SpanExport(exporter, drain_s, retry_s=0.0)
    async with asyncio.TaskGroup() as tasks:
        await export.start(tasks)
        try:
            yield export
        finally:
            await export.stop()


async def test_a_full_queue_loses_its_oldest_counted() -> None:
    """The queue is bounded; what leaves it unexported is counted, what the exporter refused too."""
    exporter = HeldExporter(SpanExportResult.FAILURE)
    async with exporting(exporter) as export:
        export.on_end(a_span("first"))
        await exporter.entered.wait()
        for number in range(8192 + 10):
            export.on_end(a_span(str(number)))
        assert (export.evicted, export.queued) == (10, 8192)
        exporter.gate.set()
    assert next(batch for batch in exporter.batches if batch != ["first"])[0] == "10"
    assert (export.failed, export.exported) == (8193, 0)


async def test_large_spans_are_bounded_in_bytes_in_the_queue_and_in_a_request() -> None:
    """A dead collector costs 16 MiB at most, and no request grows beyond what a collector takes (4 MiB)."""
    exporter = HeldExporter()
    async with exporting(exporter) as export:
        export.on_end(a_span("first"))
        await exporter.entered.wait()
        for number in range(20):
            export.on_end(a_span(str(number), "x" * 2**20))
        assert (export.evicted, export.queued) == (5, 15)
        exporter.gate.set()
    assert [len(batch) for batch in exporter.batches] == [1, *[1] * 15]
    assert export.exported == 16


async def test_an_exporter_that_raises_costs_its_batch_in_the_end() -> None:
    """The thread goes on with the next; spans that are not sampled never come to it."""
    exporter = HeldExporter(None)
    exporter.gate.set()
    async with exporting(exporter) as export:
        for number in range(2):
            export.on_end(a_span(str(number)))
            await exporter.entered.wait()
            exporter.entered.clear()
        export.on_end(ReadableSpan("unsampled", SpanContext(1, 1, False), resource=Resource.get_empty()))
    assert (export.failed, export.exported) == (2, 0)
    assert {name for batch in exporter.batches for name in batch} == {"0", "1"}


async def test_a_batch_that_is_refused_is_tried_again() -> None:
    """A collector that was away gets what it missed, once, and then what came after."""
    exporter = HeldExporter(SpanExportResult.FAILURE)
    async with exporting(exporter) as export:
        export.on_end(a_span("missed"))
        await exporter.entered.wait()
        export.on_end(a_span("after"))
        exporter.entered.clear()
        exporter.gate.set()
        await exporter.entered.wait()  # it was refused once, and comes again
        exporter.result = SpanExportResult.SUCCESS
    assert (export.failed, export.exported) == (0, 2)
    assert exporter.batches[0] == ["missed"]
    assert exporter.batches[-1][-1] == "after"


async def test_the_stop_does_not_wait_for_a_collector_that_hangs() -> None:
    """After the bound what is left is counted as lost."""
    exporter = HeldExporter()
    async with exporting(exporter, drain_s=0.05) as export:
        export.on_end(a_span("in flight"))
        await exporter.entered.wait()
        for _ in range(5):
            export.on_end(a_span("left"))
    assert (export.evicted, export.queued) == (5, 0)
    exporter.gate.set()


@pytest.mark.parametrize("protocol", [_TO_GRPC, _TO_HTTP])
@pytest.mark.parametrize("fault", ["dead", "silent"])
async def test_a_collector_that_is_dead_or_silent_hurts_nobody(tmp_path: Path, protocol: str, fault: str) -> None:
    """Doors, gateway calls and cycles go on, and the stop is clean."""
    async with stand_in() as gateway, stand_in() as silent:
        silent.silent |= {"/v1/traces", "*"}  # "*" is how HTTP/2, and so gRPC, begins
        address = DEAD if fault == "dead" else silent.url
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        async with observer(tmp_path, GATEWAY_URL=gateway.url, OBSERVER_GRACE="2", **env) as running:
            await post(running, *({} for _ in range(600)))
            _, op = await running.gateway.observed("/x", {}, "call")
            assert op.success
            await settled(running, 601)
            await running.cycle.run_once()
            async with client(running) as http:
                assert (await http.get("/health")).json()["ops_in_ring"] == 601
        export = running.export
        assert export is not None
        assert export.exported == 0
        assert len(journal(tmp_path)) == 601
