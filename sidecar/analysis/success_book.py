"""Lifetime successes by endpoint.

Fed every settled op on the event loop's thread; read by the playbook consolidator.
"""

from __future__ import annotations

from typing import Final

import msgspec
import structlog

from sidecar.analysis.event_time import happened_at, later_of
from sidecar.analysis.evidence import span_ref
from sidecar.analysis.fingerprint import MAX_ENDPOINT
from sidecar.analysis.incidents import CORRECTION
from sidecar.kept_rows import KeptBook, KeptRows
from sidecar.model import MOST_DURATION_MS, ObservedOp, SpanRef
from sidecar.normalize import clean_text

log = structlog.get_logger(__name__)

MAX_ENDPOINTS: Final = 1000
KEPT: Final = 3  # last inputs and spans kept per endpoint
MAX_INPUT: Final = 200  # characters


class EndpointSuccesses(msgspec.Struct, omit_defaults=True):
    """One endpoint's successes, without corrections. Durations in ms."""

    endpoint: str
    last_seen: str
    successes: int = 0
    duration_sum_ms: float = 0.0
    inputs: list[str] = []
    evidence: list[SpanRef] = []

    @property
    def avg_duration_ms(self) -> float:
        """The mean over all successes; 0 if there are none."""
        return self.duration_sum_ms / self.successes if self.successes else 0.0


class SuccessBook(KeptBook):
    """Keeps at most 1000 endpoints; the least recent is evicted and counted. For the event loop's thread only."""

    def __init__(self) -> None:
        self._rows = KeptRows("success/", EndpointSuccesses, MAX_ENDPOINTS)
        super().__init__(self._rows)
        self.last_op_id: str | None = None
        self.not_counted = 0  # ops that raised an exception

    def consume(self, op: ObservedOp) -> None:
        """Count one settled op. O(1); an op that cannot be read is logged and counted."""
        try:
            if op.op_id is not None:
                self.last_op_id = op.op_id
            if op.success and op.source != CORRECTION:
                self._count(op)
        except Exception:  # one bad op must not stop the others
            self.not_counted += 1
            log.exception("successes.op_not_counted", failures=self.not_counted)

    def retract(self, op: ObservedOp) -> None:
        """Remove *op* from the counts: a later op amends it."""
        try:
            if op.success and op.source != CORRECTION:
                self._uncount(op)
        except Exception:  # one bad op must not stop the others
            self.not_counted += 1
            log.exception("successes.op_not_retracted", failures=self.not_counted)

    @property
    def evicted(self) -> int:
        """The number of endpoints evicted for room."""
        return self._rows.evicted

    def endpoints(self) -> list[EndpointSuccesses]:
        """The endpoints with successes, the least recent first."""
        return [row for row in self._rows.rows() if row.successes]

    def _uncount(self, op: ObservedOp) -> None:
        key = clean_text(op.endpoint[:MAX_ENDPOINT])
        row = self._rows.get(key)
        if row is None or not row.successes:  # the row that counted *op* was evicted
            return
        row.successes -= 1
        row.duration_sum_ms = max(0.0, row.duration_sum_ms - min(op.duration_ms, MOST_DURATION_MS))
        said, ref = clean_text(op.input_summary[:MAX_INPUT]), span_ref(op)
        if said in row.inputs:
            row.inputs.remove(said)
        if ref in row.evidence:
            row.evidence.remove(ref)
        self._rows.changed(key)

    def _count(self, op: ObservedOp) -> None:
        key = clean_text(op.endpoint[:MAX_ENDPOINT])
        row = self._rows.touch(key)
        if row is None:
            row = EndpointSuccesses(endpoint=key, last_seen=happened_at(op))
            self._rows.add(key, row)
        else:
            row.last_seen = later_of(row.last_seen, op)
        row.successes += 1
        row.duration_sum_ms += min(op.duration_ms, MOST_DURATION_MS)
        row.inputs.append(clean_text(op.input_summary[:MAX_INPUT]))
        del row.inputs[:-KEPT]
        ref = span_ref(op)
        if ref is not None:
            row.evidence.append(ref)
            del row.evidence[:-KEPT]
