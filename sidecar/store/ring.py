"""The last ops in memory, with the counts that `/stats` and the cycle's log line show.

They are held as JSON: a few hundred bytes in one piece instead of some twenty objects each, which is what keeps memory
small and the event path fast; whoever reads them decodes what it needs.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

import msgspec

from sidecar.model import ObservedOp, SpanRef

_OBJECT_BYTES = 700  # an op's own objects, beside its texts
_FIXED_BYTES = 200  # an entry's own objects, beside the JSON
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ObservedOp).decode


class OpRing:
    """The last *capacity* ops within *max_bytes*, oldest first. Used on the event loop's thread only.

    Ops are in the normal form. Counts cover what is in the ring, as they always did; `overwritten` counts what has
    left it.
    """

    def __init__(self, capacity: int, max_bytes: int) -> None:
        self.capacity = capacity
        self.max_bytes = max_bytes
        self._ops: deque[tuple[bytes, bool, str]] = deque()  # JSON, success, source
        self._bytes = 0
        self.overwritten = 0
        self.successes = 0
        self.by_source: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._ops)

    def consume(self, op: ObservedOp, line: bytes = b"") -> None:
        """Add *op*, as the journal's *line* where there is one; the oldest make room."""
        encoded, source = line or _encode(op), op.source or "mcp"
        self._ops.append((encoded, op.success, source))
        self._bytes += len(encoded) + _FIXED_BYTES
        self.successes += op.success
        self.by_source[source] += 1
        while len(self._ops) > self.capacity or (self._bytes > self.max_bytes and len(self._ops) > 1):
            self._drop_oldest()

    def ops(self) -> list[ObservedOp]:
        """All of them, oldest first."""
        return [_decode(encoded) for encoded, _, _ in self._ops]

    def newest_first(self) -> Iterator[ObservedOp]:
        """One after the other, each decoded when it is asked for. Not across an `await`: the ring moves on."""
        return (_decode(encoded) for encoded, _, _ in reversed(self._ops))

    def failures_like(self, sig_hash: str | None, task_class: str | None, most: int = 8) -> list[SpanRef]:
        """The spans of the latest failures with that *sig_hash* or *task_class*, latest first, at most *most*."""
        found: list[SpanRef] = []
        for encoded, success, _ in reversed(self._ops):
            if success:
                continue
            op = _decode(encoded)
            if op.trace_id is None or op.span_id is None:
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

    def _drop_oldest(self) -> None:
        encoded, success, source = self._ops.popleft()
        self._bytes -= len(encoded) + _FIXED_BYTES
        self.successes -= success
        self.overwritten += 1
        if self.by_source[source] == 1:
            del self.by_source[source]
        else:
            self.by_source[source] -= 1


def op_bytes(op: ObservedOp) -> int:
    """About *op*'s bytes as an object in memory: its JSON, times four where one wide character widens its text."""
    encoded = _encode(op)
    return _OBJECT_BYTES + len(encoded) * (1 if encoded.isascii() else 4)
