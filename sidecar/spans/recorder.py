"""Turns operations into spans: events and corrections, finished when they arrive, and calls to the gateway."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    set_span_in_context,
)

from sidecar.model import ObservedOp, SpanRef
from sidecar.protocols import BegunCall, Receipt
from sidecar.spans.op_span import CallSpan, OpSpan, link_to, parent_from_headers, placed, span_context
from sidecar.spans.provider import WitnessSampler
from sidecar.version import our_version

SCOPE_NAME = "lakehouse-observer"
_TRACE_ID = re.compile("(?!0{32})[0-9a-f]{32}", re.IGNORECASE | re.ASCII)
_SPAN_ID = re.compile("[0-9a-f]{16}", re.IGNORECASE | re.ASCII)
_SAMPLED, _UNSAMPLED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)


class OpRecorder:
    """Turns a finished op into an ended span and passes it to the provider's processors."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._processor = provider._active_span_processor  # noqa: SLF001 - the one given at construction
        self._scope = InstrumentationScope(SCOPE_NAME, our_version())
        sampler = provider.sampler
        self._every_root = sampler.every_root if isinstance(sampler, WitnessSampler) else None

    def record(
        self, op: ObservedOp, *, traceparent: str = "", tracestate: str = "", linked: Sequence[SpanRef] = ()
    ) -> Receipt | None:
        """End a span that mirrors *op* (in the normal form). Returns the receipt of the resulting op.

        The parent comes from the *traceparent* header if that is valid, else from the op's own `trace_id` and
        `parent_span_id`. The receipt is None if nothing took the op.
        """
        parent = parent_from_headers(traceparent, tracestate) if traceparent else None
        if parent is None:
            parent = _named_parent(op)
        context, span_parent = self._context(op.endpoint, SpanKind.INTERNAL, parent)
        links = [link_to(ref) for ref in linked]
        op = placed(op, context, span_parent)
        span = OpSpan.of(op, context, span_parent, resource=self._provider.resource, scope=self._scope, links=links)
        self._processor.on_end(span)
        return span.receipt

    def begin(self, name: str, parent: SpanContext | None) -> BegunCall:
        """Choose the ids of the span of a call that begins within *parent*. *name*: as far as known."""
        return BegunCall(*self._context(name, SpanKind.CLIENT, parent))

    def end(self, call: BegunCall, op: ObservedOp, times_ns: tuple[int, int], beside: Mapping[str, Any]) -> ObservedOp:
        """End the span of *call* with its resulting *op* (in the normal form). Returns the op with its ids.

        *times_ns* are start and end; *beside* are further attributes: text, numbers, booleans, lists of text.
        Nobody awaits the receipt.
        """
        op = placed(op, call.context, call.parent)
        span = CallSpan.of(op, call.context, call.parent, resource=self._provider.resource, scope=self._scope)
        span.beside, span.times = beside, times_ns
        self._processor.on_end(span)
        return op

    def _context(self, name: str, kind: SpanKind, parent: SpanContext | None) -> tuple[SpanContext, SpanContext | None]:
        ids = self._provider.id_generator
        if parent is None and self._every_root is not None:  # the common case needs no sampler call
            flags = _SAMPLED if self._every_root else _UNSAMPLED
            return SpanContext(ids.generate_trace_id(), ids.generate_span_id(), False, flags), None
        trace_id = parent.trace_id if parent is not None else ids.generate_trace_id()
        around = set_span_in_context(NonRecordingSpan(parent), Context()) if parent is not None else Context()
        sampled = self._provider.sampler.should_sample(around, trace_id, name, kind)
        flags = _SAMPLED if sampled.decision is Decision.RECORD_AND_SAMPLE else _UNSAMPLED
        if parent is not None:
            flags = TraceFlags(flags | parent.trace_flags & ~_SAMPLED)  # such as "the trace id is random"
        context = SpanContext(trace_id, ids.generate_span_id(), False, flags, sampled.trace_state)
        # A trace id without a parent span joins the trace as a root: there is no span to refer to.
        return context, parent if parent is not None and parent.span_id else None


def _named_parent(op: ObservedOp) -> SpanContext | None:
    """The parent named by the op's own ids; None without a valid trace id. Without a valid span id: a root."""
    if op.trace_id is None or not _TRACE_ID.fullmatch(op.trace_id):
        return None
    known = op.parent_span_id is not None and _SPAN_ID.fullmatch(op.parent_span_id)
    return span_context(op.trace_id, op.parent_span_id if known and op.parent_span_id else "0")
