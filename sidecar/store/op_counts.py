"""Counts settled ops by endpoint, source and outcome, for the metrics only: since start, never saved.

Senders choose endpoints and sources, so both are bounded; everything beyond the bound shares one name.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sidecar.model import ObservedOp

MAX_ENDPOINTS: Final = 100
MAX_NAME: Final = 120  # characters of a label
OTHER: Final = "_OTHER"

_MAX_DURATION_MS: Final = 1e12  # some thirty years: keeps sums finite whatever a sender claims

Series = tuple[str, ...]
"""Endpoint, source, and `success` or `failure`."""


class OpCounts:
    """`ops` and `seconds` by series: at most 101 endpoints × (*sources* + 1) × 2. Event loop's thread only."""

    def __init__(self, sources: Collection[str]) -> None:
        self._sources = frozenset(sources)
        self._endpoints: set[str] = set()
        self.ops: dict[Series, int] = {}
        self.seconds: dict[Series, float] = {}

    def consume(self, op: ObservedOp) -> None:
        """Count one settled op. O(1). An op that amends another is skipped: that operation is counted already."""
        if op.amends is not None:
            return
        source = op.source if op.source in self._sources else "other"
        series = self._endpoint(op.endpoint[:MAX_NAME]), source, "success" if op.success else "failure"
        self.ops[series] = self.ops.get(series, 0) + 1
        self.seconds[series] = self.seconds.get(series, 0.0) + min(op.duration_ms, _MAX_DURATION_MS) / 1000

    def _endpoint(self, name: str) -> str:
        if name in self._endpoints:
            return name
        if len(self._endpoints) >= MAX_ENDPOINTS:
            return OTHER
        self._endpoints.add(name)
        return name
