"""Uplift: by how much tasks that were shown an entry succeed more often than those it was withheld from at random.

Pure arithmetic on counts. Fed with what the exposures of an entry came to, stratum by stratum: a stratum is all tasks
whose coin had the same probability, so within one the two arms are alike but for the advice, and a probability that
changes over time biases nothing. Strata are weighed as Cochran (1954) and Mantel and Haenszel do.

The interval may be looked at after every task. It is an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha,
Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics
2024): all differences whose statistic stays below Robbins' normal-mixture boundary (1970). The statistic of a stratum
is the signed root of the likelihood ratio under that difference (its other rate is the likeliest one, from the cubic
of Miettinen and Nurminen, "Comparative analysis of two rates", 1985): unlike a Wald or score statistic it keeps its
tails where one arm is small and nearly all outcomes are alike. The boundary grows without limit towards the first
task, which is the guard while there are few. That it covers as often as it says is not proven for finite samples, but
measured: `make bench-learning`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import acos, cos, inf, log, pi, sqrt
from typing import Final

import msgspec

from sidecar.model_learning import Avoided

_MOST_CERTAIN_AT: Final = (
    20.0  # in tasks (harmonic: 40 an arm); the boundary is closest to a fixed sample's some way on
)
_SPENT: Final = 0.8  # of the error allowed; the rest is for what an asymptotic boundary leaves out
_STEPS = 20  # of the search for an end: to one millionth


class Arm(msgspec.Struct):
    """Tasks of one arm that have an outcome, and how many of them succeeded."""

    tasks: int = 0
    successes: int = 0


class Stratum(msgspec.Struct):
    """Tasks to whom the entry was shown with the same *propensity* (0 to 1), as their coin fell."""

    propensity: float
    shown: Arm = msgspec.field(default_factory=Arm)
    withheld: Arm = msgspec.field(default_factory=Arm)


class Uplift(msgspec.Struct, frozen=True):
    """The difference of the success rates (−1 to 1), its interval, and all tasks counted; None: an arm is empty."""

    estimate: float | None
    low: float | None
    high: float | None
    shown: Arm
    withheld: Arm


def uplift(strata: Sequence[Stratum], alpha: float = 0.05) -> Uplift:
    """The uplift over all *strata*; whenever one looks, its interval misses with probability *alpha* at most."""
    shown, withheld = total(each.shown for each in strata), total(each.withheld for each in strata)
    used = _used(strata)
    if not used:
        return Uplift(None, None, None, shown, withheld)
    weights = sum(_weight(*each) for each in used)
    estimate = sum(_weight(*each) * _difference(*each) for each in used) / weights
    most = _boundary(weights, alpha)
    inside = _inside(used, most, estimate)
    low, high = _edge(used, most, inside, -1.0), _edge(used, most, inside, 1.0)
    return Uplift(min(max(estimate, low), high), low, high, shown, withheld)


def estimate(strata: Sequence[Stratum]) -> float | None:
    """The uplift's middle alone, without the search for its ends: O(strata)."""
    used = _used(strata)
    if not used:
        return None
    return sum(_weight(*each) * _difference(*each) for each in used) / sum(_weight(*each) for each in used)


def excludes(strata: Sequence[Stratum], difference: float, alpha: float = 0.05) -> bool:
    """Whether *difference* lies outside the interval that `uplift` gives: the same test, without the search."""
    used = _used(strata)
    return bool(used) and abs(_statistic(used, difference)) > _boundary(sum(_weight(*each) for each in used), alpha)


def failures_avoided(parts: Iterable[tuple[Sequence[Stratum], Uplift]]) -> Avoided | None:
    """Failures that shown tasks would have had more: uplift times tasks, over *parts* that share no task.

    Only tasks with others to be compared to count. The parts are independent: the sum's interval recovers their
    variances from theirs (Zou and Donner, 2008: "MOVER"). None before any part is known.
    """
    value = below = above = 0.0
    is_known = False
    for strata, found in parts:
        if found.estimate is None or found.low is None or found.high is None:
            continue
        is_known = True
        tasks = sum(counts[0] for counts in _used(strata))
        value += tasks * found.estimate
        below += (tasks * (found.estimate - found.low)) ** 2
        above += (tasks * (found.high - found.estimate)) ** 2
    return Avoided(value=value, low=value - sqrt(below), high=value + sqrt(above)) if is_known else None


