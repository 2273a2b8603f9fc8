"""Counts operations by endpoint, source and outcome, for the metrics only: since start, never saved.

Senders choose endpoints and sources, so both are bounded; everything beyond the bound shares one name. Counters never
decrease, so an outcome that a later op corrects is not moved: `corrected` counts it beside.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sidecar.model import MOST_DURATION_MS, ObservedOp

MAX_ENDPOINTS: Final = 100
MAX_NAME: Final = 120  # characters of a label
OTHER: Final = "_OTHER"
EMPTY: Final = "_EMPTY"  # to Prometheus, an empty label is none

_OUTCOME: Final = {True: "success", False: "failure"}

Series = tuple[str, ...]
"""Endpoint, source, and `success` or `failure`."""


class OpCounts:
    """By series, at most 101 endpoints × (*sources* + 1) × 2, all beginning at 0. Event loop's thread only.

    `ops` are operations, and `seconds` their summed duration, both as first recorded. `corrected` are operations whose
    outcome turned out to be the series' instead: `ops` of failure + `corrected` to failure − `corrected` to success
    are the failures as now known.
    """

    def __init__(self, sources: Collection[str]) -> None:
        self._sources = frozenset(sources)
        self._endpoints: set[str] = set()
        self._replaced: list[ObservedOp] = []
        self.ops: dict[Series, int] = {}
        self.seconds: dict[Series, float] = {}
        self.corrected: dict[Series, int] = {}

    def consume(self, op: ObservedOp) -> None:
        """Count one settled op, unless the operation is counted already: *op* replaces ops just retracted. O(1)."""
        if self._replaced:
            replaced, self._replaced = self._replaced, []
            for before in replaced:
                if before.success != op.success:
                    self.corrected[self._series(before, success=op.success)] += 1
            return
        series: Series = (op.endpoint, op.source or "", _OUTCOME[op.success])
        if series not in self.ops:  # new, or it counts under another name
            series = self._series(op, success=op.success)
        self.ops[series] += 1
        self.seconds[series] += min(op.duration_ms, MOST_DURATION_MS) / 1000

    def retract(self, op: ObservedOp) -> None:
        """*op* is replaced by the one consumed next."""
        self._replaced.append(op)

    def _series(self, op: ObservedOp, *, success: bool) -> Series:
        source = op.source if op.source in self._sources else "other"
        of = self._endpoint(op.endpoint[:MAX_NAME] or EMPTY), source
        series = *of, _OUTCOME[success]
        if series not in self.ops:  # a series that began at 1 would hide its first op from `rate`
            for each in ((*of, "success"), (*of, "failure")):
                self.ops[each] = self.corrected[each] = 0
                self.seconds[each] = 0.0
        return series

    def _endpoint(self, name: str) -> str:
        if name in self._endpoints:
            return name
        if len(self._endpoints) >= MAX_ENDPOINTS:
            return OTHER
        self._endpoints.add(name)
        return name
