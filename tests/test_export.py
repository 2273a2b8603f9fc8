"""Spans on their way to a collector: the same op arrives; a collector that fails hurts nobody."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.model import ObservedOp
from sidecar.pipeline.observer import Observer
from tests.observers import DEAD, client, journal, observer, says, settled, stand_in, without_crc
from tests.otlp_receiver import TAKEN, OtlpReceiver, Said, otlp_receiver, spans_in

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
        assert [span.kind for span in receiver.spans] == [1, 1, 1, 3]
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
        assert (running.export.exported, running.export.waiting_bytes) == (700, {"journal": 0, "spool": 0})


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
            assert len(running.books.incidents) == 1 + 1
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


@pytest.mark.parametrize("protocol", [_TO_GRPC, _TO_HTTP])
@pytest.mark.parametrize("fault", ["dead", "silent"])
async def test_a_collector_that_is_dead_or_silent_hurts_nobody(tmp_path: Path, protocol: str, fault: str) -> None:
    """Doors, gateway calls and cycles go on, and the stop is clean."""
    async with stand_in() as gateway, stand_in() as silent:
        silent.silent |= {"/v1/traces", "*"}  # "*" is how HTTP/2, and so gRPC, begins
        address = DEAD if fault == "dead" else silent.url
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        async with observer(tmp_path, GATEWAY_URL=gateway.url, **env) as running:
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


@pytest.mark.parametrize("protocol", [_TO_GRPC, _TO_HTTP])
async def test_an_outage_costs_nothing(tmp_path: Path, protocol: str) -> None:
    """Events, gateway calls and own spans of an outage arrive once the collector is back, each of them once."""
    async with otlp_receiver() as before, observer(tmp_path, **collector(before, protocol)) as running:
        await post(running, {"role": "before"})
        await asyncio.wait_for(before.wait_for(1), 60)
        before.refusals = 2
        await post(running, *({"role": str(n)} for n in range(600)))
        await running.cycle.run_once()
        await running.gateway.observed("/x", {}, "call")
        await asyncio.wait_for(before.wait_for(1 + 600 + 1 + 2), 60)
        assert len({span.span_id for span in before.spans}) == len(before.spans) == 604
        assert running.export is not None
        assert (running.export.evicted, sum(running.export.failed.values())) == (0, 0)


@pytest.mark.parametrize("protocol", [_TO_GRPC, _TO_HTTP])
async def test_a_collector_that_comes_back_on_its_port_is_found(tmp_path: Path, protocol: str) -> None:
    """It was away altogether, connection and all."""
    async with otlp_receiver() as before:
        pass
    async with observer(tmp_path, **collector(before, protocol)) as running:
        await post(running, {"role": "missed"})
        assert running.export is not None
        async with client(running) as http:
            while running.export.journal_lane.retries == 0:  # an attempt was made, and failed
                await http.get("/health")
        async with otlp_receiver(before) as after:
            await asyncio.wait_for(after.wait_for(1), 60)
            assert [op.role for op in after.ops()] == ["missed"]


async def test_fresh_spans_pass_a_backlog(tmp_path: Path) -> None:
    """While what an outage left behind drains slowly, a new event needs to wait for one request only."""
    async with otlp_receiver() as receiver, observer(tmp_path, **collector(receiver, _TO_GRPC)) as running:
        receiver.refusals = 10**9
        await post(running, *({"role": "old"} for _ in range(1900)))
        await asyncio.wait_for(receiver.wait_refused(1), 60)
        receiver.gate.clear()
        receiver.refusals = 0
        receiver.answer = lambda _: _closing(receiver)
        await asyncio.wait_for(receiver.wait_arrived(receiver.refused + 1), 60)  # the first of the backlog
        receiver.gate.set()
        await asyncio.wait_for(receiver.wait_for(1), 60)
        await post(running, {"role": "fresh"})
        await settled(running, 1901)
        receiver.answer = lambda _: TAKEN
        receiver.gate.set()
        await asyncio.wait_for(receiver.wait_for(1901), 60)
        assert len({span.span_id for span in receiver.spans}) == 1901
        (fresh,) = (op.span_id for op in receiver.ops() if op.role == "fresh")
    requests = [{span.span_id.hex() for span in spans_in(request)} for request in receiver.requests]
    (ahead,) = (number for number, ids in enumerate(requests) if fresh in ids)
    # What was taken, and the request that was made before it was posted. One more may be made as it comes.
    assert ahead <= 3 < len(requests) - 1


def _closing(receiver: OtlpReceiver) -> Said:
    """Take it, and hold the next one."""
    receiver.gate.clear()
    return TAKEN


async def test_what_is_left_at_the_stop_comes_with_the_next_start(tmp_path: Path) -> None:
    """It is no loss: ops are in the journal, the observer's own spans in the spool."""
    async with otlp_receiver() as before:
        async with observer(tmp_path, **collector(before, _TO_GRPC)) as running:
            await post(running, {"role": "seen"})
            await asyncio.wait_for(before.wait_for(1), 60)
            before.refusals = 10**9
            await post(running, {"role": "left"})
            await running.cycle.run_once()
        assert running.export is not None
        assert min(running.export.waiting_bytes.values()) > 0
        assert (running.export.evicted, sum(running.export.failed.values())) == (0, 0)
    async with otlp_receiver(before) as after, observer(tmp_path, **collector(before, _TO_GRPC)):
        await asyncio.wait_for(after.wait_for(3), 60)
        assert sorted(span.name for span in after.spans) == ["observer.cycle", "observer.diagnosis", "scenario:fill"]
        assert [op.role for op in after.ops()] == ["left"]


