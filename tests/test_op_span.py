"""op → span → OTLP → op gives the same op back, whatever the op, its parent or the sampler."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind, StatusCode

from sidecar.clock import SystemClock
from sidecar.model import ObservedOp
from sidecar.normalize import Normalizer
from sidecar.redaction import Redactor
from sidecar.spans.attributes import OP_ID
from sidecar.spans.op_span import op_from_attributes, op_from_span
from sidecar.spans.provider import export_sampler, our_resource, tracer_provider
from sidecar.spans.recorder import OpRecorder
from sidecar.spans.span_processor import OpSpanProcessor
from sidecar.version import our_version
from tests.fakes import SettledReceipt
from tests.otlp_receiver import op_from_otlp, otlp_receiver, spans_in
from tests.strategies import ops

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


class KeptSpans(OpSpanProcessor):
    """The real processor over a sink that gives a receipt for each op; keeps the spans as well."""

    def __init__(self) -> None:
        super().__init__(self, SystemClock())
        self.spans: list[ReadableSpan] = []

    def append(self, op: ObservedOp, *, awaited: bool, envelope: bytes = b"") -> SettledReceipt:
        return SettledReceipt(op)

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)
        super().on_end(span)


class Bench:
    """Provider, processor and recorder, joined as in the observer."""

    def __init__(self, sampler: str = "parentbased_always_on", ratio: float = 1.0) -> None:
        self.kept = KeptSpans()
        processors = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]  # the SDK's own gap
        processors.add_span_processor(self.kept)
        self.provider: TracerProvider = tracer_provider(
            Resource({"service.name": "test"}), export_sampler(sampler, ratio), processors
        )
        self.recorder = OpRecorder(self.provider)

    def record(self, op: ObservedOp, traceparent: str = "", tracestate: str = "") -> tuple[ObservedOp, ReadableSpan]:
        """The op that came of *op*, and its span."""
        receipt = self.recorder.record(op, traceparent=traceparent, tracestate=tracestate)
        assert receipt is not None
        return receipt.op, self.kept.spans[-1]


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def an_op(**changes: object) -> ObservedOp:
    plain = ObservedOp(
        timestamp="2026-11-23T10:00:00.250Z",
        endpoint="/search",
        input_summary="forklift in Toledo",
        success=True,
        duration_ms=250,
        output_summary="3 rows",
        op_id="op-1",
        v=1,
    )
    return msgspec.structs.replace(plain, **changes)


def flags(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_flags)


def exact(op: ObservedOp) -> object:
    """*op* so that 1, 1.0 and True differ, and 0.0 and -0.0 too."""
    return repr(op)


normalized = ops().map(Normalizer(Redactor()).op)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(normalized, st.sampled_from(["", SAMPLED, UNSAMPLED]))
def test_op_is_the_same_after_span_and_otlp(bench: Bench, op: ObservedOp, traceparent: str) -> None:
    """A normalised op comes back exactly, ids filled in, from its span and from the bytes that OTLP sends."""
    back, span = bench.record(op, traceparent)
    filled = msgspec.structs.replace(
        op, trace_id=back.trace_id, span_id=back.span_id, parent_span_id=PARENT if traceparent else None
    )
    assert exact(back) == exact(filled)
    wire = encode_spans([span]).SerializeToString()
    (read,) = spans_in(ExportTraceServiceRequest.FromString(wire))
    assert exact(op_from_otlp(read) or op) == exact(filled)


@settings(max_examples=100, deadline=None)
@given(normalized)
def test_op_is_the_same_after_the_journal(op: ObservedOp) -> None:
    """A normalised op comes back exactly from its JSON."""
    assert exact(msgspec.json.decode(msgspec.json.encode(op), type=ObservedOp)) == exact(op)


def test_span_says_what_the_op_says(bench: Bench) -> None:
    """Name, kind, times and status of the span follow from the op."""
    _, span = bench.record(an_op())
    assert (span.name, span.kind, span.status.status_code) == ("/search", SpanKind.INTERNAL, StatusCode.UNSET)
    assert span.end_time == 1_795_428_000_250_000_000
    assert span.start_time == 1_795_428_000_000_000_000
    assert span.attributes is not None
    assert "error.type" not in span.attributes


def test_failure_is_an_error_with_its_message(bench: Bench) -> None:
    """A failed op's span has status Error with the message, and a bounded `error.type`."""
    _, span = bench.record(an_op(success=False, error="closed city", error_type="409"))
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "closed city")
    assert span.attributes is not None
    assert span.attributes["error.type"] == "409"
    _, other = bench.record(an_op(success=False, output_summary="failed"))
    assert other.status.description == "failed"
    assert other.attributes is not None
    assert other.attributes["error.type"] == "_OTHER"


