"""Selects the failures that a diagnosis shows, and words the diagnosis without a model. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.analysis.field_counts import Common
from sidecar.analysis.findings import Sample
from sidecar.analysis.fingerprint import one_line
from sidecar.analysis.incident_rows import MAX_LINE
from sidecar.analysis.model_questions import MAX_FAILURES
from sidecar.analysis.rule_fit import RuleSaid
from sidecar.model import Incident

_MAX_PIECE = 600  # characters per incident


def failure_samples(incidents: Sequence[Incident]) -> list[Sample]:
    """At most 10 failure lines, newest last; the newest of each incident come first, so that each incident has one."""
    found: list[Sample] = []
    depth = max((len(incident.samples) for incident in incidents), default=0)
    for back in range(1, depth + 1):
        found += [Sample(each.fingerprint, each.samples[-back]) for each in incidents if len(each.samples) >= back]
    return found[:MAX_FAILURES][::-1]


def counted_diagnosis(incident: Incident, common: Sequence[Common], rule: RuleSaid | None) -> str:
    """The diagnosis without a model: the incident's message, count and start, and what sets its failures apart."""
    return _counted(incident, common, rule)[:_MAX_PIECE]


def _counted(incident: Incident, common: Sequence[Common], rule: RuleSaid | None) -> str:
    times = "failure" if incident.count == 1 else "failures"
    said = f"[{one_line(incident.endpoint, 80)}] {incident.count} {times} since {incident.first_seen}: "
    said += incident.message[:MAX_LINE]
    if not common and rule is not None and rule.fits:
        return f"{said} — {rule.where} {rule.rates}."
    if not common and rule is not None:
        return f"{said} — nothing sets them apart yet; what holds {rule.where} is about other failures."
    if not common:
        return said + " — nothing sets them apart from the successes yet."
    shares = "; ".join(
        f"{one_line(each.field, 60)}={one_line(each.value, 60)} ({each.failures} failures, {each.successes} successes)"
        for each in common
    )
    return f"{said} — common to the failures, rare among the successes: {shares}."
