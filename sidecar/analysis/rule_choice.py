"""Turns best-fitting conjunctions into rules: each rule must explain what the rules before it leave unexplained.

Pure. Every conjunction has a share of alpha and a bet. The mixture of all bets is the evidence that any rule exists.
If that suffices, a conjunction's part of the mixture says how likely it is the rule. The parts of conjunctions over the
same fields are added up, because neighbouring cut points stand for the same rule.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from math import inf, log
from typing import Final, NamedTuple

from sidecar.analysis.e_values import ALPHA, log_sum
from sidecar.analysis.rule_borders import Border, beside_cuts
from sidecar.analysis.rule_counts import Condition, Together
from sidecar.analysis.rule_evidence import Evidence
from sidecar.analysis.rule_prior import Prior
from sidecar.analysis.rule_search import Candidate, Snapshot, candidates, is_supported, name

MAX_RULES: Final = 8  # per endpoint
ENOUGH: Final = -log(ALPHA)  # ln of the mixed e-value that a further rule needs, once one rule is proven
_WEIGHED = 64  # best-fitting candidates whose evidence is computed
_REMEMBERED = 12
_MUCH_WORSE = 5.0  # ln
_STEP = 4  # candidates per step


class Weighed(NamedTuple):
    """A conjunction, ln of its e-value with (*weighted*) and without its share, its ops; whether these succeed more."""

    weighted: float
    together: Together
    log_e: float
    bits: int
    is_better: bool


class Choice(NamedTuple):
    """The most likely rule, if any; ln of the mixed e-value of all bets; the conjunctions with most evidence."""

    best: Weighed | None
    log_all: float
    leading: list[Together]


class Ground(NamedTuple):
    """The input of a search: ops, candidate conditions, shares of alpha; candidates are fitted on the ops *within*.

    *borders* has the reported places of the cuts of standing rules.
    """

    world: Snapshot
    conditions: Sequence[Condition]
    prior: Prior
    within: int
    borders: Sequence[Border]

    def explained(self, known: Iterable[Together]) -> list[int]:
        """Sets of ops explained by the *known* rules: the ops of each rule, and one set of ops near any of their cuts.

        A cut may be off by up to the bins beside it: outcomes there that contradict a rule are evidence on its cut, not
        on another rule. All such ops form one set, because each further set costs the search evidence.
        """
        counted = [together for together in known if self.world.of(together) is not None]
        doubtful = 0
        for together in counted:
            for bits in beside_cuts(self.world, self.borders, together):
                doubtful |= bits
        return [*(self.world.of(together) or 0 for together in counted), *([doubtful] if doubtful else [])]


def choose(
    ground: Ground, known: Sequence[Together], remembered: Iterable[Together], *, search: bool
) -> Generator[None, None, Choice]:
    """The likeliest rule beside those *known*: among those *remembered* and, with *search*, the best-fitting."""
    world, prior, explained = ground.world, ground.prior, ground.explained(known)
    fitting: list[Candidate] = []
    if search:
        fitting = yield from candidates(world, ground.conditions, prior, explained, ground.within)
    cut = {_cut_fields(together) for together in known} - {None}
    # A known rule is not chosen again, nor a second cut of its fields: that would refine where, not add what.
    left = [each for each in fitting if each.together not in known and _cut_fields(each.together) not in cut]
    kept = [each for each in remembered if each not in known and _cut_fields(each) not in cut]
    weighed = yield from _weighed(world, _merged(world, left[:_WEIGHED], kept), prior, explained)
    if not weighed:
        return Choice(None, -inf, [])
    log_all = log_sum([each.weighted for each in weighed])
    leading = [each.together for each in sorted(weighed, key=_order)[:_REMEMBERED]]
    return Choice(_likeliest(weighed), log_all, leading)


def needed(ground: Ground, chosen: Sequence[Weighed], known: Sequence[Together]) -> list[Weighed]:
    """Those of *chosen* that explain something beside the others: a later rule may make the first one redundant."""
    left = list(chosen)
    for each in chosen[:-1]:
        others = [*known, *(one.together for one in left if one is not each)]
        evidence = Evidence(ground.world, ground.explained(others))
        if evidence.log_e(each.bits) + ground.prior.of_all(each.together) < 0:
            left.remove(each)
    return left


def _merged(world: Snapshot, fitting: Iterable[Candidate], remembered: Iterable[Together]) -> list[Candidate]:
    """Both without duplicates, the supported ones of *remembered* first."""
    found = {each: Candidate(inf, each, bits) for each in remembered if (bits := world.of(each)) is not None}
    found = {together: each for together, each in found.items() if is_supported(world, each.bits)}
    return [*found.values(), *(each for each in fitting if each.together not in found)]


def _weighed(
    world: Snapshot, found: Iterable[Candidate], prior: Prior, explained: Sequence[int]
) -> Generator[None, None, list[Weighed]]:
    """The candidates with their evidence; stops at those whose fit is much worse than the best evidence so far."""
    evidence, weighed, most = Evidence(world, explained), list[Weighed](), -inf
    yield
    for number, each in enumerate(found):
        if each.score < most - _MUCH_WORSE:
            break
        log_e = evidence.log_e(each.bits)
        weighted = log_e + prior.of_all(each.together)
        weighed.append(Weighed(weighted, each.together, log_e, each.bits, evidence.is_better(each.bits)))
        most = max(most, weighed[-1].weighted)
        if not number % _STEP:
            yield
    return weighed


def _likeliest(weighed: Sequence[Weighed]) -> Weighed:
    """The best conjunction of the set of fields with most evidence.

    If either of two conditions makes calls fail, the calls that meet neither succeed. That one conjunction is as much
    evidence as the two rules, but does not name what fails, so it is chosen last.
    """
    by_fields: dict[frozenset[str], list[Weighed]] = {}
    for each in weighed:
        by_fields.setdefault(frozenset(one.field for one in each.together), []).append(each)
    held = [(log_sum([each.weighted for each in some]), min(some, key=_order)) for some in by_fields.values()]
    plain = [one for one in held if one[0] >= ENOUGH and not (one[1].is_better and len(one[1].together) > 1)]
    return max(plain or held, key=lambda one: (one[0], -len(one[1].together)))[1]


def _order(each: Weighed) -> tuple[float, int, str]:
    return -each.weighted, len(each.together), name(each.together)


def _cut_fields(together: Together) -> frozenset[str] | None:
    """The fields of a rule with a numeric cut; None for other rules."""
    if all(each.kind != "number" for each in together):
        return None
    return frozenset(each.field for each in together)
