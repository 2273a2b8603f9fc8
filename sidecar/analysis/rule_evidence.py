"""The evidence of a sheet's ops for a conjunction: bets that are settled block by block.

Pure. Recomputed from the bits of a snapshot on each call, so no state is kept: the same ops give the same evidence,
whenever it is computed. Bets start at the sheet's first op and, with smaller stakes, at later ones; otherwise an effect
that starts late would have all the time before against it. If other rules are known, each set of ops that they do not
distinguish forms blocks of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from math import log
from operator import add
from struct import unpack
from typing import Final

from sidecar.analysis.e_values import BLOCK, MAX_OPS, ODDS, log_expected, log_sum, mixed
from sidecar.analysis.rule_search import Snapshot, cells

SEGMENT: Final = 512  # ops between the starts of two bets
_BLOCKS = SEGMENT // BLOCK
_FROM_THE_FIRST = 0.8  # share of the bet that starts at the first op
_BEGINNINGS = (
    log(_FROM_THE_FIRST),
    *[log((1 - _FROM_THE_FIRST) / (MAX_OPS // SEGMENT - 1))] * (MAX_OPS // SEGMENT - 1),
)


class Evidence:
    """Evidence from the ops of *world*, given that *known* sets of ops are explained by other rules."""

    def __init__(self, world: Snapshot, known: Sequence[int]) -> None:
        self._blocks = world.ops // BLOCK
        self._good = world.succeeded & world.every
        self._cells = [
            (cell, self._counts(cell), self._counts(cell & world.succeeded)) for cell in cells(world.every, known)
        ]

    def log_e(self, bits: int) -> float:
        """Ln of the e-value of "the ops that meet a conjunction succeed at another rate"; *bits* are these ops."""
        sums = [0.0] * len(ODDS)
        held: list[float] = []
        for gains in reversed(list(self._gains(bits))):
            sums = list(map(add, sums, gains))
            held.append(mixed(sums))
        held.reverse()
        held += repeat(0.0, len(_BEGINNINGS) - len(held))  # stakes of bets that have not started
        return log_sum(list(map(add, _BEGINNINGS, held)))

    def is_better(self, bits: int) -> bool:
        """Whether more of *bits* succeed than expected from the ops in the same cells."""
        more = 0.0
        for cell, n, good in self._cells:
            met = bits & cell
            more += (met & self._good).bit_count() - met.bit_count() * sum(good) / max(sum(n), 1)
        return more > 0

    def _gains(self, bits: int) -> Iterator[list[float]]:
        """For each segment, ln of the factors of the bets on all odds ratios."""
        successes = self._counts(bits & self._good)
        met = [self._counts(bits & cell) for cell, _, _ in self._cells]
        for start in range(0, self._blocks, _BLOCKS):
            end = start + _BLOCKS
            good = sum(successes[start:end])
            expected = [
                log_expected(*shape)
                for (_, n, all_good), counts in zip(self._cells, met, strict=True)
                for shape in zip(n[start:end], counts[start:end], all_good[start:end], strict=True)
                if shape[1]
            ]
            lost = map(sum, zip(*expected, strict=True)) if expected else repeat(0.0)
            yield [odds * good - each for odds, each in zip(ODDS, lost, strict=False)]

    def _counts(self, bits: int) -> list[int]:
        """The number of *bits* in each block."""
        words = unpack(f"<{self._blocks}I", bits.to_bytes(self._blocks * BLOCK // 8, "little"))
        return [word.bit_count() for word in words]
