"""Detects successes that took far longer than their endpoint's usually do. Bounded state, deterministic.

Durations are counted in a histogram of logarithmic buckets (a fifth wide each). A success is slow if it took longer
than three times the 99th percentile of those before, and than 100 ms. It is reported if at least 8 of the last 100
successes were slow. By definition of the percentile, at most one in a hundred exceeds the bound, whatever the
distribution, if nothing has changed and calls are independent: 8 of 100 then happen by chance less than once in a
million calls.

The bound is updated in blocks of up to 1000 successes: a lasting slowdown is the new normal, and reported once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from sidecar.analysis.incident_rows import line_of
from sidecar.model import ObservedOp

SLOW_MESSAGE: Final = "succeeds, but takes far longer than it usually does"
FLOOR_MS: Final = 100.0  # faster calls are never slow
WINDOW: Final = 100  # successes
LEAST_SLOW: Final = 8  # slow ones of these
FIRST_BLOCK: Final = 200
MOST_BLOCK: Final = 1000
_QUANTILE, _TIMES = 0.99, 3.0
_A_DOUBLING: Final = 4  # buckets per doubling
_MIN_BUCKET, _MAX_BUCKET = 0, 160  # 1 ms to some thirty years
_WINDOW_BITS: Final = (1 << WINDOW) - 1


class Latency(msgspec.Struct, omit_defaults=True):
    """One endpoint's latency: *counts* by bucket of all earlier blocks, *block* the counts of the current one.

    The current one ends at *block_size* successes, which follows from *counts*. *bound_ms* is 0 until there is one;
    *recent* has a bit for each of the last 100 successes, 1 if it was slow.
    """

    counts: dict[int, int] = {}
    block: dict[int, int] = {}
    in_block: int = 0
    bound_ms: float = 0.0
    recent: int = 0
    block_size: int = FIRST_BLOCK

    def __post_init__(self) -> None:
        self._set_block_size()  # a row saved by an earlier version has none

    def is_slow(self, duration_ms: float) -> bool:
        """Count one success; returns whether it and several recent ones were slow. O(1), except at a block's end."""
        bucket = _bucket(duration_ms)
        self.block[bucket] = self.block.get(bucket, 0) + 1
        self.in_block += 1
        slow = 0 < self.bound_ms < duration_ms
        if slow or self.recent:  # else nothing changes
            self.recent = (self.recent << 1 | slow) & _WINDOW_BITS
        if self.in_block >= self.block_size:
            self._close_block()
        return slow and self.recent.bit_count() >= LEAST_SLOW

    def take_back(self, duration_ms: float) -> None:
        """Subtract one success; if it was slow, the latest slow one is taken out of *recent*."""
        bucket = _bucket(duration_ms)
        if self.block.get(bucket, 0) > 0:
            self.block[bucket] -= 1
            self.in_block -= 1
        if 0 < self.bound_ms < duration_ms:
            self.recent &= self.recent - 1  # the lowest bit is the latest

    def _close_block(self) -> None:
        """Add the block to the earlier ones, whose counts are halved: an endpoint may change."""
        merged = {bucket: count // 2 for bucket, count in self.counts.items() if count > 1}
        for bucket, count in self.block.items():
            merged[bucket] = merged.get(bucket, 0) + count
        self.counts, self.block, self.in_block = dict(sorted(merged.items())), {}, 0
        self.bound_ms = _bound_ms(self.counts)
        self._set_block_size()

    def _set_block_size(self) -> None:
        self.block_size = min(MOST_BLOCK, max(FIRST_BLOCK, sum(self.counts.values())))


def slow_line(op: ObservedOp, latency: Latency) -> str:
    """The line of one slow success: `[endpoint] input_summary: took … ms, where more than … ms is far out`."""
    return line_of(op, f"took {op.duration_ms:.0f} ms, where more than {latency.bound_ms:.0f} ms is far out")


def _bucket(duration_ms: float) -> int:
    if duration_ms <= 1:
        return _MIN_BUCKET
    bucket = int(_A_DOUBLING * math.log2(duration_ms))
    return bucket if bucket < _MAX_BUCKET else _MAX_BUCKET  # noqa: FURB136 - on the hot path, where min() takes longer


def _bound_ms(counts: Mapping[int, int]) -> float:
    """The bound, in ms, from *counts*."""
    tail = _quantile(counts, _QUANTILE * sum(counts.values()))
    return max(FLOOR_MS, _TIMES * math.exp2((tail + 1) / _A_DOUBLING))


def _quantile(counts: Mapping[int, int], rank: float) -> int:
    """The first bucket of *counts* at which the cumulative count reaches *rank*."""
    seen = 0
    for bucket, count in counts.items():
        seen += count
        if seen >= rank:
            return bucket
    return _MIN_BUCKET
