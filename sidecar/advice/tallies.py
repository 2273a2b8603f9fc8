"""What came of an entry's coins, in numbers: one tally an entry, by whether it was shown and how likely that was.

Pure. Written by the exposure book; read by the doors, the ranking and the standing.
"""

from __future__ import annotations

from math import log
from typing import Final

import msgspec

from sidecar.advice.standing import MIN_TASKS
from sidecar.advice.uplift import Arm, Stratum, total

MAX_STRATA: Final = 16  # three coins of two kinds make nine


class PerArm(msgspec.Struct):
    """A count for each arm."""

    shown: int = 0
    withheld: int = 0

    def __getitem__(self, shown: bool) -> int:
        return self.shown if shown else self.withheld

    def __setitem__(self, shown: bool, count: int) -> None:
        if shown:
            self.shown = count
        else:
            self.withheld = count


class Trial(msgspec.Struct, omit_defaults=True):
    """What came of the coins of one treatment. *strata* count calls that were seen, *reported* what agents said.

    *slump* tells how far the latest shown tasks speak for "no better than those withheld" (ln; a CUSUM, Page 1954).
    *assigned* counts tasks whose coin fell, *missing* those of which no outcome came in time, *informed* those that
    read the playbook by themselves. What is assigned and neither counted, reported nor missing is open.
    """

    strata: list[Stratum] = []
    reported: list[Stratum] = []
    assigned: PerArm = msgspec.field(default_factory=PerArm)
    missing: PerArm = msgspec.field(default_factory=PerArm)
    informed: PerArm = msgspec.field(default_factory=PerArm)
    slump: float = 0.0

    def count(self, propensity: float, shown: bool, *, success: bool, reported: bool) -> None:
        """One more outcome."""
        if shown and not reported:
            self._look_for_a_slump(success=success)
        _add(self.reported if reported else self.strata, propensity, shown, 1, int(success))

    def withdraw_report(self, propensity: float, shown: bool, *, success: bool) -> None:
        """What an agent reported is now known better."""
        _add(self.reported, propensity, shown, -1, -int(success))

    def amend(self, propensity: float, shown: bool, *, success: bool) -> None:
        """An outcome that was counted turned out to be a *success*, or not to be one."""
        _add(self.strata, propensity, shown, 0, 1 if success else -1)

    def absorb(self, other: Trial) -> None:
        """Take over all that *other* counted."""
        merge(self.strata, other.strata)
        merge(self.reported, other.reported)
        for mine, theirs in (
            (self.assigned, other.assigned),
            (self.missing, other.missing),
            (self.informed, other.informed),
        ):
            mine.shown += theirs.shown
            mine.withheld += theirs.withheld

    def _look_for_a_slump(self, *, success: bool) -> None:
        shown, withheld = total(each.shown for each in self.strata), total(each.withheld for each in self.strata)
        if min(shown.tasks, withheld.tasks) < MIN_TASKS:
            return
        rate, other_rate = _smoothed(shown), _smoothed(withheld)
        if rate > other_rate:
            step = log(other_rate / rate) if success else log((1 - other_rate) / (1 - rate))
            self.slump = max(0.0, self.slump + step)

    @property
    def all_strata(self) -> list[Stratum]:
        """With what agents reported."""
        merged: list[Stratum] = []
        merge(merged, self.strata)
        merge(merged, self.reported)
        return merged


class Tally(msgspec.Struct, omit_defaults=True):
    """One entry's: the trial that goes on *now*, the *epoch*-th (from 0), and all *past* ones together.

    A coin belongs to the trial in which it fell, however late its outcome comes.
    """

    playbook_id: str
    now: Trial = msgspec.field(default_factory=Trial)
    past: Trial = msgspec.field(default_factory=Trial)
    epoch: int = 0

    def trial(self, epoch: int) -> Trial:
        """Where the coins of *epoch* are counted."""
        return self.now if epoch == self.epoch else self.past

    def begin_anew(self) -> None:
        """Measure from here; what was measured is kept apart."""
        self.past.absorb(self.now)
        self.now = Trial()
        self.epoch += 1


def _smoothed(arm: Arm) -> float:
    return (arm.successes + 1) / (arm.tasks + 2)


def merge(into: list[Stratum], strata: list[Stratum]) -> None:
    """Add the counts of *strata* to those *into* which they go."""
    for each in strata:
        _add(into, each.propensity, True, each.shown.tasks, each.shown.successes)
        _add(into, each.propensity, False, each.withheld.tasks, each.withheld.successes)


def _add(strata: list[Stratum], propensity: float, shown: bool, tasks: int, successes: int) -> None:
    found = next((each for each in strata if each.propensity == propensity), None)
    if found is None:
        if len(strata) >= MAX_STRATA:  # the hold-out was set anew again and again: the nearest will do
            found = min(strata, key=lambda each: abs(each.propensity - propensity))
        else:
            found = Stratum(propensity, Arm(), Arm())
            strata.append(found)
    arm = found.shown if shown else found.withheld
    arm.tasks = max(0, arm.tasks + tasks)
    arm.successes = max(0, min(arm.successes + successes, arm.tasks))
