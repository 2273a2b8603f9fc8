"""Uplift: the coverage and width of its interval, and what becomes of harmful and helpful entries."""

from __future__ import annotations

from math import sqrt
from random import Random
from typing import NamedTuple

from sidecar.advice.standing import CANDIDATE_PROPENSITY, STANDING_ALPHA, State, standing
from sidecar.advice.uplift import Arm, Stratum, excludes, uplift

LOOKS = 5000
EXPOSURES = 400
ACTIVE_PROPENSITY = 0.9
_LOOK_EVERY = 4  # exposures between two looks at an entry's standing
_Z = 1.959964


class Setting(NamedTuple):
    """The success rates of both groups, and the propensities used one after the other."""

    shown: float
    withheld: float
    propensities: tuple[float, ...]


SETTINGS = tuple(
    Setting(shown, withheld, propensities)
    for shown, withheld in ((0.5, 0.5), (0.9, 0.7), (0.75, 0.95), (0.98, 0.98), (0.03, 0.03))
    for propensities in ((0.5,), (0.5, 0.9), (0.9,))
)


def missed_at(setting: Setting, seed: int) -> int | None:
    """The number of the first look, one after each task, at which the interval misses the truth; None: never."""
    dice, difference = Random(f"{setting} {seed}"), setting.shown - setting.withheld
    strata = {each: Stratum(each) for each in setting.propensities}
    for number in range(LOOKS):
        propensity = setting.propensities[number * len(setting.propensities) // LOOKS]
        count(strata[propensity], dice, setting.shown, setting.withheld)
        if excludes(list(strata.values()), difference):
            return number + 1
    return None


def count(stratum: Stratum, dice: Random, shown_rate: float, withheld_rate: float) -> None:
    """Simulate one task: its assignment and its outcome."""
    shown = dice.random() < stratum.propensity
    arm = stratum.shown if shown else stratum.withheld
    arm.tasks += 1
    arm.successes += dice.random() < (shown_rate if shown else withheld_rate)


def life(base: float, effect: float, seed: int) -> tuple[State, int]:
    """The state of an entry after `EXPOSURES` tasks of both groups, and the task at which it was retired (else 0)."""
    dice = Random(f"{base} {effect} {seed}")
    state: State = "candidate"
    strata = {each: Stratum(each) for each in (CANDIDATE_PROPENSITY, ACTIVE_PROPENSITY)}
    for number in range(1, EXPOSURES + 1):
        propensity = CANDIDATE_PROPENSITY if state == "candidate" else ACTIVE_PROPENSITY
        count(strata[propensity], dice, base + effect, base)
        if not number % _LOOK_EVERY:
            state = standing(state, uplift(list(strata.values()), STANDING_ALPHA))
            if state == "retired":
                return state, number
    return state, 0


def width_ratio(rate: float, effect: float) -> float:
    """The interval's width at 1,000 tasks per group, relative to Newcombe's interval for a fixed sample."""
    shown, withheld = Arm(1000, round(1000 * (rate + effect))), Arm(1000, round(1000 * rate))
    found = uplift([Stratum(0.5, shown, withheld)])
    low, high = newcombe(shown, withheld)
    return ((found.high or 0.0) - (found.low or 0.0)) / (high - low)


def newcombe(one: Arm, other: Arm) -> tuple[float, float]:
    """Newcombe's hybrid score interval of a difference at 95 % ("Interval estimation", 1998, method 10)."""
    (a, a_low, a_high), (b, b_low, b_high) = _wilson(one), _wilson(other)
    return a - b - sqrt((a - a_low) ** 2 + (b_high - b) ** 2), a - b + sqrt((a_high - a) ** 2 + (b - b_low) ** 2)


def _wilson(arm: Arm) -> tuple[float, float, float]:
    n, rate = arm.tasks, arm.successes / arm.tasks
    middle, half = rate + _Z * _Z / (2 * n), _Z * sqrt(rate * (1 - rate) / n + _Z * _Z / (4 * n * n))
    return rate, (middle - half) / (1 + _Z * _Z / n), (middle + half) / (1 + _Z * _Z / n)
