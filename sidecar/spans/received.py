"""Ops whose spans came from elsewhere: journalled and learnt from under their own ids, never exported again.

From `receivers.otlp_receiver`, through the provider's processors as every other op. The span itself is passed on as
it was sent, so the one that stands for the op here is not sampled.
"""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from sidecar.model import ObservedOp
from sidecar.protocols import Receipt
from sidecar.spans.conventions_table import Kind
from sidecar.spans.op_span import OpSpan

SCOPE_NAME = "lakehouse-observer.received"
_UNSAMPLED = TraceFlags(TraceFlags.DEFAULT)


class ReceivedRecorder:
    """A `SpanWitness` over *provider*'s processors.

    *absorbed* is told of an op that another's witness had seen before, and of the one that it is.
    """

    def __init__(
        self, provider: TracerProvider, absorbed: Callable[[ObservedOp, ObservedOp], None] = lambda _op, _into: None
    ) -> None:
        self._absorbed = absorbed
        self._resource = provider.resource
        self._processor = provider._active_span_processor  # noqa: SLF001 - the one given at construction
        self._scope = InstrumentationScope(SCOPE_NAME)

    def witness(self, op: ObservedOp) -> Receipt | None:
        """The receipt of *op*, in the normal form and with `trace_id` and `span_id`; None if nothing took it."""
        trace_id = int(op.trace_id or "0", 16)
        context = SpanContext(trace_id, int(op.span_id or "0", 16), is_remote=False, trace_flags=_UNSAMPLED)
        parent = None
        if op.parent_span_id:
            parent = SpanContext(trace_id, int(op.parent_span_id, 16), is_remote=True, trace_flags=_UNSAMPLED)
        span = OpSpan.of(op, context, parent, resource=self._resource, scope=self._scope)
        if op.source == "mcp":  # another observer's: our proxy's own ops do not come back, those of wrappers come
            span.seen_as = Kind.WRAPPER
        self._processor.on_end(span)
        if span.receipt is not None and span.receipt.op.span_id != op.span_id:
            self._absorbed(op, span.receipt.op)
        return span.receipt
