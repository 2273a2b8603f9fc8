"""Ended spans become ops on the way to the sink, and nothing that goes wrong there reaches the caller."""

from __future__ import annotations

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SynchronousMultiSpanProcessor, TracerProvider

from sidecar.model import ObservedOp
from sidecar.protocols import Receipt
from sidecar.spans.op_span import op_attributes
from sidecar.spans.provider import export_sampler, tracer_provider
from sidecar.spans.recorder import OpRecorder
from sidecar.spans.span_processor import OpSpanProcessor
from tests.fakes import ManualClock

OP = ObservedOp(
    timestamp="2026-11-23T10:00:00.250Z",
    endpoint="/search",
    input_summary="forklift",
    success=True,
    duration_ms=250,
    output_summary="3 rows",
    op_id="op-1",
)


class GivenReceipt:
    """A receipt that is settled."""

    taken = True

    def __init__(self, op: ObservedOp) -> None:
        self.op = op

    async def wait(self) -> None:
        """Settled."""


class ToldSink:
    """Keeps (op, awaited); full or broken when told so."""

    def __init__(self, *, full: bool = False, broken: bool = False) -> None:
        self.kept: list[tuple[ObservedOp, bool]] = []
        self._full = full
        self._broken = broken

    def append(self, op: ObservedOp, *, awaited: bool, envelope: bytes = b"") -> Receipt | None:
        if self._broken:
            raise RuntimeError("broken")
        if self._full:
            return None
        self.kept.append((op, awaited))
        return GivenReceipt(op)


def provider_over(processor: OpSpanProcessor) -> TracerProvider:
    processors = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]  # the SDK's own gap
    processors.add_span_processor(processor)
    return tracer_provider(Resource({}), export_sampler("always_on", 1.0), processors)


def test_recorded_ops_are_awaited_and_live_spans_are_not() -> None:
    """A door awaits its op's receipt; a gateway call's span is handed on without anyone waiting."""
    sink = ToldSink()
    processor = OpSpanProcessor(sink, ManualClock())
    provider = provider_over(processor)
    receipt = OpRecorder(provider).record(OP)
    with provider.get_tracer("t").start_as_current_span("call", attributes=op_attributes(OP)):
        pass
    assert [(op.op_id, awaited) for op, awaited in sink.kept] == [("op-1", True), ("op-1", False)]
    assert receipt is not None
    assert receipt.op is sink.kept[0][0]
    assert processor.lost == 0


def test_spans_that_are_no_ops_pass_by() -> None:
    """The observer's own spans, and other people's, are not ops."""
    sink = ToldSink()
    processor = OpSpanProcessor(sink, ManualClock())
    with (
        provider_over(processor).get_tracer("t").start_as_current_span("cycle", attributes={"observer.cycle.number": 1})
    ):
        pass
    assert (sink.kept, processor.lost) == ([], 0)


def test_a_full_sink_gives_no_receipt() -> None:
    """No room means no receipt, and the door answers 503."""
    processor = OpSpanProcessor(ToldSink(full=True), ManualClock())
    assert OpRecorder(provider_over(processor)).record(OP) is None
    assert processor.lost == 0  # the sink counts what it has no room for


def test_a_broken_sink_never_reaches_the_caller() -> None:
    """Whatever fails inside costs the op, is counted, and leaves the caller's block alone."""
    processor = OpSpanProcessor(ToldSink(broken=True), ManualClock())
    provider = provider_over(processor)
    assert OpRecorder(provider).record(OP) is None
    with provider.get_tracer("t").start_as_current_span("call", attributes=op_attributes(OP)):
        pass
    assert processor.lost == 2


def test_a_span_that_is_half_an_op_is_counted() -> None:
    """Attributes of ours without the required fields cost that span only."""
    processor = OpSpanProcessor(ToldSink(), ManualClock())
    with provider_over(processor).get_tracer("t").start_as_current_span("x", attributes={"observer.op.op_id": "1"}):
        pass
    assert processor.lost == 1


def test_the_processor_has_nothing_to_flush() -> None:
    """Shutting the provider down leaves the journal open: it is a stage of its own."""
    sink = ToldSink()
    processor = OpSpanProcessor(sink, ManualClock())
    provider = provider_over(processor)
    assert provider.force_flush()
    provider.shutdown()
    assert processor.lost == 0
