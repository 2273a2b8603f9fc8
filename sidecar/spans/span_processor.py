"""The way from ended spans to ops. Whatever ends as a span and mirrors an op goes to the journal's commit batch."""

from __future__ import annotations

from typing import Protocol

import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from sidecar.model import ObservedOp
from sidecar.protocols import Receipt
from sidecar.spans.op_span import OpSpan, op_from_span, span_note

log = structlog.get_logger(__name__)


class OpSink(Protocol):
    """Takes an op without blocking and gives a receipt for it, or None if there was no room."""

    def append(self, op: ObservedOp, *, awaited: bool, envelope: bytes = b"") -> Receipt | None:
        """*awaited*: somebody will be told whether the op is durable, and refused if it is not.

        *envelope* is what the op does not say of its span (`span_note`), to be kept beside it.
        """
        ...


class OpSpanProcessor(SpanProcessor):
    """Turns ended spans back into ops. Runs inside the caller's `with`, on any thread: no I/O, never raises.

    Source: OTel SDK spec, OnEnd ("should not block or throw").
    """

    def __init__(self, sink: OpSink) -> None:
        self._sink = sink
        self.lost = 0  # ops that could not be read back; the sink counts those it had no room for
        self.accepted = 0  # sampled ones that the sink took: they are to be exported
        self.unnoted = 0  # what the span says beside its op could not be written down

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing: a span is an op when it has ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Hand the op on; a span that nothing took keeps `receipt` None, and its door answers 503."""
        try:
            op = op_from_span(span)
            if op is None:
                return
            awaited = isinstance(span, OpSpan)
            receipt = self._sink.append(op, awaited=awaited, envelope=self._note(span, op))
            if receipt is not None and span.context is not None and span.context.trace_flags & 1:
                self.accepted += 1
            if isinstance(span, OpSpan):
                span.receipt = receipt
        except Exception:
            self.lost += 1
            log.exception("op.lost", span=span.name)

    def _note(self, span: ReadableSpan, op: ObservedOp) -> bytes:
        try:
            return span_note(span, op)
        except Exception:  # the op is worth more than what stands beside it
            self.unnoted += 1
            log.exception("span.not_noted", span=span.name)
            return b""

    def shutdown(self) -> None:
        """Nothing to close: the journal is a stage of its own."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the signature is the SDK's
        """Always true: nothing waits here."""
        return True
