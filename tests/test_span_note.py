"""A journal line says the whole span: what is exported from it is what the SDK's encoder makes of the live span."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as PbSpan
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SynchronousMultiSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState, use_span

from sidecar.clock import SystemClock
from sidecar.export.span_encoding import request_wrapper, span_bytes
from sidecar.gateway.observed_gateway import ObservedGateway
from sidecar.model import ObservedOp
from sidecar.normalize import Normalizer
from sidecar.redaction import Redactor
from sidecar.spans.op_span import op_attributes, parent_from_headers
from sidecar.spans.provider import export_sampler, tracer_provider
from sidecar.spans.recorder import OpRecorder
from sidecar.spans.span_note import UNSAMPLED_MARK, JournalledOp
from sidecar.spans.span_processor import OpSpanProcessor
from tests.fakes import SettledReceipt, an_op
from tests.observers import says, stand_in
from tests.otlp_receiver import spans_in
from tests.strategies import ops

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RESOURCE = Resource({"service.name": "test"})
SCOPE = InstrumentationScope("lakehouse-observer", "1")
normalized = ops().map(Normalizer(Redactor()).op)


class Journalled(OpSpanProcessor):
    """The real processor; keeps each span with its op and its envelope, as the journal would."""

    def __init__(self) -> None:
        super().__init__(self, SystemClock())
        self.spans: list[ReadableSpan] = []
        self.lines: list[bytes] = []
        self.awaited: list[bool] = []

    def append(self, op: ObservedOp, *, awaited: bool, envelope: bytes = b"") -> SettledReceipt:
        record = msgspec.json.encode(op)
        self.awaited.append(awaited)
        self.lines.append(b'%b,"span":%b}' % (record[:-1], envelope) if envelope else record)
        return SettledReceipt(op)

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)
        super().on_end(span)


class Bench:
    """Provider, recorder and processor, joined as in the observer."""

    def __init__(self, sampler: str = "parentbased_always_on") -> None:
        self.journal = Journalled()
        processors = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]  # the SDK's own gap
        processors.add_span_processor(self.journal)
        self.provider = tracer_provider(RESOURCE, export_sampler(sampler, 1.0), processors)
        self.recorder = OpRecorder(self.provider)
        self.tracer = self.provider.get_tracer("lakehouse-observer", "1")

    def check(self) -> PbSpan:
        """The last journalled span as it is exported; fails unless it is what the live one would have been."""
        live = encode_spans([self.journal.spans[-1]]).resource_spans[0].scope_spans[0].spans[0]
        rebuilt: PbSpan = PbSpan.FromString(span_bytes(record(self.journal.lines[-1])) or b"")
        assert in_order(rebuilt) == in_order(live)
        return rebuilt


def record(line: bytes) -> JournalledOp:
    """A journal line as the export reads it."""
    return msgspec.json.decode(line, type=JournalledOp)


def in_order(span: PbSpan) -> bytes:
    """*span*'s bytes with its attributes sorted: their order says nothing."""
    attributes = sorted(span.attributes, key=lambda attribute: attribute.key)
    del span.attributes[:]
    span.attributes.extend(attributes)
    return bytes(span.SerializeToString(deterministic=True))


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    normalized,
    st.sampled_from(["", f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"]),
    st.sampled_from(["", "vendor=1", "b=2,a=1"]),
    st.lists(st.just((TRACE, PARENT)), max_size=2),
)
def test_a_recorded_span_comes_back_from_its_line(
    bench: Bench, op: ObservedOp, traceparent: str, tracestate: str, linked: list[tuple[str, str]]
) -> None:
    """Whatever the op, its parent, trace state and links: the bytes are those of the live span."""
    receipt = bench.recorder.record(op, traceparent=traceparent, tracestate=tracestate, linked=linked)
    assert receipt is not None
    bench.check()
    assert record(bench.journal.lines[-1]) is not None
    assert msgspec.json.decode(bench.journal.lines[-1], type=ObservedOp) == receipt.op
    unsampled = record(bench.journal.lines[-1]).span
    assert (unsampled is not None and unsampled.unsampled) == traceparent.endswith("-00")
    assert (UNSAMPLED_MARK in bench.journal.lines[-1]) == traceparent.endswith("-00")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    normalized,
    st.sampled_from(list(SpanKind)),
    st.dictionaries(
        st.sampled_from(["gen_ai.tool.name", "http.request.method", "server.port", "error.type", "x"]),
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
            st.integers(-(2**63), 2**63 - 1),
            st.booleans(),
            st.floats(allow_nan=False, allow_infinity=False),
            st.lists(st.integers(-5, 5), max_size=2),
        ),
    ),
    st.sampled_from([None, StatusCode.OK, StatusCode.ERROR]),
    st.tuples(st.integers(0, 2**63), st.integers(0, 10**12)),
    st.booleans(),
)
def test_a_live_span_comes_back_from_its_line(
    bench: Bench,
    op: ObservedOp,
    kind: SpanKind,
    beside: dict[str, Any],
    status: StatusCode | None,
    times: tuple[int, int],
    inner: bool,
) -> None:
    """Kind, times, status, standard attributes, links and a local parent are kept beside the op."""
    start, duration = times
    outer = bench.tracer.start_span("outer")
    link = Link(SpanContext(5, 6, False, TraceFlags(1), TraceState([("a", "b")])), {"why": "evidence"})
    with use_span(outer) if inner else use_span(bench.tracer.start_span("other"), end_on_exit=False):
        span = bench.tracer.start_span("live", kind=kind, attributes=beside, start_time=start, links=[link])
    span.set_attributes(op_attributes(op))
    span.set_attributes({key: value for key, value in beside.items() if key != "error.type"})
    if status is not None:
        span.set_status(status, "why" if status is StatusCode.ERROR else None)
    span.end(start + duration)
    bench.check()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    normalized,
    st.sampled_from(["", f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00", "no context"]),
    st.sampled_from(["", "b=2,a=1"]),
    st.dictionaries(
        st.sampled_from(["gen_ai.tool.name", "http.request.method", "server.port"]),
        st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.integers(-(2**63), 2**63 - 1)),
    ),
    st.tuples(st.integers(0, 2**63), st.integers(0, 10**12)),
)
def test_a_call_comes_back_from_its_line(
    bench: Bench, op: ObservedOp, traceparent: str, tracestate: str, beside: dict[str, Any], times: tuple[int, int]
) -> None:
    """The ids that it had from its beginning, its times to the ns, what stands beside the op; nobody waits for it."""
    call = bench.recorder.begin("/a", parent_from_headers(traceparent, tracestate))
    bench.recorder.end(call, op, (times[0], sum(times)), beside)
    span, line = bench.check(), record(bench.journal.lines[-1])
    assert not bench.journal.awaited[-1]
    assert (span.trace_id, span.span_id) == (call.context.trace_id.to_bytes(16), call.context.span_id.to_bytes(8))
    assert (span.kind, span.name) == (PbSpan.SPAN_KIND_CLIENT, op.endpoint)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (times[0], sum(times))
    assert line.parent_span_id == (PARENT if traceparent.startswith("00-") else None)
    assert (line.span is not None and line.span.unsampled) == traceparent.endswith("-00")


