"""Metrics of the playbook and its advice.

Only cheap counts: an uplift's interval is not computed here.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, get_args

from sidecar.advice.tallies import Tally
from sidecar.metrics import OwnMetrics
from sidecar.model_learning import EntryState
from sidecar.pipeline.learning import Learning

MOST_ENTRIES: Final = 50
"""Entries with their own series: those with most tasks; the others are summed up."""
OTHER: Final = "_OTHER"


def register(metrics: OwnMetrics, learning: Learning) -> None:
    """Register the learning's counts as *metrics*."""
    level, exposures = metrics.observe_level, learning.exposures
    level("observer.playbooks", "{entry}", "Playbook entries, by state", lambda: _by_state(learning), "state")
    level(
        "observer.advice.open",
        "{assignment}",
        "Tasks whose outcome is awaited, once for each entry",
        lambda: exposures.open,
    )
    level(
        "observer.advice.tasks",
        "{task}",
        "Tasks with an outcome, by entry, group (`arm`: shown or withheld) and outcome",
        lambda: _tasks(exposures.tallies()),
        *("entry", "arm", "outcome"),
    )
    level(
        "observer.advice.missing",
        "{task}",
        "Tasks without an outcome in time, by group (`arm`: shown or withheld)",
        lambda: _missing(exposures.by_endpoint()),
        "arm",
    )


def _by_state(learning: Learning) -> dict[str, int]:
    counts = Counter(row.state for row in learning.playbook.rows())
    return {state: counts[state] for state in get_args(EntryState)}


def _tasks(tallies: list[Tally]) -> dict[tuple[str, ...], int]:
    """Tasks with an outcome; gauges, not counters, because an entry whose treatment changes is measured anew."""
    ranked = sorted(tallies, key=lambda each: sum(stratum.shown.tasks for stratum in each.now.strata), reverse=True)
    counts: Counter[tuple[str, ...]] = Counter()
    for place, tally in enumerate(ranked):
        name = tally.playbook_id if place < MOST_ENTRIES else OTHER
        for stratum in tally.now.strata:
            for arm, seen in (("shown", stratum.shown), ("withheld", stratum.withheld)):
                counts[name, arm, "success"] += seen.successes
                counts[name, arm, "failure"] += seen.tasks - seen.successes
    return dict(counts)


def _missing(tallies: list[Tally]) -> dict[str, int]:
    return {
        "shown": sum(each.now.missing.shown for each in tallies),
        "withheld": sum(each.now.missing.withheld for each in tallies),
    }
