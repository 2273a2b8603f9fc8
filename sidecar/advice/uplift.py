"""Uplift: the success rate of tasks that were shown an entry minus that of tasks from which it was randomly withheld.

Pure arithmetic on counts. A stratum holds all tasks with the same propensity: within it the two groups differ only by
the advice, so a propensity that changes over time causes no bias. Strata are weighted as by Cochran (1954) and by
Mantel and Haenszel.

The interval may be read after every task. It is an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha,
Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics
2024): all differences whose statistic stays below Robbins' normal-mixture boundary (1970). The statistic of a stratum
is the signed root of the likelihood ratio under that difference (with the maximum-likelihood rate of the withheld
group, from the cubic of Miettinen and Nurminen, "Comparative analysis of two rates", 1985). Unlike a Wald or score
statistic it keeps its tails if one group is small and nearly all outcomes are equal. The boundary grows without limit
towards the first task, which protects against few tasks. Its coverage is not proven for finite samples, but measured:
`make bench-learning`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import acos, cos, inf, log, pi, sqrt
from typing import Final

import msgspec

from sidecar.model_learning import Avoided

_MOST_CERTAIN_AT: Final = 20.0  # in tasks (harmonic: 40 per group); the boundary is tightest some way beyond
_SPENT: Final = 0.8  # share of alpha used; the rest allows for the asymptotic approximation
_STEPS = 20  # bisection steps for an end: to one millionth


class Arm(msgspec.Struct):
    """The tasks of one group that have an outcome, and how many of them succeeded."""

    tasks: int = 0
    successes: int = 0


class Stratum(msgspec.Struct):
    """Tasks with the same *propensity* (0 to 1) of being shown the entry, by group."""

    propensity: float
    shown: Arm = msgspec.field(default_factory=Arm)
    withheld: Arm = msgspec.field(default_factory=Arm)


class Uplift(msgspec.Struct, frozen=True):
    """The difference of the success rates (−1 to 1), its interval, and all tasks counted; None if a group is empty."""

    estimate: float | None
    low: float | None
    high: float | None
    shown: Arm
    withheld: Arm


def uplift(strata: Sequence[Stratum], alpha: float = 0.05) -> Uplift:
    """The uplift over all *strata*; over all times together, its interval misses with probability *alpha* at most."""
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
    """The point estimate of `uplift` alone, without the search for its interval: O(strata)."""
    used = _used(strata)
    if not used:
        return None
    return sum(_weight(*each) * _difference(*each) for each in used) / sum(_weight(*each) for each in used)


def excludes(strata: Sequence[Stratum], difference: float, alpha: float = 0.05) -> bool:
    """Whether *difference* lies outside the interval of `uplift`: the same test, without the search."""
    used = _used(strata)
    return bool(used) and abs(_statistic(used, difference)) > _boundary(sum(_weight(*each) for each in used), alpha)


def failures_avoided(parts: Iterable[tuple[Sequence[Stratum], Uplift]]) -> Avoided | None:
    """The number of failures that advice avoided: uplift times shown tasks, over *parts* that share no task.

    Only tasks in strata with both groups count. The parts are independent: the variance of the sum is recovered from
    their intervals (Zou and Donner, 2008: "MOVER"). None if no part is known.
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


_Counts = tuple[int, int, int, int]  # (shown tasks, their successes, withheld tasks, their successes)


def total(arms: Iterable[Arm]) -> Arm:
    """The sum of all *arms*."""
    found = Arm()
    for arm in arms:
        found.tasks += arm.tasks
        found.successes += arm.successes
    return found


def _used(strata: Sequence[Stratum]) -> list[_Counts]:
    """The counts of the strata that have tasks in both groups."""
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
    """The bound on the statistic, on both sides: Robbins' normal mixture, in units of its standard deviation."""
    return sqrt((1 + _MOST_CERTAIN_AT / weights) * (log(1 + weights / _MOST_CERTAIN_AT) - 2 * log(_SPENT * alpha)))


def _statistic(used: Sequence[_Counts], difference: float) -> float:
    """The evidence of the counts against "the rates differ by *difference*", in standard deviations; signed."""
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
    """Ln of the likelihood ratio of the group's own rate to *rate*."""
    failures = n - successes
    loss = 0.0
    if successes:
        loss += successes * log(successes / (n * rate)) if rate > 0 else inf
    if failures:
        loss += failures * log(failures / (n * (1 - rate))) if rate < 1 else inf
    return loss


def _other_rate(counts: _Counts, difference: float) -> float:
    """The likeliest rate of the withheld group if the rates differ by *difference*: a root of a cubic, by angles."""
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
    """A difference that is not excluded: the *estimate*, except where the strata contradict each other."""
    below, above, found = -1.0, 1.0, estimate
    for _ in range(2 * _STEPS):
        statistic = _statistic(used, found)
        if abs(statistic) <= most:
            break
        below, above = (found, above) if statistic > 0 else (below, found)
        found = (below + above) / 2
    return found


def _edge(used: Sequence[_Counts], most: float, inside: float, outside: float) -> float:
    """Where the statistic crosses *most*, between *inside* (where it is below it) and *outside*."""
    if abs(_statistic(used, outside)) <= most:
        return outside
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        if abs(_statistic(used, middle)) <= most:
            inside = middle
        else:
            outside = middle
    return outside
