"""Turns ended spans into ops: every ended span that mirrors an op goes to the journal's commit batch."""

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
from sidecar.spans.op_span import OpSpan, op_from_span
from sidecar.spans.same_operation import OneOp
from sidecar.spans.span_note import span_note
from sidecar.spans.witnessed import Operation

log = structlog.get_logger(__name__)


class OpSink(Protocol):
    """Takes ops without blocking. Returns a receipt, or None if there is no room."""

    def append(self, op: ObservedOp, *, awaited: bool, envelope: bytes = b"") -> Receipt | None:
        """Take *op*. *awaited*: a sender awaits the receipt, and gets an error if the op is not durable.

        *envelope* holds what the op does not tell about its span (`span_note`), to be stored beside it.
        """
        ...


class InJournal:
    """The receipt of an op that was in the journal before this start."""

    taken = True

    def __init__(self, op: ObservedOp) -> None:
        self.op = op

    async def wait(self) -> None:
        """Return at once: the op is on disk."""


class OpSpanProcessor(SpanProcessor):
    """Turns ended spans back into ops. Runs inside the caller's `with`, on any thread: no I/O, never raises.

    Reports of one operation by several witnesses become one op (`OneOp`), whichever doors they came through.
    Source: OTel SDK spec, OnEnd ("should not block or throw").
    """

    def __init__(self, sink: OpSink, clock: Clock) -> None:
        self._sink = sink
        self._monotonic = clock.monotonic
        self._lock = threading.Lock()  # guards `one`, and keeps its results in order
        self.one = OneOp()
        self.lost = 0  # spans whose op could not be read back; the sink counts those without room
        self.accepted = 0  # sampled ops that the sink took: they will be exported
        self.unmatched = 0  # ops recorded unmatched, because matching them failed
        self.unnoted = 0  # ops whose span note could not be written

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Does nothing: a span becomes an op when it ends."""

    def on_end(self, span: ReadableSpan) -> None:
        """Journal the span's op. If nothing takes it, `receipt` stays None and the door answers 503."""
        try:
            op = op_from_span(span)
            if op is None:
                return
            ours = span if isinstance(span, OpSpan) else None
            with self._lock:
                said, operation = self._look(op, ours.seen_as if ours is not None else None)
                if said is not None:
                    receipt = self._journalled(said, span, awaited=ours is not None and ours.awaited)
                    if operation is not None:
                        self._remember(operation, receipt)
                else:
                    receipt = operation.receipt if operation is not None else None
            if ours is not None:
                ours.receipt = receipt
        except Exception:
            self.lost += 1
            log.exception("op.lost", span=span.name)

    def remember(self, ops: Iterable[ObservedOp]) -> None:
        """Load *ops*, the last ones journalled before this start, so that repeated reports of them are recognised."""
        with self._lock:
            for op in ops:
                _, operation = self.one.look(msgspec.structs.replace(op, amends=None), self._monotonic())
                if operation is not None:
                    operation.receipt = InJournal(op)

    def _look(self, op: ObservedOp, seen_as: Kind | None) -> tuple[ObservedOp | None, Operation | None]:
        try:
            return self.one.look(op, self._monotonic(), seen_as)
        except Exception:  # better counted twice than lost
            self.unmatched += 1
            log.exception("op.not_matched", op_id=op.op_id)
            return op, None

    def _journalled(self, op: ObservedOp, span: ReadableSpan, *, awaited: bool) -> Receipt | None:
        receipt = self._sink.append(op, awaited=awaited, envelope=self._note(span, op))
        if receipt is not None and span.context is not None and span.context.trace_flags & 1:
            self.accepted += 1
        return receipt

    def _remember(self, operation: Operation, receipt: Receipt | None) -> None:
        operation.receipt = receipt
        if receipt is None:
            self.one.forget(operation)

    def _note(self, span: ReadableSpan, op: ObservedOp) -> bytes:
        try:
            return span_note(span, op)
        except Exception:  # losing the note is better than losing the op
            self.unnoted += 1
            log.exception("span.not_noted", span=span.name)
            return b""

    def shutdown(self) -> None:
        """Does nothing: the journal is a stage of its own."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the signature is the SDK's
        """Return True: nothing is buffered here."""
        return True
