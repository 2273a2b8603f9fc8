"""From what fits best to what is a rule: each rule has to tell what those before it leave untold.

Pure. All conjunctions have a share of the error allowed and a bet; what they hold together is the evidence that there
is a rule at all. Where that is enough, what each holds of it says how likely it is the one: conditions on the same
fields stand together, for cut points that lie side by side are one rule.
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

MAX_RULES: Final = 8  # of one endpoint
ENOUGH: Final = -log(ALPHA)  # ln of what all bets on a further rule have to hold, beside one that is proven
_WEIGHED = 64  # of the best-fitting candidates
_REMEMBERED = 12
_MUCH_WORSE = 5.0  # ln
_STEP = 4  # of these in a step: some 0.5 ms


class Weighed(NamedTuple):
    """A conjunction, ln of its e-value, and the same with its share of the error; whether its ops succeed more."""

    weighted: float
    together: Together
    log_e: float
    bits: int
    is_better: bool


class Choice(NamedTuple):
    """The most likely rule, if any; ln of what all bets hold together; the best-fitting conjunctions."""

    best: Weighed | None
    log_all: float
    leading: list[Together]


class Ground(NamedTuple):
    """What rules are sought in: ops, the conditions tried, shares of the error; a search is among the ops *within*.

    *borders* tell where the cuts of the rules that stand really lie.
    """

    world: Snapshot
    conditions: Sequence[Condition]
    prior: Prior
    within: int
    borders: Sequence[Border]

    def explained(self, known: Iterable[Together]) -> list[int]:
        """The ops of each of *known*, as far as they are counted here, and those beside its cuts.

        A cut is off by up to the parts beside it: what is not as the rule says there tells of the cut, not of a rule.
        All such ops are one set: each set more takes evidence from what is sought.
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
    # Of what is known no rule is made again; a second cut beside the first tells where, not what.
    left = [each for each in fitting if each.together not in known and _cut_fields(each.together) not in cut]
    kept = [each for each in remembered if each not in known and _cut_fields(each) not in cut]
    weighed = yield from _weighed(world, _merged(world, left[:_WEIGHED], kept), prior, explained)
    if not weighed:
        return Choice(None, -inf, [])
    log_all = log_sum([each.weighted for each in weighed])
    leading = [each.together for each in sorted(weighed, key=_order)[:_REMEMBERED]]
    return Choice(_likeliest(weighed), log_all, leading)


def needed(ground: Ground, chosen: Sequence[Weighed], known: Sequence[Together]) -> list[Weighed]:
    """Of *chosen*, those that tell something beside the others: the first one may be a part of what came after."""
    left = list(chosen)
    for each in chosen[:-1]:
        others = [*known, *(one.together for one in left if one is not each)]
        evidence = Evidence(ground.world, ground.explained(others))
        if evidence.log_e(each.bits) + ground.prior.of_all(each.together) < 0:
            left.remove(each)
    return left


def _merged(world: Snapshot, fitting: Iterable[Candidate], remembered: Iterable[Together]) -> list[Candidate]:
    """Both, each conjunction once, those remembered first."""
    found = {each: Candidate(inf, each, bits) for each in remembered if (bits := world.of(each)) is not None}
    found = {together: each for together, each in found.items() if is_supported(world, each.bits)}
    return [*found.values(), *(each for each in fitting if each.together not in found)]


def _weighed(
    world: Snapshot, found: Iterable[Candidate], prior: Prior, explained: Sequence[int]
) -> Generator[None, None, list[Weighed]]:
    """Each with its evidence; those that fit much worse than the best is worth are left out."""
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
    """The best of the fields that hold most together.

    Where either of two conditions makes calls fail, what meets neither succeeds: that one conjunction tells as much
    as the two rules do, but not what fails. So it comes last.
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
    """The fields of a rule that cuts a number; None for others."""
    if all(each.kind != "number" for each in together):
        return None
    return frozenset(each.field for each in together)
