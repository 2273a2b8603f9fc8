"""Records ops whose spans came from elsewhere: journalled and analysed under their own ids, never exported again.

Called by `receivers.otlp_receiver`; ops pass the provider's processors like all others. The received span itself is
forwarded as it was sent, so the span that stands for the op here is unsampled.
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

    *absorbed* is called with an op that turned out to be known already, and the journalled op it belongs to.
    """

    def __init__(
        self, provider: TracerProvider, absorbed: Callable[[ObservedOp, ObservedOp], None] = lambda _op, _into: None
    ) -> None:
        self._absorbed = absorbed
        self._resource = provider.resource
        self._processor = provider._active_span_processor  # noqa: SLF001 - the one given at construction
        self._scope = InstrumentationScope(SCOPE_NAME)

    def witness(self, op: ObservedOp) -> Receipt | None:
        """The receipt of *op*, in the normal form, with `trace_id` and `span_id`; None if nothing took it."""
        trace_id = int(op.trace_id or "0", 16)
        context = SpanContext(trace_id, int(op.span_id or "0", 16), is_remote=False, trace_flags=_UNSAMPLED)
        parent = None
        if op.parent_span_id:
            parent = SpanContext(trace_id, int(op.parent_span_id, 16), is_remote=True, trace_flags=_UNSAMPLED)
        span = OpSpan.of(op, context, parent, resource=self._resource, scope=self._scope)
        if op.source == "mcp":  # from another observer's wrapper: our own proxy's ops do not come back here
            span.seen_as = Kind.WRAPPER
        self._processor.on_end(span)
        if span.receipt is not None and span.receipt.op.span_id != op.span_id:
            self._absorbed(op, span.receipt.op)
        return span.receipt
