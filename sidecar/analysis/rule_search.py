"""Which conditions set success apart from failure: the search over one endpoint's sheet.

Pure; a snapshot of a sheet goes in, the best-fitting conjunctions come out, and of those that were proven (by the
bets on them: `rule_bets`) the ones that are rules. The search runs in steps (it is a generator), so that its caller
can let others run in between. Of what is proven the best-fitting go first, and a further one, or a condition in one,
has to explain what those before it leave unexplained.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from heapq import nlargest
from math import comb, inf, log
from typing import Final, NamedTuple

import msgspec

from sidecar.analysis.e_values import (
    Table,
    likelihood_gain,
    stands,
)
from sidecar.analysis.rule_counts import Condition, Sheet, conditions_of

MAX_CONDITIONS: Final = 2048
MAX_TOGETHER: Final = 3  # conditions of a rule
MAX_RULES: Final = 8  # of one endpoint
MIN_SUPPORT: Final = 8  # ops, on either side
_ALL_PAIRS = 128  # conditions up to which every pair is looked at
_BEAM = 32  # pairs that are tried with every third condition
_KEPT = 256  # candidates of a size
_STEP = 250  # tables in a step: some 0.3 ms
_ADDS = 2.0  # ln of how much better an added condition must fit than the best of as many that add nothing

Together = tuple[Condition, ...]


class Snapshot(NamedTuple):
    """The complete blocks of a sheet: bits of *ops* ops; the conditions in the order that they are reported in."""

    ops: int
    succeeded: int
    bits: dict[Condition, int]

    def of(self, together: Iterable[Condition]) -> int | None:
        """The ops that meet all of *together*; None where one of them is not counted here."""
        found = (1 << self.ops) - 1
        for condition in together:
            bits = self.bits.get(condition)
            if bits is None:
                return None
            found &= bits
        return found


class Candidate(NamedTuple):
    """A conjunction, the ops that met it, and how well it fits: likelihood gain less ln of how many have its size."""

    score: float
    together: Together
    bits: int


class Proven(msgspec.Struct, frozen=True):
    """A conjunction, ln of its e-value, and the same with its share of the error: the highest so far in its sheet."""

    together: Together
    log_e: float
    weighted: float


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
        if MIN_SUPPORT <= bits.bit_count() <= world.ops - MIN_SUPPORT and bits not in seen:
            seen.add(bits)
            found.append(condition)
    return found[:MAX_CONDITIONS]


def table(world: Snapshot, bits: int, within: int | None = None) -> Table:
    """The two rates of *bits* and of the others, among the ops *within*."""
    others = (((1 << world.ops) - 1) if within is None else within) & ~bits
    met = bits if within is None else bits & within
    return Table(
        met.bit_count(),
        (met & world.succeeded).bit_count(),
        others.bit_count(),
        (others & world.succeeded).bit_count(),
    )


def gain_beyond(world: Snapshot, bits: int, explained: Sequence[int], within: int | None = None) -> float:
    """Likelihood gain of *bits* over what *explained* tell, among the ops *within*: summed over all that look alike."""
    cells = [(1 << world.ops) - 1 if within is None else within]
    for known in explained:
        cells = [part for cell in cells for part in (cell & known, cell & ~known) if part]
    return sum(likelihood_gain(*table(world, bits, cell)) for cell in cells)


def candidates(world: Snapshot, conditions: Sequence[Condition]) -> Generator[None, None, list[Candidate]]:
    """The best-fitting conjunctions of up to three *conditions*, the best first."""
    many = [log(comb(max(len(conditions), MAX_TOGETHER), size)) for size in (1, 2, 3)]
    singles = [(condition, world.bits[condition]) for condition in conditions]
    ones: list[Candidate] = []
    for start in range(0, len(singles), _STEP):
        some = [((condition,), bits) for condition, bits in singles[start : start + _STEP]]
        ones += _scored(world, some, -many[0])
        yield
    partners = singles
    if len(singles) > _ALL_PAIRS:
        partners = [(one.together[0], one.bits) for one in nlargest(_ALL_PAIRS, ones, key=_score)]
    twos = yield from _extended(world, [((c,), bits) for c, bits in partners], partners, -many[1])
    beam = [(two.together, two.bits) for two in twos[:_BEAM]]
    threes = yield from _extended(world, beam, partners, -many[2])
    best = sorted(ones + twos + threes, key=_order)
    return _distinct(best)


def _scored(world: Snapshot, found: Iterable[tuple[Together, int]], weight: float) -> list[Candidate]:
    return [Candidate(likelihood_gain(*table(world, bits)) + weight, together, bits) for together, bits in found]


def _extended(
    world: Snapshot, bases: Sequence[tuple[Together, int]], partners: Sequence[tuple[Condition, int]], weight: float
) -> Generator[None, None, list[Candidate]]:
    """Each of *bases* with each partner that comes after it (or, for pairs, with every other one)."""
    ops, succeeded = world.ops, world.succeeded
    all_good, most = succeeded.bit_count(), ops - MIN_SUPPORT
    found: list[Candidate] = []
    steps, least = 0, -inf
    for number, (together, bits) in enumerate(bases):
        own = bits.bit_count()
        good_bits = bits & succeeded
        for condition, more in partners[number + 1 :] if len(together) == 1 else partners:
            steps += 1
            if not steps % _STEP:
                yield
            both = bits & more
            n = both.bit_count()
            if not MIN_SUPPORT <= n <= most or n == own or n == more.bit_count():
                continue
            successes = (good_bits & more).bit_count()
            score = likelihood_gain(n, successes, ops - n, all_good - successes) + weight
            if score > least:
                found.append(Candidate(score, (*together, condition), both))
        if len(found) > _KEPT + _STEP:
            found = nlargest(_KEPT, found, key=_score)
            least = found[-1].score
    return nlargest(_KEPT, found, key=_score)


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
    return -candidate.score, len(candidate.together), _name(candidate.together)


def _name(together: Together) -> str:
    return " ".join(each.text() for each in together)


def minimal(
    world: Snapshot, found: Sequence[Proven], conditions: int, known: Sequence[Together], log_alpha: float
) -> Generator[None, None, list[Proven]]:
    """Of *found*, those that explain more than *known* and each other, and whose every condition is needed."""
    explained = [bits for together in known if (bits := world.of(together)) is not None]
    cut = {_cut_fields(together) for together in known}
    chosen: list[Proven] = []
    left = [(each, bits) for each in found if (bits := world.of(each.together)) is not None]
    least = _ADDS + log(max(conditions, 2))
    while left and len(explained) < MAX_RULES:
        scored = []
        for each, bits in left:
            if _cut_fields(each.together) in cut - {None}:  # a second cut beside the first tells where, not what
                continue
            gain = gain_beyond(world, bits, explained)
            if gain >= _ADDS + log(comb(max(conditions, 3), len(each.together))):
                scored.append((least * len(each.together) - gain, _name(each.together), each, bits))
            yield
        scored.sort(key=lambda one: one[:2])
        rank = len(chosen) + 1
        best = next(
            (
                one
                for one in scored
                if stands(one[2].weighted, rank, log_alpha) and _is_needed(world, one[2].together, explained, least)
            ),
            None,
        )
        if best is None:
            break
        chosen.append(best[2])
        explained.append(best[3])
        cut.add(_cut_fields(best[2].together))
        left = [one[2:] for one in scored if one is not best]
    return chosen


def _cut_fields(together: Together) -> frozenset[str] | None:
    """The fields of a rule that cuts a number; None for others."""
    if all(each.kind != "number" for each in together):
        return None
    return frozenset(each.field for each in together)


def _is_needed(world: Snapshot, together: Together, explained: Sequence[int], least: float) -> bool:
    """Whether each condition sets success apart among the ops that meet all the others."""
    if len(together) == 1:
        return True
    for condition in together:
        rest = world.of(each for each in together if each is not condition)
        if rest is None or gain_beyond(world, world.bits[condition], explained, rest) < least:
            return False
    return True
