"""The last ops in memory, with the counts that `/stats` and the cycle's log line show."""

from __future__ import annotations

from collections import Counter, deque

import msgspec

from sidecar.model import ObservedOp, SpanRef

_FIXED_BYTES = 700  # an op's own objects, beside its texts
_encode = msgspec.json.Encoder().encode


class OpRing:
    """The last *capacity* ops within *max_bytes*, oldest first. Used on the event loop's thread only.

    Counts cover what is in the ring, as they always did. `overwritten` counts what has left it.
    """

    def __init__(self, capacity: int, max_bytes: int) -> None:
        self.capacity = capacity
        self.max_bytes = max_bytes
        self._ops: deque[tuple[ObservedOp, int]] = deque()
        self._bytes = 0
        self.overwritten = 0
        self.successes = 0
        self.by_source: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._ops)

    def consume(self, op: ObservedOp) -> None:
        """Add *op*; the oldest make room."""
        size = op_bytes(op)
        self._ops.append((op, size))
        self._bytes += size
        self._count(op, 1)
        while len(self._ops) > self.capacity or (self._bytes > self.max_bytes and len(self._ops) > 1):
            old, old_size = self._ops.popleft()
            self._bytes -= old_size
            self._count(old, -1)
            self.overwritten += 1

    def ops(self) -> list[ObservedOp]:
        """A copy, oldest first."""
        return [op for op, _ in self._ops]

    def failures_like(self, sig_hash: str | None, task_class: str | None, most: int = 8) -> list[SpanRef]:
        """The spans of the latest failures with that *sig_hash* or *task_class*, latest first, at most *most*."""
        found: list[SpanRef] = []
        for op, _ in reversed(self._ops):
            if op.success or op.trace_id is None or op.span_id is None:
                continue
            if (sig_hash and op.sig_hash == sig_hash) or (task_class and op.task_class == task_class):
                found.append((op.trace_id, op.span_id))
                if len(found) == most:
                    break
        return found

    @property
    def failures(self) -> int:
        """Ops in the ring that did not succeed."""
        return len(self._ops) - self.successes

    @property
    def bytes(self) -> int:
        """About how much memory the ops take."""
        return self._bytes

    def _count(self, op: ObservedOp, step: int) -> None:
        source = op.source or "mcp"
        self.successes += step * op.success
        self.by_source[source] += step
        if not self.by_source[source]:
            del self.by_source[source]


def op_bytes(op: ObservedOp) -> int:
    """About *op*'s bytes in memory: its JSON, times four where one wide character widens the text it stands in."""
    encoded = _encode(op)
    return _FIXED_BYTES + len(encoded) * (1 if encoded.isascii() else 4)
