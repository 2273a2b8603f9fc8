"""The data of a report: read from a running observer's doors, then computed. Pure except for the reading."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from sidecar.commands.observer_client import NotThereError, ObserverClient
from sidecar.measured_words import is_known
from sidecar.model_learning import Avoided, Measured, PlaybookView

MOST_INCIDENTS: Final = 40  # incidents whose timelines are read
_SERIES = 5  # incidents with a colour of their own
_MOST_COLUMNS = 48
_OPEN_STATES = frozenset({"new", "ongoing", "escalating", "regressed"})


class _Advice(msgspec.Struct):
    asked: int = 0
    told: int = 0
    tasks: int = 0
    measured: Measured | None = None
    avoided: Avoided | None = None


class _Stats(msgspec.Struct):
    total: int = 0
    successes: int = 0
    failures: int = 0
    operations_in_all: int = 0
    advice: _Advice = msgspec.field(default_factory=_Advice)


class _Buckets(msgspec.Struct, rename={"start": "from"}):
    width_s: int
    start: str
    counts: list[int]


class Incident(msgspec.Struct, kw_only=True):
    """An incident as the report shows it."""

    fingerprint: str
    endpoint: str
    message: str
    state: str
    count: int
    first_seen: str
    last_seen: str
    timeline: list[_Buckets] = []

    @property
    def first(self) -> str:
        """*first_seen* for people: `2026-01-31 08:15`."""
        return _to_the_minute(self.first_seen)

    @property
    def last(self) -> str:
        """*last_seen* for people."""
        return _to_the_minute(self.last_seen)

    @property
    def is_open(self) -> bool:
        """Whether the incident counts as still happening."""
        return self.state in _OPEN_STATES


class Estimate(msgspec.Struct, frozen=True):
    """A number and its interval; *value* is None if not known yet."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Series(msgspec.Struct, frozen=True):
    """Failures of one incident (or of all others) per column."""

    name: str
    counts: list[int]


class Times(msgspec.Struct, frozen=True):
    """Columns of *width_s* seconds; the first begins at *start* (s since the Unix epoch)."""

    start: int
    width_s: int
    series: list[Series]


class ReportData(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of all forms of the report; `--json` prints it as it is.

    *operations* and *failures* are those in memory. *asked* and *told* are since the observer's start. *measured* and
    *avoided* are of all advice together. *entries* are sorted by effect, *incidents* by count.
    """

    url: str
    at: str
    operations_in_all: int
    operations: int
    failures: int
    asked: int
    told: int
    tasks: int
    measured: Measured | None
    avoided: Estimate
    entries: list[PlaybookView]
    incidents: list[Incident]
    times: Times | None

    @property
    def day_and_time(self) -> str:
        """*at* for people: `2026-01-31 08:15 UTC`."""
        return f"{_to_the_minute(self.at)} UTC"


def avoided(measured: Measured | None) -> Estimate:
    """The failures that *measured*'s advice spared its shown tasks; negative: that it caused.

    For one entry: entries told to the same task share its outcome, so their numbers do not add up.
    """
    if measured is None or measured.effect is None or measured.low is None or measured.high is None:
        return Estimate(None)
    tasks = measured.shown.tasks
    return Estimate(tasks * measured.effect, tasks * measured.low, tasks * measured.high)


def open_words(incidents: Sequence[Incident]) -> str:
    """How many incidents there are, and how many of them are open: `26, all open`."""
    still = sum(each.is_open for each in incidents)
    if not still:
        return f"{len(incidents)}, none open" if incidents else "0"
    return f"{len(incidents)}, {'all' if still == len(incidents) else still} open"


def _to_the_minute(at: str) -> str:
    return at[:16].replace("T", " ")


def _estimate(found: Avoided | None) -> Estimate:
    return Estimate(found.value, found.low, found.high) if found is not None else Estimate(None)


def gather(client: ObserverClient, now: datetime) -> ReportData:
    """Read all data. Raises AskError."""
    stats: _Stats = client.decoded(client.get("/stats"), _Stats)
    entries = client.listed("/playbooks", "playbooks", PlaybookView)
    incidents = client.listed("/incidents", "incidents", Incident)
    incidents.sort(key=lambda each: (-each.count, each.fingerprint))
    detailed = [_detailed(client, each) for each in incidents[:MOST_INCIDENTS]]
    advice = stats.advice
    return ReportData(
        url=client.url,
        at=now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        operations_in_all=stats.operations_in_all,
        operations=stats.total,
        failures=stats.failures,
        asked=advice.asked,
        told=advice.told,
        tasks=advice.tasks,
        measured=advice.measured,
        avoided=_estimate(advice.avoided),
        entries=sorted(entries, key=by_effect),
        incidents=[*detailed, *incidents[MOST_INCIDENTS:]],
        times=times(detailed),
    )


def _detailed(client: ObserverClient, incident: Incident) -> Incident:
    try:
        found: Incident = client.decoded(client.get(f"/incidents/{incident.fingerprint}"), Incident)
    except NotThereError:  # it was evicted meanwhile
        return incident
    return found


def by_effect(entry: PlaybookView) -> tuple[int, float, str]:
    """Entries whose effect is known come first, then those being measured."""
    effect = entry.measured.effect if entry.measured is not None else None
    rank = 2 if effect is None else 0 if is_known(entry.measured) else 1
    return rank, -(effect or 0.0), entry.playbook_id


def times(incidents: Sequence[Incident]) -> Times | None:
    """Failures over time, in the narrowest columns that show all of them; None if there are none."""
    for level in range(3):
        spans = [(each, each.timeline[level]) for each in incidents if len(each.timeline) > level]
        if not spans:
            return None
        width_s = spans[0][1].width_s
        first = min(_second(span.start) // width_s for _, span in spans)
        last = max(_second(span.start) // width_s + len(span.counts) for _, span in spans)
        begun = min(_second(each.first_seen) // width_s for each, _ in spans)
        if (last - begun <= _MOST_COLUMNS and begun >= first) or level == 2:
            return _in_columns(spans, max(first, last - _MOST_COLUMNS), last, width_s)
    return None


def _in_columns(spans: Sequence[tuple[Incident, _Buckets]], first: int, last: int, width_s: int) -> Times:
    series = []
    others = [0] * (last - first)
    for number, (incident, span) in enumerate(spans):
        counts = [0] * (last - first)
        at = _second(span.start) // width_s - first
        for offset, count in enumerate(span.counts):
            if 0 <= at + offset < len(counts):
                counts[at + offset] += count
        if number < _SERIES:
            series.append(Series(f"{incident.endpoint}: {incident.message}", counts))
        else:
            others = [one + more for one, more in zip(others, counts, strict=True)]
    if len(spans) > _SERIES:
        series.append(Series(f"{len(spans) - _SERIES} others", others))
    return Times(first * width_s, width_s, series)


def _second(at: str) -> int:
    return int(datetime.fromisoformat(at).timestamp())
