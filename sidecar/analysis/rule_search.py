"""Which conditions set success apart from failure: the search over one endpoint's sheet.

Pure; a snapshot of a sheet goes in, the best-fitting conjunctions come out; what they are worth as evidence is another
question (`rule_evidence`). The search runs in steps (it is a generator), so that its caller can let others run in
between. Where rules are known, it looks for what fits among the ops that these leave alike.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from heapq import nlargest
from math import inf
from typing import Final, NamedTuple

from sidecar.analysis.e_values import Table, likelihood_gain
from sidecar.analysis.rule_counts import Condition, Sheet, Together, conditions_of
from sidecar.analysis.rule_prior import MAX_CONDITIONS, Prior

MIN_SUPPORT: Final = 8  # ops, on either side
_ALL_PAIRS = 128  # conditions up to which every pair is looked at
_BEAM = 32  # pairs that are tried with every third condition
_KEPT = 128  # candidates of a size
_MOST_CELLS = 4  # of ops that known rules leave alike; the smallest of more are taken for one
_STEP = 250  # tables in a step: some 0.3 ms


class Snapshot(NamedTuple):
    """The complete blocks of a sheet: bits of *ops* ops; the conditions in the order that they are reported in."""

    ops: int
    succeeded: int
    bits: dict[Condition, int]

    @property
    def every(self) -> int:
        """All ops."""
        return (1 << self.ops) - 1

    def of(self, together: Iterable[Condition]) -> int | None:
        """The ops that meet all of *together*; None where one of them is not counted here."""
        found = self.every
        for condition in together:
            bits = self.bits.get(condition)
            if bits is None:
                return None
            found &= bits
        return found


class Candidate(NamedTuple):
    """A conjunction, the ops that met it, and how well it fits: likelihood gain and ln of its share of the error."""

    score: float
    together: Together
    bits: int


def snapshot(sheet: Sheet, ops: int) -> Snapshot:
    """The conditions of the first *ops* ops of *sheet*, each once, whatever names it goes by."""
    mask = (1 << ops) - 1
    bits = {
        condition: found
        for field, column in sheet.fields.items()
        for condition, found in conditions_of(field, column, mask)
    }
    return Snapshot(ops, int.from_bytes(sheet.succeeded, "little") & mask, bits)


def usable(world: Snapshot) -> list[Condition]:
    """The conditions with support on both sides, each set of ops once, at most `MAX_CONDITIONS`."""
    seen: set[int] = set()
    found = []
    for condition, bits in world.bits.items():
        if is_supported(world, bits) and bits not in seen:
            seen.add(bits)
            found.append(condition)
    return found[:MAX_CONDITIONS]


def is_supported(world: Snapshot, bits: int) -> bool:
    """Whether there are enough ops on both sides."""
    return MIN_SUPPORT <= bits.bit_count() <= world.ops - MIN_SUPPORT


def table(world: Snapshot, bits: int, within: int | None = None) -> Table:
    """The two rates of *bits* and of the others, among the ops *within*."""
    others = (world.every if within is None else within) & ~bits
    met = bits if within is None else bits & within
    return Table(
        met.bit_count(),
        (met & world.succeeded).bit_count(),
        others.bit_count(),
        (others & world.succeeded).bit_count(),
    )


def cells(every: int, known: Sequence[int]) -> list[int]:
    """The ops that *known* rules leave alike, set by set."""
    found = [every]
    for bits in known:
        found = [part for cell in found for part in (cell & bits, cell & ~bits) if part]
    return found


def gain_beyond(world: Snapshot, bits: int, explained: Sequence[int]) -> float:
    """Likelihood gain of *bits* over what *explained* tell: summed over all ops that look alike."""
    return sum(likelihood_gain(*table(world, bits, cell)) for cell in cells(world.every, explained))


def candidates(
    world: Snapshot, conditions: Sequence[Condition], prior: Prior, explained: Sequence[int]
) -> Generator[None, None, list[Candidate]]:
    """The best-fitting conjunctions of up to three *conditions* beside what *explained* tell, the best first."""
    search = _Search(world, explained)
    singles = [_Partner(each, world.bits[each], prior.of(each)) for each in conditions]
    ones = yield from search.extended([_Base((), world.every, 0.0)], singles, prior.of_size(1))
    partners = singles
    if len(singles) > _ALL_PAIRS:
        best = {one.together[0] for one in nlargest(_ALL_PAIRS, ones, key=_score)}
        partners = [each for each in singles if each.condition in best]
    bases = [_Base((each.condition,), each.bits, each.share) for each in partners]
    twos = yield from search.extended(bases, partners, prior.of_size(2))
    beam = [_Base(two.together, two.bits, sum(map(prior.of, two.together))) for two in twos[:_BEAM]]
    threes = yield from search.extended(beam, partners, prior.of_size(3))
    return _distinct(sorted(ones + twos + threes, key=_order))


class _Partner(NamedTuple):
    """A condition, the ops that meet it, and ln of its share."""

    condition: Condition
    bits: int
    share: float


class _Base(NamedTuple):
    """A conjunction that is to be extended."""

    together: Together
    bits: int
    share: float


class _Search:
    """Of one world, within the cells that known rules leave."""

    def __init__(self, world: Snapshot, explained: Sequence[int]) -> None:
        self._world = world
        by_size = sorted(cells(world.every, explained), key=int.bit_count, reverse=True)
        few, rest = by_size[: _MOST_CELLS - 1], by_size[_MOST_CELLS - 1 :]
        if rest:
            few.append(sum(rest))
        self._cells = [(cell, cell.bit_count(), (cell & world.succeeded).bit_count()) for cell in few]

    def extended(
        self, bases: Sequence[_Base], partners: Sequence[_Partner], share: float
    ) -> Generator[None, None, list[Candidate]]:
        """Each of *bases* with each partner that comes after it (or, unless it is single, with every one)."""
        least, most = -inf, self._world.ops - MIN_SUPPORT
        found: list[Candidate] = []
        steps = 0
        for number, base in enumerate(bases):
            own, weight = base.bits.bit_count() if base.together else -1, share + base.share
            parts = self._parts(base.bits)
            for condition, more, its_share in partners[number + 1 :] if len(base.together) == 1 else partners:
                steps += 1
                if not steps % _STEP:
                    yield
                both = base.bits & more
                n = both.bit_count()
                if not MIN_SUPPORT <= n <= most or n == own or (n == more.bit_count() and base.together):
                    continue
                score = weight + its_share + _gain(parts, more, least - weight - its_share)
                if score > least:
                    found.append(Candidate(score, (*base.together, condition), both))
            if len(found) > _KEPT + _STEP:
                found = nlargest(_KEPT, found, key=_score)
                least = found[-1].score
        return nlargest(_KEPT, found, key=_score)

    def _parts(self, bits: int) -> list[tuple[int, int, int, int]]:
        succeeded = self._world.succeeded
        return [(bits & cell, bits & cell & succeeded, n, good) for cell, n, good in self._cells]


def _gain(parts: Sequence[tuple[int, int, int, int]], more: int, least: float) -> float:
    """The likelihood gain, summed over *parts*; something less than *least* where it is less."""
    shapes, bound = [], 0.0
    for bits, good_bits, ops, good in parts:
        n, successes = (bits & more).bit_count(), (good_bits & more).bit_count()
        if 0 < n < ops and 0 < good < ops:
            shapes.append((n, successes, ops - n, good - successes))
            # Pearson's statistic: never less than the gain (the divergence of Kullback and Leibler, and chi-square)
            bound += (successes * ops - n * good) ** 2 * ops / (n * (ops - n) * good * (ops - good))
    if bound < least:
        return -inf
    return sum(likelihood_gain(*shape) for shape in shapes)


def _score(candidate: Candidate) -> float:
    return candidate.score


def _distinct(best: Sequence[Candidate]) -> list[Candidate]:
    """Each set of ops once: under the name that comes first."""
    seen: set[int] = set()
    kept = []
    for candidate in best:
        if candidate.bits not in seen:
            seen.add(candidate.bits)
            kept.append(candidate)
    return kept


def _order(candidate: Candidate) -> tuple[float, int, str]:
    return -candidate.score, len(candidate.together), name(candidate.together)


def name(together: Together) -> str:
    """All of its conditions, in their order."""
    return " ".join(each.text() for each in together)
