"""Counts operations in a stream of records: a record that amends others replaces them, as the observer counts. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Final

from sidecar.model import ObservedOp, amended_ids

_MOST_KNOWN: Final = 4096


class _Operation:
    """One operation by its latest record; *by* is the operation that it became a part of."""

    __slots__ = ("by", "failed", "source")

    def __init__(self, op: ObservedOp) -> None:
        self.source = op.source or "mcp"
        self.failed = not op.success
        self.by: _Operation | None = None


class CountedOps:
    """Operations, failures and counts by source. Remembers the last `_MOST_KNOWN` records that may be amended."""

    def __init__(self) -> None:
        self.ops = 0
        self.failures = 0
        self.by_source: Counter[str] = Counter()
        self._known: dict[str, _Operation] = {}

    def add(self, op: ObservedOp) -> None:
        """Count *op* instead of those that it amends."""
        operation = _Operation(op)
        for op_id in amended_ids(op):
            before = self._latest(op_id)
            if before is not None and before is not operation:
                self._count(before, -1)
                before.by = operation
        self._count(operation, 1)
        if op.op_id is not None:
            self._known[op.op_id] = operation
            if len(self._known) > _MOST_KNOWN:
                del self._known[next(iter(self._known))]

    def _latest(self, op_id: str) -> _Operation | None:
        found = self._known.get(op_id)
        while found is not None and found.by is not None:
            found = found.by
        return found

    def _count(self, operation: _Operation, number: int) -> None:
        self.ops += number
        self.failures += number * operation.failed
        self.by_source[operation.source] += number
        if not self.by_source[operation.source]:
            del self.by_source[operation.source]
