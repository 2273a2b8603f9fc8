"""How much advice helps, as people are told it: of each entry, and of all advice together, as of the last cycle."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from copy import deepcopy
from typing import NamedTuple

from sidecar.advice.exposures import ExposureBook
from sidecar.advice.tallies import Tally, Trial, merge
from sidecar.advice.uplift import Stratum, Uplift, failures_avoided, total, uplift
from sidecar.model_learning import ArmResult, Avoided, Measured


class _Known(NamedTuple):
    """An effect, with the number of the trial and the strata from which it was computed."""

    epoch: int
    strata: list[Stratum]
    found: Uplift


class Effects:
    """Computed from *exposures* once a cycle, by `measure`; the sizes of the groups are always the present ones.

    An effect is that of the trial from whose tasks it was computed: a trial that has begun since has none yet.
    """

    def __init__(self, exposures: ExposureBook) -> None:
        self._exposures = exposures
        self._of_entries: dict[str, _Known] = {}
        self._of_endpoints: dict[str, _Known] = {}
        self._overall = uplift([])

    async def measure(self) -> None:
        """Compute changed effects: of each entry, and by task of all advice together."""
        self._of_entries = await _worked_out(self._exposures.tallies(), self._of_entries)
        self._of_endpoints = await _worked_out(self._exposures.by_endpoint(), self._of_endpoints)
        pooled: list[Stratum] = []
        for known in self._of_endpoints.values():
            merge(pooled, known.strata)
        self._overall = uplift(pooled)

    def of(self, playbook_id: str) -> Measured | None:
        """The effect of an entry; None if it was never offered."""
        tally = self._exposures.tally(playbook_id)
        if tally is None:
            return None
        known = self._of_entries.get(playbook_id)
        found = known.found if known is not None and known.epoch == tally.epoch else uplift([])
        return _measured(found, [tally.now])

    def overall(self) -> Measured:
        """The effect of all advice together."""
        return _measured(self._overall, [tally.now for tally in self._exposures.by_endpoint()])

    def avoided(self) -> Avoided | None:
        """The number of failures that all advice avoided; None while no effect is known."""
        return failures_avoided((known.strata, known.found) for known in self._of_endpoints.values())


async def _worked_out(tallies: Sequence[Tally], before: dict[str, _Known]) -> dict[str, _Known]:
    """The effects of *tallies*, recomputing those changed since *before*, one per turn: each takes a millisecond."""
    effects: dict[str, _Known] = {}
    for tally in tallies:
        known, strata = before.get(tally.playbook_id), tally.now.strata
        if known is None or (known.epoch, known.strata) != (tally.epoch, strata):
            known = _Known(tally.epoch, deepcopy(strata), uplift(strata))
        effects[tally.playbook_id] = known
        await asyncio.sleep(0)
    return effects


def _measured(found: Uplift, trials: list[Trial]) -> Measured:
    return Measured(
        shown=_arm(trials, shown=True),
        withheld=_arm(trials, shown=False),
        effect=found.estimate,
        low=found.low,
        high=found.high,
    )


def _arm(trials: list[Trial], *, shown: bool) -> ArmResult:
    arm = total(each.shown if shown else each.withheld for trial in trials for each in trial.strata)
    reported = [each.shown if shown else each.withheld for trial in trials for each in trial.reported]
    return ArmResult(
        tasks=arm.tasks,
        successes=arm.successes,
        assigned=sum(trial.assigned[shown] for trial in trials),
        reported=sum(each.tasks for each in reported),
        missing=sum(trial.missing[shown] for trial in trials),
        informed=sum(trial.informed[shown] for trial in trials),
    )