@pytest.mark.parametrize(
    ("timestamp", "duration_ms", "start", "end"),
    [
        ("0001-01-01T00:00:00.000Z", 5, 0, 0),
        ("9999-12-31T23:59:59.999Z", 0, 2**64 - 1, 2**64 - 1),
        ("1970-01-01T00:00:01.000Z", 1e300, 0, 10**9),
        ("1970-01-01T00:00:01.000Z", 10**400, 0, 10**9),
        ("1970-01-01T00:00:01.000Z", 0.5, 10**9 - 500_000, 10**9),
        ("1970-01-01T00:00:01.000Z", -5, 10**9, 10**9),
    ],
)
def test_times_stay_within_otlp(bench: Bench, timestamp: str, duration_ms: float, start: int, end: int) -> None:
    """However odd the time and the duration, the span's times fit OTLP, and it starts before it ends."""
    _, span = bench.record(an_op(timestamp=timestamp, duration_ms=duration_ms))
    assert (span.start_time, span.end_time) == (start, end)
    encode_spans([span]).SerializeToString()


def test_valid_traceparent_is_the_parent(bench: Bench) -> None:
    """The header's span is the parent; trace state is handed on; the op's own ids do not matter then."""
    op, span = bench.record(an_op(trace_id="1" * 32, parent_span_id="2" * 16), SAMPLED, "vendor=1")
    assert (op.trace_id, op.parent_span_id) == (TRACE, PARENT)
    assert flags(span) == 1
    assert span.context is not None
    assert span.context.trace_state.to_header() == "vendor=1"


def test_unsampled_parent_is_recorded_and_not_exported(bench: Bench) -> None:
    """An agent's unsampled `traceparent` gives an op like any other; its span carries flags 0."""
    op, span = bench.record(an_op(), UNSAMPLED)
    assert (op.trace_id, op.parent_span_id) == (TRACE, PARENT)
    assert flags(span) == 0