_Counts = tuple[int, int, int, int]  # shown and their successes, withheld and theirs


def total(arms: Iterable[Arm]) -> Arm:
    """All *arms* as one."""
    found = Arm()
    for arm in arms:
        found.tasks += arm.tasks
        found.successes += arm.successes
    return found


def _used(strata: Sequence[Stratum]) -> list[_Counts]:
    """The strata that compare anything."""
    return [
        (each.shown.tasks, each.shown.successes, each.withheld.tasks, each.withheld.successes)
        for each in strata
        if each.shown.tasks and each.withheld.tasks
    ]


def _weight(n: int, _successes: int, others: int, _other_successes: int) -> float:
    return n * others / (n + others)


def _difference(n: int, successes: int, others: int, other_successes: int) -> float:
    return successes / n - other_successes / others


def _boundary(weights: float, alpha: float) -> float:
    """What the statistic may reach, to either side: Robbins' normal mixture, in units of its standard deviation."""
    return sqrt((1 + _MOST_CERTAIN_AT / weights) * (log(1 + weights / _MOST_CERTAIN_AT) - 2 * log(_SPENT * alpha)))


def _statistic(used: Sequence[_Counts], difference: float) -> float:
    """How far the counts lie above (below: negative) "the rates differ by *difference*", in standard deviations."""
    weights = off = 0.0
    for counts in used:
        weight = _weight(*counts)
        weights += weight
        off += sqrt(weight) * _signed_root(counts, difference)
    return off / sqrt(weights)


def _signed_root(counts: _Counts, difference: float) -> float:
    n, successes, others, other_successes = counts
    other_rate = _other_rate(counts, difference)
    ratio = _loss(n, successes, other_rate + difference) + _loss(others, other_successes, other_rate)
    root = sqrt(2 * max(ratio, 0.0))
    return root if _difference(*counts) > difference else -root


def _loss(n: int, successes: int, rate: float) -> float:
    """Ln of how much better the arm's own rate fits it than *rate* does."""
    failures = n - successes
    loss = 0.0
    if successes:
        loss += successes * log(successes / (n * rate)) if rate > 0 else inf
    if failures:
        loss += failures * log(failures / (n * (1 - rate))) if rate < 1 else inf
    return loss


def _other_rate(counts: _Counts, difference: float) -> float:
    """The likeliest rate of those withheld, if the rates differ by *difference*: a root of a cubic, by angles."""
    n, successes, others, other_successes = counts
    total, all_successes = n + others, successes + other_successes
    b = ((n + 2 * others) * difference - total - all_successes) / (3 * total)
    c = ((others * difference - total - 2 * other_successes) * difference + all_successes) / total
    d = other_successes * difference * (1 - difference) / total
    side = b * b * b - b * c / 2 + d / 2
    length = sqrt(max(b * b - c / 3, 0.0))
    if side < 0:
        length = -length
    cube = length * length * length
    angle = (pi + acos(min(max(side / cube, -1.0), 1.0) if cube else 0.0)) / 3
    return min(max(2 * length * cos(angle) - b, 0.0, -difference), 1.0, 1 - difference)


def _inside(used: Sequence[_Counts], most: float, estimate: float) -> float:
    """A difference that is not excluded: the *estimate*, but where the strata contradict each other."""
    below, above, found = -1.0, 1.0, estimate
    for _ in range(2 * _STEPS):
        statistic = _statistic(used, found)
        if abs(statistic) <= most:
            break
        below, above = (found, above) if statistic > 0 else (below, found)
        found = (below + above) / 2
    return found


def _edge(used: Sequence[_Counts], most: float, inside: float, outside: float) -> float:
    """Where the statistic passes *most* between *inside*, where it stays below it, and *outside*."""
    if abs(_statistic(used, outside)) <= most:
        return outside
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        if abs(_statistic(used, middle)) <= most:
            inside = middle
        else:
            outside = middle
    return outside
