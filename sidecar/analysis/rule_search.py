"""The search for conditions that separate success from failure, over one endpoint's sheet.

Pure: takes a snapshot of a sheet, returns the best-fitting conjunctions. `rule_evidence` computes their evidence. The
search is a generator of short steps, so that its caller can let other tasks run in between. If rules are known, it
looks for what fits within the sets of ops that they do not distinguish.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from heapq import nlargest
from typing import Final, NamedTuple

from sidecar.analysis.e_values import Table, likelihood_gain
from sidecar.analysis.rule_counts import Condition, Sheet, Together, conditions_of
from sidecar.analysis.rule_prior import MAX_CONDITIONS, Prior

MIN_SUPPORT: Final = 8  # ops, both for those that meet a conjunction and for those that do not
_MOST_PARTNERS = 160  # conditions of which every pair is tried
_GOOD = 32  # best single conditions that keep all their cut points
_REFINED_IN_A_STEP = 8
_REFINED = 24  # conjunctions for which all other cut points are tried
_BEAM = 32  # pairs that are extended by a third condition
_KEPT = 128  # candidates per size
_MOST_CELLS = 4  # sets of ops that known rules do not distinguish; the smallest are merged
_LEAST = -6.0  # ln of share times gain: worse candidates carry hardly any evidence
_STEP = 250  # tables per step


class Snapshot(NamedTuple):
    """The first *ops* ops of a sheet: which *succeeded*, and which met each condition, as bit sets.

    *numbers* has the numbers that the sheet stored, by field (`sidecar.packed`), perhaps also of later ops.
    """

    ops: int
    succeeded: int
    bits: dict[Condition, int]
    numbers: dict[str, bytearray]

    @property
    def every(self) -> int:
        """The bits of all ops."""
        return (1 << self.ops) - 1

    def of(self, together: Iterable[Condition]) -> int | None:
        """The ops that meet all of *together*; None if one of them is not counted here."""
        found = self.every
        for condition in together:
            bits = self.bits.get(condition)
            if bits is None:
                return None
            found &= bits
        return found


class Candidate(NamedTuple):
    """A conjunction, the ops that met it, and its score: likelihood gain plus ln of its share of alpha."""

    score: float
    together: Together
    bits: int


def snapshot(sheet: Sheet, ops: int) -> Snapshot:
    """The outcomes and conditions of the first *ops* ops of *sheet*."""
    mask = (1 << ops) - 1
    bits = {
        condition: found
        for field, column in sheet.fields.items()
        for condition, found in conditions_of(field, column, mask)
    }
    stored = {field: column.early for field, column in sheet.fields.items() if column.early}
    return Snapshot(ops, int.from_bytes(sheet.succeeded, "little") & mask, bits, stored)


def usable(world: Snapshot) -> list[Condition]:
    """The conditions with support on both sides, without those that the same ops meet, at most `MAX_CONDITIONS`."""
    seen: set[int] = set()
    found = []
    for condition, bits in world.bits.items():
        if is_supported(world, bits) and bits not in seen:
            seen.add(bits)
            found.append(condition)
    return found[:MAX_CONDITIONS]


def is_supported(world: Snapshot, bits: int) -> bool:
    """Whether enough ops meet the conjunction, and enough do not."""
    return MIN_SUPPORT <= bits.bit_count() <= world.ops - MIN_SUPPORT


def table(world: Snapshot, bits: int, within: int | None = None) -> Table:
    """The 2×2 table of *bits* against the other ops, among the ops *within*."""
    others = (world.every if within is None else within) & ~bits
    met = bits if within is None else bits & within
    return Table(
        met.bit_count(),
        (met & world.succeeded).bit_count(),
        others.bit_count(),
        (others & world.succeeded).bit_count(),
    )


def cells(every: int, known: Sequence[int]) -> list[int]:
    """Splits the ops *every* into the sets that *known* rules do not distinguish."""
    found = [every]
    for bits in known:
        found = [part for cell in found for part in (cell & bits, cell & ~bits) if part]
    return found


def gain_beyond(world: Snapshot, bits: int, explained: Sequence[int]) -> float:
    """The likelihood gain of *bits* beyond what *explained* sets explain: summed over the cells."""
    return sum(likelihood_gain(*table(world, bits, cell)) for cell in cells(world.every, explained))


def candidates(
    world: Snapshot, conditions: Sequence[Condition], prior: Prior, explained: Sequence[int], within: int
) -> Generator[None, None, list[Candidate]]:
    """Conjunctions of up to three *conditions* that fit best on the ops *within*, beyond *explained*; best first."""
    search = _Search(world, cells(within, explained))
    singles = [_partner(world, prior, each) for each in conditions]
    yield
    ones = yield from search.extended([_Base((), world.every, 0.0)], singles, prior.of_size(1))
    partners = _partners(singles, ones)
    bases = [_Base((each.condition,), each.bits, each.share) for each in partners]
    twos = yield from search.extended(bases, partners, prior.of_size(2))
    beam = [_Base(two.together, two.bits, sum(map(prior.of, two.together))) for two in twos[:_BEAM]]
    threes = yield from search.extended(beam, partners, prior.of_size(3))
    best = _distinct(sorted(ones + twos + threes, key=_order))
    more: list[Candidate] = []
    for number, (base, cut) in enumerate(_to_refine(world, prior, best)):
        others = [each for each in singles if each.condition.field == cut.field]
        more += yield from search.extended([base], others, prior.of_size(len(base.together) + 1))
        if not number % _REFINED_IN_A_STEP:
            yield
    yield
    return _distinct(sorted(best + more, key=_order))


def _partner(world: Snapshot, prior: Prior, condition: Condition) -> _Partner:
    bits = world.bits[condition]
    return _Partner(condition, bits, bits.bit_count(), prior.of(condition))


def _partners(singles: Sequence[_Partner], ones: Sequence[Candidate]) -> list[_Partner]:
    """The conditions used in conjunctions at first: every other cut point, and those that fit well alone."""
    good = {one.together for one in ones[:_GOOD]}
    cuts: dict[str, dict[float, int]] = {}
    found = []
    for each in singles:
        condition = each.condition
        if condition.kind == "number" and (condition,) not in good:
            cut = condition.high if condition.low is None else condition.low if condition.high is None else None
            number = (
                -1 if cut is None else cuts.setdefault(condition.field, {}).setdefault(cut, len(cuts[condition.field]))
            )
            if number % 2:
                continue
        found.append(each)
    if len(found) > _MOST_PARTNERS:
        best = {one.together[0] for one in ones[:_MOST_PARTNERS]}
        found = [each for each in found if each.condition in best]
    return found


def _to_refine(world: Snapshot, prior: Prior, best: Sequence[Candidate]) -> Iterator[tuple[_Base, Condition]]:
    """The best conjunctions with a cut, each without it, and the cut: another cut point may fit better."""
    for each in best[:_REFINED]:
        for cut in each.together:
            if cut.kind == "number" and len(each.together) > 1:
                rest = tuple(one for one in each.together if one is not cut)
                yield _Base(rest, world.of(rest) or 0, sum(map(prior.of, rest))), cut


class _Partner(NamedTuple):
    """A condition, the ops that meet it, their number, and ln of its share."""

    condition: Condition
    bits: int
    ops: int
    share: float


class _Base(NamedTuple):
    """A conjunction to be extended."""

    together: Together
    bits: int
    share: float


class _Search:
    """A search in one world, within the cells that known rules leave."""

    def __init__(self, world: Snapshot, among: Sequence[int]) -> None:
        self._world = world
        by_size = sorted(among, key=int.bit_count, reverse=True)
        few, rest = by_size[: _MOST_CELLS - 1], by_size[_MOST_CELLS - 1 :]
        if rest:
            few.append(sum(rest))
        self._cells = [(cell, cell.bit_count(), (cell & world.succeeded).bit_count()) for cell in few]

    def extended(
        self, bases: Sequence[_Base], partners: Sequence[_Partner], share: float
    ) -> Generator[None, None, list[Candidate]]:
        """Extends each of *bases* by each partner; single conditions only by later ones, so that no pair repeats."""
        least = _LEAST
        found: list[Candidate] = []
        steps = 0
        for number, base in enumerate(bases):
            some = partners[number + 1 :] if len(base.together) == 1 else partners
            for start in range(0, len(some), _STEP):
                found += self._fitting(base, some[start : start + _STEP], share + base.share, least)
                steps += len(some[start : start + _STEP])
                if steps >= _STEP:
                    steps = 0
                    yield
            if len(found) > _KEPT + _STEP:
                found = nlargest(_KEPT, found, key=_score)
                least = found[-1].score
        return nlargest(_KEPT, found, key=_score)

    def _fitting(self, base: _Base, partners: Sequence[_Partner], weight: float, least: float) -> Iterator[Candidate]:
        """*base* with each of *partners* that fits better than *least*. The search's hot spot.

        Pearson's statistic is checked first: it bounds the gain from above, as chi-square bounds the divergence.
        """
        own, most = base.bits.bit_count() if base.together else -1, self._world.ops - MIN_SUPPORT
        parts = [_part(cell, base.bits, self._world.succeeded) for cell in self._cells]
        first_bits, first_good, ops, good, scale = parts[0]
        is_one = len(parts) == 1
        for condition, bits, its_own, its_share in partners:
            n = (first_bits & bits).bit_count()
            if is_one:
                spread = (first_good & bits).bit_count() * ops - n * good
                if spread * spread * scale < (least - weight - its_share) * n * (ops - n):
                    continue
            met = base.bits & bits
            n = met.bit_count()
            if not MIN_SUPPORT <= n <= most or n == own or (n == its_own and base.together):
                continue
            score = weight + its_share + _gain(parts, bits)
            if score > least:
                yield Candidate(score, ordered((*base.together, condition)), met)


class _Part(NamedTuple):
    """For one cell: the ops that meet a base, those of them that succeeded, the cell's size and its successes.

    *scale* turns a squared spread into Pearson's statistic.
    """

    bits: int
    good_bits: int
    ops: int
    good: int
    scale: float


def _part(cell: tuple[int, int, int], bits: int, succeeded: int) -> _Part:
    within, ops, good = cell
    return _Part(bits & within, bits & within & succeeded, ops, good, ops / max(good * (ops - good), 1))


def _gain(parts: Sequence[_Part], more: int) -> float:
    """The likelihood gain of a base's ops that are in *more*, summed over *parts*."""
    gain = 0.0
    for bits, good_bits, ops, good, _ in parts:
        n, successes = (bits & more).bit_count(), (good_bits & more).bit_count()
        gain += likelihood_gain(n, successes, ops - n, good - successes)
    return gain


def ordered(together: Together) -> Together:
    """The conditions ordered by field, so that equal conjunctions compare equal."""
    return tuple(sorted(together, key=_field_order)) if len(together) > 1 else together


def _field_order(condition: Condition) -> tuple[str, bool]:
    return condition.field, condition.low is None


def _score(candidate: Candidate) -> float:
    return candidate.score


def _distinct(best: Sequence[Candidate]) -> list[Candidate]:
    """The candidates without those whose ops an earlier one has already."""
    seen: set[int] = set()
    kept = []
    for candidate in best:
        if candidate.bits not in seen:
            seen.add(candidate.bits)
            kept.append(candidate)
    return kept


def _order(candidate: Candidate) -> tuple[float, int]:
    return -candidate.score, len(candidate.together)


def name(together: Together) -> str:
    """The text of all its conditions, in their order."""
    return " ".join(each.text() for each in together)
