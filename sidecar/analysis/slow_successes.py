"""Successes that took far longer than their endpoint's usually do, told from noise. Bounded state, deterministic.

Durations are counted in a histogram of logarithmic buckets (a fifth wide each). A success is slow when it took longer
than three times the 99th percentile of those before, and than 100 ms. It is news when at least 8 of the last 100
successes were slow. By the bound's very definition one in a hundred takes longer at most, whatever the distribution, if
nothing has changed and calls are independent: 8 of 100 then come together by chance less than once in a million calls.

The bound moves on in blocks of up to 1000 successes: what stays slow for long is the new normal, and said once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from sidecar.analysis.incident_rows import line_of
from sidecar.model import ObservedOp

SLOW_MESSAGE: Final = "succeeds, but takes far longer than it usually does"
FLOOR_MS: Final = 100.0  # what is faster is never slow
WINDOW: Final = 100  # successes
LEAST_SLOW: Final = 8  # of them
FIRST_BLOCK: Final = 200
MOST_BLOCK: Final = 1000
_QUANTILE, _TIMES = 0.99, 3.0
_A_DOUBLING: Final = 4  # buckets
_MIN_BUCKET, _MAX_BUCKET = 0, 160  # 1 ms to some thirty years
_WINDOW_BITS: Final = (1 << WINDOW) - 1


class Latency(msgspec.Struct, omit_defaults=True):
    """How long one endpoint's successes took: *counts* by bucket of all blocks before, *block* of the one under way.

    *bound_ms* is 0 until there is one; *recent* has a bit for each of the last 100 successes, 1 where it was slow.
    """

    counts: dict[int, int] = {}
    block: dict[int, int] = {}
    in_block: int = 0
    bound_ms: float = 0.0
    recent: int = 0

    def is_slow(self, duration_ms: float) -> bool:
        """Count one success; whether it is slow, as several of late were. O(1), but at the end of a block."""
        bucket = _bucket(duration_ms)
        self.block[bucket] = self.block.get(bucket, 0) + 1
        self.in_block += 1
        slow = 0 < self.bound_ms < duration_ms
        self.recent = (self.recent << 1 | slow) & _WINDOW_BITS
        if self.in_block >= FIRST_BLOCK and self.in_block >= self._block_size():  # the first, as the second is slow
            self._close_block()
        return slow and self.recent.bit_count() >= LEAST_SLOW

    def take_back(self, duration_ms: float) -> None:
        """Count one success less, which was counted; of those of late the last that was as slow, or as fast."""
        bucket = _bucket(duration_ms)
        if self.block.get(bucket, 0) > 0:
            self.block[bucket] -= 1
            self.in_block -= 1
        if 0 < self.bound_ms < duration_ms:
            self.recent &= self.recent - 1  # the lowest bit is the latest

    def _block_size(self) -> int:
        return min(MOST_BLOCK, max(FIRST_BLOCK, sum(self.counts.values())) if self.bound_ms else FIRST_BLOCK)

    def _close_block(self) -> None:
        """The block joins those before, which count half from then on: an endpoint may change."""
        merged = {bucket: count // 2 for bucket, count in self.counts.items() if count > 1}
        for bucket, count in self.block.items():
            merged[bucket] = merged.get(bucket, 0) + count
        self.counts, self.block, self.in_block = dict(sorted(merged.items())), {}, 0
        self.bound_ms = _bound_ms(self.counts)


def slow_line(op: ObservedOp, latency: Latency) -> str:
    """What is said of one slow success: `[endpoint] input_summary: took … ms, more than … ms`."""
    return line_of(op, f"took {op.duration_ms:.0f} ms, where more than {latency.bound_ms:.0f} ms is far out")


def _bucket(duration_ms: float) -> int:
    if duration_ms <= 1:
        return _MIN_BUCKET
    return min(_MAX_BUCKET, math.floor(_A_DOUBLING * math.log2(duration_ms)))


def _bound_ms(counts: Mapping[int, int]) -> float:
    """The bound that follows from *counts*, in ms."""
    tail = _quantile(counts, _QUANTILE * sum(counts.values()))
    return max(FLOOR_MS, _TIMES * math.exp2((tail + 1) / _A_DOUBLING))


def _quantile(counts: Mapping[int, int], rank: float) -> int:
    """The bucket (of *counts* in order) below or in which *rank* of them lie."""
    seen = 0
    for bucket, count in counts.items():
        seen += count
        if seen >= rank:
            return bucket
    return _MIN_BUCKET
