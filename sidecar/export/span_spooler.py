"""The observer's own work to the spool: cycles, diagnoses, playbook entries. Ops leave by the journal instead."""

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
    """Puts ended, sampled spans that are no ops into the spool. From any thread; no I/O, never raises.

    `lost` spans could not be encoded; those for which there was no room are the spool's to count.
    """

    def __init__(self, spool: SpoolDoor) -> None:
        self._spool = spool
        self.lost = 0

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing: spans are exported when they have ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Hand *span* on, unless its op is in the journal or its flag says that it stays."""
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
        """Nothing to close: the spool is a stage of its own."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the signature is the SDK's
        """Always true: nothing waits here."""
        return True
