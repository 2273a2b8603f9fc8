"""Standing: whether an entry is still tried, is trusted, or is given up, by its measured uplift alone.

Pure. A person's hand (approve, retire, restore) goes before and is not decided here.

The rule is the same for both steps: act as soon as the interval of `uplift(strata, STANDING_ALPHA)` leaves zero on one
side. That interval is two-sided at 10 %, so over an entry's whole life, looked at after every task, an entry that does
nothing is promoted in at most 5 % of cases and given up as harmful in at most 5 %. Measured, not assumed, with one
coin in two: an entry that costs 20 points is given up within 400 exposures (both arms together) in more than 85 %
of runs, one that gains 20 in fewer than 5 %; `make bench-learning` prints the table, with smaller harms.

The world may change. All that was measured of an active entry would outweigh for long what happens now, and few tasks
are withheld from it; so when its shown tasks begin to do no better than withheld ones did (`SLUMP`), it becomes a
candidate again, measured from there, with equal arms. An outage does that too, and costs no more than that trial.
"""

from __future__ import annotations

from typing import Final, Literal

from sidecar.advice.uplift import Uplift

State = Literal["candidate", "active", "retired"]
STANDING_ALPHA: Final = 0.1  # of the interval that `standing` is to be given
CANDIDATE_PROPENSITY: Final = 0.5  # of a candidate's being shown: nothing tells sooner than equal arms
MIN_TASKS: Final = 10  # of each arm
SLUMP: Final = 6.0  # ln of the evidence that shown tasks do no better any more, at which an active entry is tried again


def standing(state: State, measured: Uplift) -> State:
    """The next state of an entry in *state*; *measured* is `uplift(strata, STANDING_ALPHA)`. Retired ones stay so."""
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
