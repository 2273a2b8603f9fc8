"""Proposes which entries to promote, retire or try again by their measured effect; the pipeline decides once a cycle.

Pure. Agents' own reports cannot promote an entry, but they can retire it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sidecar.advice.exposures import ExposureBook
from sidecar.advice.standing import SLUMP, STANDING_ALPHA, standing
from sidecar.advice.tallies import Trial
from sidecar.advice.uplift import Uplift, excludes, uplift
from sidecar.model_learning import EntryChange, EntryRow


class Standings:
    """Checks the entries whose tallies have grown since the last time."""

    def __init__(self, book: ExposureBook) -> None:
        self._book = book
        self._looked: dict[str, tuple[int, str]] = {}

    def proposals(self, rows: Iterable[EntryRow], at: str) -> Iterator[EntryChange | None]:
        """The changes due at the time *at*; None for a checked entry without a change, so that other tasks may run."""
        looked: dict[str, tuple[int, str]] = {}
        for row in rows:
            entry = row.latest
            tally = self._book.tally(entry.playbook_id)
            if tally is None or row.state == "retired":
                continue
            trial = tally.now
            with_reports = trial.all_strata
            size = sum(each.shown.tasks + each.withheld.tasks for each in with_reports)
            looked[entry.playbook_id] = (size, row.state)
            if looked[entry.playbook_id] == self._looked.get(entry.playbook_id):
                continue
            # Most intervals are far from excluding zero: one test shows it without a search for their ends.
            change = None
            if any(excludes(strata, 0.0, STANDING_ALPHA) for strata in (trial.strata, with_reports)):
                change = _due(row, uplift(trial.strata, STANDING_ALPHA), uplift(with_reports, STANDING_ALPHA), at)
            yield change or _retry_if_slumped(row, trial, at)
        self._looked = looked


def _due(row: EntryRow, seen: Uplift, said: Uplift, at: str) -> EntryChange | None:
    if "retired" in (standing(row.state, seen), standing(row.state, said)):
        worst = seen if standing(row.state, seen) == "retired" else said
        return row.due("retire", at, "numbers", _why(worst))
    if row.state == "candidate" and standing(row.state, seen) == "active":
        return row.due("promote", at, "numbers", _why(seen))
    return None


def _retry_if_slumped(row: EntryRow, trial: Trial, at: str) -> EntryChange | None:
    """Another trial for an active entry whose shown tasks recently do no better than withheld ones did."""
    if row.state != "active" or trial.slump < SLUMP:
        return None
    return row.due("retry", at, "numbers", "tasks that are shown it no longer do better: tried again")


def _why(measured: Uplift) -> str:
    """The reason as text: `effect -21 points (-38 to -4), 96 shown, 104 withheld`."""
    points = [round(100 * each) for each in (measured.estimate, measured.low, measured.high) if each is not None]
    middle, low, high = points
    return (
        f"effect {middle:+d} points ({low:+d} to {high:+d}), "
        f"{measured.shown.tasks} shown, {measured.withheld.tasks} withheld"
    )
