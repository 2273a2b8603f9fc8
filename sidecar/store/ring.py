"""The ring of the latest ops in memory, with the counts that `/stats` and the cycle's log line show.

Ops are held as JSON: a few hundred contiguous bytes instead of some twenty objects each. This keeps memory small and
the event path fast; readers decode what they need.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

import msgspec

from sidecar.model import ObservedOp, SpanRef

_OBJECT_BYTES = 700  # size of an op object, without its texts
_FIXED_BYTES = 400  # size of an entry object, without its JSON
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ObservedOp).decode


class _Entry(msgspec.Struct, eq=False, gc=False):
    """One op in the ring. *amended_by*: id of the op that replaced it, "" if that has no id, None if not replaced."""

    encoded: bytes
    op_id: str | None
    success: bool
    source: str
    amended_by: str | None = None


class OpRing:
    """The last *capacity* ops within *max_bytes*, oldest first. Used on the event loop's thread only.

    Ops are in the normal form. The counts cover the ops in the ring, without those that were replaced (`amended`).
    """

    def __init__(self, capacity: int, max_bytes: int) -> None:
        self.capacity = capacity
        self.max_bytes = max_bytes
        self._entries: deque[_Entry] = deque()
        self._by_id: dict[str, _Entry] = {}
        self._bytes = 0
        self.amended_ops = 0
        self.successes = 0
        self.by_source: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._entries) - self.amended_ops

    def consume(self, op: ObservedOp, line: bytes = b"") -> None:
        """Add *op*, stored as its journal *line* if given; evicts the oldest if needed."""
        encoded, op_id, success, source = line or _encode(op), op.op_id, op.success, op.source or "mcp"
        entries, entry = self._entries, _Entry(encoded, op_id, success, source)
        entries.append(entry)
        if op_id is not None:
            self._by_id[op_id] = entry
        self._bytes += len(encoded) + _FIXED_BYTES
        if success:
            self.successes += 1
        self.by_source[source] += 1
        while len(entries) > self.capacity or (self._bytes > self.max_bytes and len(entries) > 1):
            self._drop_oldest()

    def amended(self, op_id: str | None, by: str | None) -> None:
        """Mark the op *op_id*, if in the ring, as replaced by *by*: it no longer counts."""
        entry = self._by_id.get(op_id) if op_id is not None else None
        if entry is not None and entry.amended_by is None:
            entry.amended_by = by or ""
            self.amended_ops += 1
            self._count_less(entry)

    def refill(self, op: ObservedOp, later: str | None) -> None:
        """Add an *op* read from the journal's tail, unless present. *later*: id of the op that replaced it, if any."""
        if op.op_id is None or op.op_id not in self._by_id:
            self.consume(op)
            if later is not None:
                self.amended(op.op_id, later)

    def ops(self) -> list[ObservedOp]:
        """All ops that count, oldest first."""
        return list(self.newest_first())[::-1]

    def newest_first(self) -> Iterator[ObservedOp]:
        """Iterate newest first, decoding lazily. Do not hold it across an `await`: the ring changes."""
        return (_decode(entry.encoded) for entry in reversed(self._entries) if entry.amended_by is None)

    def with_amended(self) -> Iterator[tuple[ObservedOp, str | None]]:
        """Like `newest_first`, including replaced ops, each with the replacing op's id ("" if that has none)."""
        return ((_decode(entry.encoded), entry.amended_by) for entry in reversed(self._entries))

    def failures_like(self, sig_hash: str | None, task_class: str | None, most: int = 8) -> list[SpanRef]:
        """Spans of the latest failures with that *sig_hash* or *task_class*, newest first, at most *most*."""
        found: list[SpanRef] = []
        for entry in reversed(self._entries):
            if entry.success or entry.amended_by is not None:
                continue
            op = _decode(entry.encoded)
            if op.trace_id is None or op.span_id is None:
                continue
            if (sig_hash and op.sig_hash == sig_hash) or (task_class and op.task_class == task_class):
                found.append((op.trace_id, op.span_id))
                if len(found) == most:
                    break
        return found

    @property
    def failures(self) -> int:
        """Ops in the ring that failed."""
        return len(self) - self.successes

    @property
    def bytes(self) -> int:
        """The approximate memory that the ops take."""
        return self._bytes

    def _drop_oldest(self) -> None:
        entry = self._entries.popleft()
        op_id = entry.op_id
        if op_id is not None and self._by_id.get(op_id) is entry:
            del self._by_id[op_id]
        self._bytes -= len(entry.encoded) + _FIXED_BYTES
        if entry.amended_by is not None:
            self.amended_ops -= 1
        else:
            self._count_less(entry)

    def _count_less(self, entry: _Entry) -> None:
        source = entry.source
        if entry.success:
            self.successes -= 1
        left = self.by_source[source] - 1
        if left:
            self.by_source[source] = left
        else:
            del self.by_source[source]


def op_bytes(op: ObservedOp) -> int:
    """The approximate size of *op* as an object: its JSON, times four because one wide character widens all text."""
    encoded = _encode(op)
    return _OBJECT_BYTES + len(encoded) * (1 if encoded.isascii() else 4)
