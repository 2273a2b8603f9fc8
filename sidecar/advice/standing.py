"""Decides from the measured uplift alone whether an entry remains a candidate, becomes active, or is retired.

Pure. Decisions of people (approve, retire, restore) have priority and are not made here.

The same criterion serves both steps: act as soon as the confidence sequence of `uplift(strata, STANDING_ALPHA)`
excludes zero. It is two-sided at 10 %: over an entry's whole life, checked after every task, an entry without effect is
promoted in at most 5 % of cases and retired as harmful in at most 5 %. Measured with equal groups: an entry that costs
20 points is retired within 400 exposures (both groups together) in more than 85 % of runs, one that gains 20 in fewer
than 5 %; `make bench-learning` prints the table, with smaller harms.

The world may change. The past data of an active entry would outweigh the present for long, and few tasks are withheld
from it. So when its shown tasks begin to do no better than withheld ones did (`SLUMP`), it becomes a candidate again,
measured anew with equal groups. An outage causes that too, and costs no more than that trial.
"""

from __future__ import annotations

from typing import Final, Literal

from sidecar.advice.uplift import Uplift

State = Literal["candidate", "active", "retired"]
STANDING_ALPHA: Final = 0.1  # of the interval passed to `standing`
CANDIDATE_PROPENSITY: Final = 0.5  # probability that a candidate is shown: equal groups give the fastest answer
MIN_TASKS: Final = 10  # in each group
SLUMP: Final = 6.0  # ln of the evidence that shown tasks do no better any more, which starts another trial


def standing(state: State, measured: Uplift) -> State:
    """The next state of an entry in *state*; *measured* is `uplift(strata, STANDING_ALPHA)`. `retired` is final."""
    low, high = measured.low, measured.high
    if state == "retired" or low is None or high is None:
        return state
    if min(measured.shown.tasks, measured.withheld.tasks) < MIN_TASKS:
        return state
    if high < 0:
        return "retired"
    if low > 0:
        return "active"
    return state
