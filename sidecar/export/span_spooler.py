"""Puts the observer's own spans (cycles, diagnoses, playbook entries) into the spool. Op spans leave by the journal."""

from __future__ import annotations

import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from sidecar.export.span_encoding import request_of
from sidecar.export.spool_door import SpoolDoor
from sidecar.spans.attributes import OP_ID
from sidecar.spans.op_span import OpSpan

log = structlog.get_logger(__name__)


class SpanSpooler(SpanProcessor):
    """Spools ended, sampled spans that are not ops. Thread-safe; no I/O, never raises.

    `lost` counts spans that could not be encoded; the spool counts those it had no room for.
    """

    def __init__(self, spool: SpoolDoor) -> None:
        self._spool = spool
        self.lost = 0

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Does nothing: spans are exported when they end."""

    def on_end(self, span: ReadableSpan) -> None:
        """Spool *span*, unless it is an op (exported from the journal) or not sampled."""
        if isinstance(span, OpSpan) or OP_ID in (span.attributes or ()):
            return
        if span.context is None or not span.context.trace_flags.sampled:
            return
        try:
            self._spool.put(request_of(span), 1, awaited=False)
        except Exception:
            self.lost += 1
            log.exception("export.span_lost", span=span.name)

    def shutdown(self) -> None:
        """Does nothing: the spool is a stage of its own."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the signature is the SDK's
        """Return True: nothing is buffered here."""
        return True
