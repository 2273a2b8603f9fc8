"""Counts all operations ever: one number, kept across restarts and after the segments that held them are dropped.

A book: it consumes every settled op; `/stats` reads it. A state file from before this table counts from its upgrade
on, until a replay of all journals.
"""

from __future__ import annotations

from typing import Final

import msgspec

from sidecar.kept_rows import KeptBook, KeptRows
from sidecar.model import ObservedOp

TABLE: Final = "operations"
_KEY: Final = "total"


class _Total(msgspec.Struct):
    operations: int = 0


class OpTotal(KeptBook):
    """Counts operations: an op that amends another is the same operation. For the event loop's thread only."""

    def __init__(self) -> None:
        self._rows = KeptRows("", _Total, 1)
        super().__init__(self._rows)

    @property
    def operations(self) -> int:
        """The number of operations ever recorded."""
        row = self._rows.get(_KEY)
        return row.operations if row is not None else 0

    def consume(self, _op: ObservedOp) -> None:
        """Count one settled op. O(1)."""
        self._add(1)

    def retract(self, _op: ObservedOp) -> None:
        """An op counted before is replaced by one that amends it and will be counted instead."""
        self._add(-1)

    def _add(self, count: int) -> None:
        row = self._rows.touch(_KEY)
        if row is None:
            row = _Total()
            self._rows.add(_KEY, row)
        row.operations += count