@pytest.mark.parametrize("header", ["junk", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}"])
def test_invalid_traceparent_is_no_parent(bench: Bench, header: str) -> None:
    """A header that is not valid is as good as none."""
    op, span = bench.record(an_op(), header)
    assert op.parent_span_id is None
    assert op.trace_id != TRACE
    assert flags(span) == 1


def test_ids_of_the_event_are_the_parent(bench: Bench) -> None:
    """`trace_id` and `parent_span_id` of an event place its span, in lower case."""
    op, _ = bench.record(an_op(trace_id=TRACE.upper(), parent_span_id=PARENT.upper()))
    assert (op.trace_id, op.parent_span_id) == (TRACE, PARENT)


def test_trace_id_alone_joins_the_trace_as_a_root(bench: Bench) -> None:
    """Without a parent span there is none to point at."""
    op, span = bench.record(an_op(trace_id=TRACE))
    assert (op.trace_id, op.parent_span_id, span.parent) == (TRACE, None, None)
    assert flags(span) == 1


@pytest.mark.parametrize("trace_id", ["", "0" * 32, "xyz", "0x" + "1" * 30, "1" * 33, "1" * 31 + "\n", "١" * 32])
def test_unusable_ids_of_the_event_are_replaced(bench: Bench, trace_id: str) -> None:
    """An id that is none never stops the op: it gets a trace of its own."""
    op, span = bench.record(an_op(trace_id=trace_id, parent_span_id="no"))
    assert op.trace_id != trace_id
    assert op.parent_span_id is None
    assert span.context is not None
    assert span.context.is_valid


@pytest.mark.parametrize("parent_span_id", ["", "0" * 16, "no", "1" * 17])
def test_unusable_parent_of_the_event_leaves_a_root(bench: Bench, parent_span_id: str) -> None:
    """A parent id that is none leaves the trace id in force."""
    op, _ = bench.record(an_op(trace_id=TRACE, parent_span_id=parent_span_id))
    assert (op.trace_id, op.parent_span_id) == (TRACE, None)


@pytest.mark.parametrize(
    ("sampler", "ratio", "root", "sampled", "unsampled"),
    [
        ("always_on", 1.0, 1, 1, 1),
        ("always_off", 1.0, 0, 0, 0),
        ("traceidratio", 1.0, 1, 1, 1),
        ("traceidratio", 0.0, 0, 0, 0),
        ("parentbased_always_on", 1.0, 1, 1, 0),
        ("parentbased_always_off", 1.0, 0, 1, 0),
        ("parentbased_traceidratio", 0.0, 0, 1, 0),
        ("parentbased_traceidratio", 1.0, 1, 1, 0),
    ],
)
def test_sampler_governs_export_only(sampler: str, ratio: float, root: int, sampled: int, unsampled: int) -> None:
    """Whatever sampler is set, every op is recorded; the sampled flag alone differs."""
    bench = Bench(sampler, ratio)
    spans = [bench.record(an_op(), header)[1] for header in ("", SAMPLED, UNSAMPLED)]
    assert [flags(span) for span in spans] == [root, sampled, unsampled]
    with bench.provider.get_tracer("t").start_as_current_span("live") as live:
        assert live.is_recording()


def test_sdk_variables_do_not_blind_the_witness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits and the off switch of the SDK's own variables leave every attribute where it was."""
    for name in ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT"):
        monkeypatch.setenv(name, "1")
    for name in ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    bench = Bench()
    op = an_op(features={str(i): i for i in range(64)}, extra={str(i): "long text" for i in range(64)})
    back, span = bench.record(op)
    assert (back.features, back.extra) == (op.features, op.extra)
    assert flags(span) == 1
    attributes = {f"key{i}": "long text" for i in range(200)}
    with bench.provider.get_tracer("t").start_as_current_span("live", attributes=attributes):
        pass
    assert dict(bench.kept.spans[-1].attributes or {}) == attributes


def test_links_name_the_evidence(bench: Bench) -> None:
    """The spans an op refers to are links of its span."""
    bench.recorder.record(an_op(), linked=[(TRACE, PARENT)])
    (link,) = bench.kept.spans[-1].links
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == (TRACE, PARENT)


def test_other_spans_are_no_ops() -> None:
    """Spans without our attributes are not ops; attributes that lack required fields are refused."""
    assert op_from_span(ReadableSpan("x")) is None
    assert op_from_attributes({"http.request.method": "GET"}, TRACE, PARENT, None) is None
    with pytest.raises(TypeError):
        op_from_attributes({OP_ID: "x"}, TRACE, PARENT, None)


def test_unknown_attributes_of_ours_are_left_aside() -> None:
    """A newer observer's fields do not stop an older one from reading the rest."""
    attributes = {"observer.op." + name: getattr(an_op(), name) for name in ("timestamp", "endpoint", "op_id", "v")}
    attributes |= {"observer.op.input_summary": "", "observer.op.output_summary": "", "observer.op.success": True}
    attributes |= {"observer.op.duration_ms": 1, "observer.op.from_the_future": 1, "other": 2}
    op = op_from_attributes(attributes, TRACE, PARENT, None)
    assert op is not None
    assert (op.endpoint, op.features, op.extra) == ("/search", None, None)


def test_resource_says_who_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """`service.*` is ours, `k8s.*` comes from the downward API, and OTEL_RESOURCE_ATTRIBUTES goes over it."""
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)
    env = {"K8S_POD_NAME": "p", "K8S_NAMESPACE_NAME": "n", "K8S_CONTAINER_NAME": "c"}
    said = our_resource("lakehouse-observer", env).attributes
    assert (said["service.name"], said["service.version"]) == ("lakehouse-observer", our_version())
    assert (said["service.instance.id"], said["k8s.pod.name"]) == ("n.p.c", "p")
    assert "k8s.node.name" not in said
    assert our_resource("mine", {}).attributes["service.name"] == "mine"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=staffing,service.name=other")
    again = our_resource("lakehouse-observer", env).attributes
    assert (again["service.namespace"], again["service.name"]) == ("staffing", "other")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_real_exporters_deliver_the_same_ops(bench: Bench, protocol: str) -> None:
    """The stock exporters, over a real socket, deliver spans from which the same ops are rebuilt."""
    import asyncio  # noqa: PLC0415 - beside the exporters, which only this test needs

    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter  # noqa: PLC0415 - gRPC is slow to import
    from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415 - gRPC is slow to import
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter  # noqa: PLC0415 - gRPC is slow to import

    recorded = [bench.record(an_op(op_id=str(i), count=i, extra={"": i / 2})) for i in range(5)]
    async with otlp_receiver() as receiver:
        exporter: GrpcExporter | HttpExporter
        if protocol == "grpc":
            exporter = GrpcExporter(endpoint=receiver.grpc_endpoint, insecure=True)
        else:
            exporter = HttpExporter(endpoint=receiver.http_endpoint + "/v1/traces", compression=Compression.Gzip)
        await asyncio.to_thread(exporter.export, [span for _, span in recorded])
        await receiver.wait_for(5)
        await asyncio.to_thread(exporter.shutdown)
    assert [exact(op) for op in receiver.ops()] == [exact(op) for op, _ in recorded]
