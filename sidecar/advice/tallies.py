"""Outcome counts per entry, by group (shown or withheld) and propensity.

Pure. Written by the exposure book; read by the doors, the ranking and the standing.
"""

from __future__ import annotations

from math import log
from typing import Final

import msgspec

from sidecar.advice.standing import MIN_TASKS
from sidecar.advice.uplift import Arm, Stratum, total

MAX_STRATA: Final = 16  # three coins of two propensities combine to nine


class PerArm(msgspec.Struct):
    """A count for each group."""

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
    """Outcome counts of one treatment. *strata* count calls that were observed, *reported* those reported by agents.

    *slump* is the evidence of the latest shown tasks for "no better than those withheld" (ln; a CUSUM, Page 1954).
    *assigned* counts the tasks with a coin, *missing* those without an outcome in time, *informed* those that read the
    playbook by themselves. A task that is assigned but neither counted, reported nor missing is open.
    """

    strata: list[Stratum] = []
    reported: list[Stratum] = []
    assigned: PerArm = msgspec.field(default_factory=PerArm)
    missing: PerArm = msgspec.field(default_factory=PerArm)
    informed: PerArm = msgspec.field(default_factory=PerArm)
    slump: float = 0.0

    def count(self, propensity: float, shown: bool, *, success: bool, reported: bool) -> None:
        """Add one outcome."""
        if shown and not reported:
            self._update_slump(success=success)
        _add(self.reported if reported else self.strata, propensity, shown, 1, int(success))

    def withdraw_report(self, propensity: float, shown: bool, *, success: bool) -> None:
        """Remove a reported outcome, which an observed one replaces."""
        _add(self.reported, propensity, shown, -1, -int(success))

    def amend(self, propensity: float, shown: bool, *, success: bool) -> None:
        """Correct a counted outcome: it now is a *success*, or no longer one."""
        _add(self.strata, propensity, shown, 0, 1 if success else -1)

    def absorb(self, other: Trial) -> None:
        """Add all counts of *other*."""
        merge(self.strata, other.strata)
        merge(self.reported, other.reported)
        for mine, theirs in (
            (self.assigned, other.assigned),
            (self.missing, other.missing),
            (self.informed, other.informed),
        ):
            mine.shown += theirs.shown
            mine.withheld += theirs.withheld

    def _update_slump(self, *, success: bool) -> None:
        shown, withheld = total(each.shown for each in self.strata), total(each.withheld for each in self.strata)
        if min(shown.tasks, withheld.tasks) < MIN_TASKS:
            return
        rate, other_rate = _smoothed(shown), _smoothed(withheld)
        if rate > other_rate:
            step = log(other_rate / rate) if success else log((1 - other_rate) / (1 - rate))
            self.slump = max(0.0, self.slump + step)

    @property
    def all_strata(self) -> list[Stratum]:
        """The strata of observed and reported outcomes together."""
        merged: list[Stratum] = []
        merge(merged, self.strata)
        merge(merged, self.reported)
        return merged


class Tally(msgspec.Struct, omit_defaults=True):
    """The counts of one entry: the current trial *now*, number *epoch* (from 0), and all *past* ones together.

    A coin belongs to the trial in which it was drawn, however late its outcome comes.
    """

    playbook_id: str
    now: Trial = msgspec.field(default_factory=Trial)
    past: Trial = msgspec.field(default_factory=Trial)
    epoch: int = 0

    def trial(self, epoch: int) -> Trial:
        """The trial that counts the coins of *epoch*."""
        return self.now if epoch == self.epoch else self.past

    def begin_anew(self) -> None:
        """Start a new trial; the counts so far are added to *past*."""
        self.past.absorb(self.now)
        self.now = Trial()
        self.epoch += 1


def _smoothed(arm: Arm) -> float:
    return (arm.successes + 1) / (arm.tasks + 2)


def merge(into: list[Stratum], strata: list[Stratum]) -> None:
    """Add the counts of *strata* to *into*."""
    for each in strata:
        _add(into, each.propensity, True, each.shown.tasks, each.shown.successes)
        _add(into, each.propensity, False, each.withheld.tasks, each.withheld.successes)


def _add(strata: list[Stratum], propensity: float, shown: bool, tasks: int, successes: int) -> None:
    found = next((each for each in strata if each.propensity == propensity), None)
    if found is None:
        if len(strata) >= MAX_STRATA:  # the holdout was changed many times: use the nearest propensity
            found = min(strata, key=lambda each: abs(each.propensity - propensity))
        else:
            found = Stratum(propensity, Arm(), Arm())
            strata.append(found)
    arm = found.shown if shown else found.withheld
    arm.tasks = max(0, arm.tasks + tasks)
    arm.successes = max(0, min(arm.successes + successes, arm.tasks))
