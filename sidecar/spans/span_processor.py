"""The way from ended spans to ops. Whatever ends as a span and mirrors an op goes to the journal's commit batch."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Protocol

import msgspec
import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from sidecar.model import ObservedOp
from sidecar.protocols import Clock, Receipt
from sidecar.spans.conventions_table import Kind
from sidecar.spans.op_span import OpSpan, op_from_span, span_note
from sidecar.spans.same_operation import OneOp
from sidecar.spans.witnessed import Operation

log = structlog.get_logger(__name__)


class OpSink(Protocol):
    """Takes an op without blocking and gives a receipt for it, or None if there was no room."""

    def append(self, op: ObservedOp, *, awaited: bool, envelope: bytes = b"") -> Receipt | None:
        """*awaited*: somebody will be told whether the op is durable, and refused if it is not.

        *envelope* is what the op does not say of its span (`span_note`), to be kept beside it.
        """
        ...


class InJournal:
    """The receipt of an op that was in the journal before the start."""

    taken = True

    def __init__(self, op: ObservedOp) -> None:
        self.op = op

    async def wait(self) -> None:
        """Return at once."""


class OpSpanProcessor(SpanProcessor):
    """Turns ended spans back into ops. Runs inside the caller's `with`, on any thread: no I/O, never raises.

    What several witnesses of one operation tell is one op there (`OneOp`), whichever doors they came by.
    Source: OTel SDK spec, OnEnd ("should not block or throw").
    """

    def __init__(self, sink: OpSink, clock: Clock) -> None:
        self._sink = sink
        self._monotonic = clock.monotonic
        self._lock = threading.Lock()  # around `one`, and the order of what it says
        self.one = OneOp()
        self.lost = 0  # ops that could not be read back; the sink counts those it had no room for
        self.accepted = 0  # sampled ones that the sink took: they are to be exported
        self.unmatched = 0  # taken as they came: matching them with others failed
        self.unnoted = 0  # what the span says beside its op could not be written down

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing: a span is an op when it has ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Hand the op on; a span that nothing took keeps `receipt` None, and its door answers 503."""
        try:
            op = op_from_span(span)
            if op is None:
                return
            seen_as = span.seen_as if isinstance(span, OpSpan) else None
            with self._lock:
                said, operation = self._look(op, seen_as)
                if said is not None:
                    receipt = self._journalled(said, span)
                    self._remember(operation, receipt)
                else:
                    receipt = operation.receipt if operation is not None else None
            if isinstance(span, OpSpan):
                span.receipt = receipt
        except Exception:
            self.lost += 1
            log.exception("op.lost", span=span.name)

    def remember(self, ops: Iterable[ObservedOp]) -> None:
        """*ops* of the journal, the last ones before the start: what is told of them once more is known."""
        with self._lock:
            for op in ops:
                _, operation = self.one.look(msgspec.structs.replace(op, amends=None), self._monotonic())
                if operation is not None:
                    operation.receipt = InJournal(op)

    def _look(self, op: ObservedOp, seen_as: Kind | None) -> tuple[ObservedOp | None, Operation | None]:
        try:
            return self.one.look(op, self._monotonic(), seen_as)
        except Exception:  # rather twice than not at all
            self.unmatched += 1
            log.exception("op.not_matched", op_id=op.op_id)
            return op, None

    def _journalled(self, op: ObservedOp, span: ReadableSpan) -> Receipt | None:
        awaited = isinstance(span, OpSpan) and span.awaited
        receipt = self._sink.append(op, awaited=awaited, envelope=self._note(span, op))
        if receipt is not None and span.context is not None and span.context.trace_flags & 1:
            self.accepted += 1
        return receipt

    def _remember(self, operation: Operation | None, receipt: Receipt | None) -> None:
        if operation is not None:
            operation.receipt = receipt
            if receipt is None:
                self.one.forget(operation)

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