async def test_gateway_calls_come_back_from_their_lines(bench: Bench) -> None:
    """As calls really end: answered, refused, failed; within another span and alone."""
    async with stand_in() as gateway, httpx.AsyncClient(trust_env=False, timeout=30) as http:
        gateway.answers["/no"] = says({"error": "closed \ud800"}, 409)
        calls = ObservedGateway(gateway.url, http, bench.recorder, Normalizer(Redactor()), SystemClock(), timeout_s=10)
        for path in ("/yes", "/no", "@elsewhere"):
            await calls.observed(path, {"state": "NV", "n": 3}, "call")
            assert bench.check().kind == PbSpan.SPAN_KIND_CLIENT
            with bench.tracer.start_as_current_span("agent"):
                await calls.observed(path, {}, "call", task="t")
                assert bench.check().flags == 0x100
            await asyncio.sleep(0)


def test_a_plain_event_costs_no_byte(bench: Bench) -> None:
    """Its line is the op's JSON and nothing else; with an agent's parent too."""
    for traceparent in ("", f"00-{TRACE}-{PARENT}-01"):
        bench.recorder.record(an_op(op_id="1"), traceparent=traceparent)
        assert "span" not in json.loads(bench.journal.lines[-1])


def test_no_text_of_an_op_marks_its_span_as_unsampled(bench: Bench) -> None:
    """What a sender writes into its fields, names included, is sent on as any other text."""
    mark = UNSAMPLED_MARK.decode()
    op = an_op(op_id="1", error=mark, features={"span": mark[8:], mark: 1}, extra={'a"': mark, "span": "{"})
    bench.recorder.record(op)
    assert UNSAMPLED_MARK not in bench.journal.lines[-1]
    bench.check()