async def test_a_journal_from_before_the_export_is_not_sent(tmp_path: Path) -> None:
    """Export begins where it is turned on; from there nothing is left out, also not while it is off."""
    async with observer(tmp_path) as running:
        await post(running, {"role": "before"})
    async with otlp_receiver() as receiver:
        async with observer(tmp_path, **collector(receiver, _TO_GRPC)) as running:
            await post(running, {"role": "first"})
        async with observer(tmp_path) as running:
            await post(running, {"role": "while off"})
        async with observer(tmp_path, **collector(receiver, _TO_GRPC)) as running:
            await post(running, {"role": "last"})
        assert sorted(str(op.role) for op in receiver.ops()) == ["first", "last", "while off"]


async def test_no_endpoint_leaves_no_spool(tmp_path: Path) -> None:
    """Nothing is written for nobody."""
    async with observer(tmp_path) as running:
        await post(running, {})
        await running.cycle.run_once()
    assert not list((tmp_path / "data").glob("*spool*"))
    assert not list((tmp_path / "data").glob("*cursor*"))


async def test_headers_and_compression_come_from_the_standard_variables(tmp_path: Path) -> None:
    """Those for traces go over the general ones."""
    env = {
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=general",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "api-key=a%20b,x-tenant=t",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    }
    for protocol in (_TO_GRPC, _TO_HTTP):
        async with otlp_receiver() as receiver:
            async with observer(tmp_path / protocol, **collector(receiver, protocol), **env) as running:
                await post(running, {})
            assert (receiver.headers[0]["api-key"], receiver.headers[0]["x-tenant"]) == ("a b", "t")
            assert "gzip" in (receiver.headers[0].get("content-encoding", "gzip"))


@pytest.mark.parametrize("protocol", [_TO_GRPC, _TO_HTTP])
async def test_own_metrics_are_pushed_too(tmp_path: Path, protocol: str) -> None:
    """Each interval and at the stop, under the same rules; `none` keeps them here."""
    async with otlp_receiver() as receiver:
        env = {**collector(receiver, protocol), "OTEL_METRIC_EXPORT_INTERVAL": "100"}
        async with observer(tmp_path, **env) as running:
            await post(running, {})
            await asyncio.wait_for(receiver.wait_metrics(2), 60)
        scope = receiver.metrics[-1].resource_metrics[0].scope_metrics[0]
        accepted = next(metric for metric in scope.metrics if metric.name == "observer.events.accepted")
        assert accepted.sum.data_points[0].as_int == 1
        pushed = len(receiver.metrics)
        async with observer(tmp_path, **env, OTEL_METRICS_EXPORTER="none") as running:
            await post(running, {})
            await asyncio.wait_for(receiver.wait_for(2), 60)
        assert len(receiver.metrics) == pushed
