"""From what fits best to what is a rule: each rule has to tell what those before it leave untold.

Pure. All conjunctions have a share of the error allowed and a bet; what they hold together is the evidence that there
is a rule at all. Where that is enough, what each holds of it says how likely it is the one: conditions on the same
fields stand together, for cut points that lie side by side are one rule.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Final, NamedTuple

from sidecar.analysis.e_values import log_sum
from sidecar.analysis.rule_counts import Condition, Together
from sidecar.analysis.rule_evidence import Evidence
from sidecar.analysis.rule_prior import Prior
from sidecar.analysis.rule_search import Candidate, Snapshot, candidates, is_supported, name

MAX_RULES: Final = 8  # of one endpoint
_WEIGHED = 96  # of the best-fitting candidates
_REMEMBERED = 32
_STEP = 4  # of these in a step: some 0.5 ms


class Weighed(NamedTuple):
    """A conjunction, ln of its e-value, and the same with its share of the error."""

    weighted: float
    together: Together
    log_e: float
    bits: int


class Choice(NamedTuple):
    """The most likely rule, if any; ln of what all bets hold together; the best-fitting conjunctions."""

    best: Weighed | None
    log_all: float
    leading: list[Together]


def choose(
    world: Snapshot,
    conditions: Sequence[Condition],
    prior: Prior,
    known: Sequence[Together],
    remembered: Iterable[Together],
) -> Generator[None, None, Choice]:
    """The likeliest rule beside those *known*. *remembered* conjunctions are weighed whether they fit best or not."""
    explained = [bits for together in known if (bits := world.of(together)) is not None]
    fitting = yield from candidates(world, conditions, prior, explained)
    weighed = yield from _weighed(world, _merged(world, fitting[:_WEIGHED], remembered), prior, explained)
    cut = {_cut_fields(together) for together in known} - {None}
    told = set(known)
    # a second cut beside the first tells where, not what
    weighed = [each for each in weighed if _cut_fields(each.together) not in cut and each.together not in told]
    if not weighed:
        return Choice(None, 0.0, [])
    log_all = log_sum([each.weighted for each in weighed])
    leading = [each.together for each in sorted(weighed, key=_order)[:_REMEMBERED]]
    return Choice(_likeliest(weighed), log_all, leading)


def needed(world: Snapshot, chosen: Sequence[Weighed], prior: Prior, known: Sequence[Together]) -> list[Weighed]:
    """Of *chosen*, those that tell something beside the others: the first one may be a part of what came after."""
    left = list(chosen)
    for each in chosen[:-1]:
        others = [*known, *(one.together for one in left if one is not each)]
        explained = [bits for together in others if (bits := world.of(together)) is not None]
        if Evidence(world, explained).log_e(each.bits) + prior.of_all(each.together) < 0:
            left.remove(each)
    return left


def _merged(world: Snapshot, fitting: Iterable[Candidate], remembered: Iterable[Together]) -> list[Candidate]:
    """Both, each conjunction once."""
    found = {each.together: each for each in fitting}
    for together in remembered:
        bits = world.of(together)
        if together not in found and bits is not None and is_supported(world, bits):
            found[together] = Candidate(0.0, together, bits)
    return list(found.values())


def _weighed(
    world: Snapshot, found: Iterable[Candidate], prior: Prior, explained: Sequence[int]
) -> Generator[None, None, list[Weighed]]:
    evidence = Evidence(world, explained)
    weighed = []
    for number, each in enumerate(found):
        log_e = evidence.log_e(each.bits)
        weighed.append(Weighed(log_e + prior.of_all(each.together), each.together, log_e, each.bits))
        if not number % _STEP:
            yield
    return weighed


def _likeliest(weighed: Sequence[Weighed]) -> Weighed:
    """The best of the fields that hold most together."""
    by_fields: dict[frozenset[str], list[Weighed]] = {}
    for each in weighed:
        by_fields.setdefault(frozenset(one.field for one in each.together), []).append(each)
    held = [(log_sum([each.weighted for each in some]), some) for some in by_fields.values()]
    return min(max(held, key=lambda one: (one[0], -len(one[1][0].together)))[1], key=_order)


def _order(each: Weighed) -> tuple[float, int, str]:
    return -each.weighted, len(each.together), name(each.together)


def _cut_fields(together: Together) -> frozenset[str] | None:
    """The fields of a rule that cuts a number; None for others."""
    if all(each.kind != "number" for each in together):
        return None
    return frozenset(each.field for each in together)