def test_names_and_values_of_any_length_are_encoded(bench: Bench) -> None:
    """A length of one byte, of two or of three, of a name that is kept in memory or one that is not."""
    for size in (0, 1, 63, 64, 65, 100, 127, 128, 129, 16_384):
        said = {"x" * size: "é" * size, "y" * size: size, "z" * size: size % 2 == 0, "f" * size: 0.5}
        features = {name: said[name] for name in said if name}
        bench.recorder.record(an_op(op_id="1", role="x" * size, error="é" * size, count=size, features=features))
        bench.check()


def test_lines_of_older_journals_are_plain_ops() -> None:
    """Without a note a line is an internal, sampled span; without ids it is none."""
    old = an_op(op_id="1", trace_id=TRACE, span_id=PARENT, success=False, error="no")
    span = PbSpan.FromString(span_bytes(record(msgspec.json.encode(old))) or b"")
    assert (span.kind, span.status.code, span.status.message) == (PbSpan.SPAN_KIND_INTERNAL, 2, "no")
    assert span_bytes(record(msgspec.json.encode(an_op(op_id="1")))) is None
    assert span_bytes(record(msgspec.json.encode(an_op(trace_id="ab", span_id=PARENT)))) is None


def test_a_request_is_what_the_sdk_encoder_makes(bench: Bench) -> None:
    """Resource and scope stand around the spans as they always did."""
    bench.recorder.record(an_op(op_id="1"))
    bench.recorder.record(an_op(op_id="2"))
    spans = [span_bytes(record(line)) or b"" for line in bench.journal.lines[-2:]]
    scope = bench.journal.spans[-1].instrumentation_scope
    assert scope is not None
    request = ExportTraceServiceRequest.FromString(request_wrapper(RESOURCE, scope)(spans))
    live = encode_spans(bench.journal.spans[-2:])
    assert request.resource_spans[0].resource == live.resource_spans[0].resource
    assert request.resource_spans[0].scope_spans[0].scope == live.resource_spans[0].scope_spans[0].scope
    assert [span.span_id for span in spans_in(request)] == [span.span_id for span in spans_in(live)]
    assert len(request.resource_spans) == len(request.resource_spans[0].scope_spans) == 1


def test_what_cannot_be_noted_costs_the_note_only(tmp_path: Path) -> None:
    """An attribute that JSON cannot say leaves the op in the journal, counted."""
    bench = Bench()
    span = bench.tracer.start_span("live", attributes={**op_attributes(an_op(op_id="1")), "odd": "\ud800"})
    span.end()
    assert (bench.journal.unnoted, bench.journal.lost, len(bench.journal.lines)) == (1, 0, 1)
