"""Groups failures into incidents by fingerprint, and counts the field values of each endpoint's successes.

Fed every settled op on the event loop's thread; read by the life cycle, the error analyzer and the reading doors.
`incident_rows` defines what one incident stores; `slow_successes` decides when a success is too slow.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog

from sidecar.analysis import incident_rows
from sidecar.analysis.event_time import happened_at, is_earlier, later_of
from sidecar.analysis.field_counts import Common, FieldCounts, common_to_failures
from sidecar.analysis.findings import known_mark
from sidecar.analysis.fingerprint import MAX_ENDPOINT, Fingerprints, kind_fingerprint
from sidecar.analysis.incident_rows import IncidentRow, Mark, Step, failure_line, time_order
from sidecar.analysis.slow_successes import SLOW_MESSAGE, Latency, slow_line
from sidecar.analysis.template_tree import TemplateTree
from sidecar.kept_rows import KeptBook, KeptRows
from sidecar.model import Incident, IncidentKind, IncidentState, ObservedOp
from sidecar.normalize import clean_text

log = structlog.get_logger(__name__)

CORRECTION: Final = "overseer_correction"
MAX_INCIDENTS: Final = 1000
MAX_ENDPOINTS: Final = 1000
_MAX_JOINED = 8192  # entries of `_joined`
_SILENT = frozenset({"resolved", "ignored"})


class EndpointRow(msgspec.Struct):
    """The field values of one endpoint's successes, and their latency."""

    last_seen: str
    successes: FieldCounts
    latency: Latency


class IncidentBook(KeptBook):
    """Keeps at most 1000 incidents and 1000 endpoints; the least recently seen is evicted and counted.

    Corrections count neither as success nor as failure. All methods belong to the event loop's thread.
    """

    def __init__(self) -> None:
        self._incidents = KeptRows("incident/", IncidentRow, MAX_INCIDENTS)
        self._endpoints = KeptRows("endpoint/", EndpointRow, MAX_ENDPOINTS)
        self._fingerprints = Fingerprints(TemplateTree())
        super().__init__(self._incidents, self._endpoints, self._fingerprints.tree)
        self._version = self._fingerprints.tree.version
        self._joined: dict[str, str] = {}  # joined fingerprint → the incident that now has its failures
        self._waiting: OrderedDict[str, list[Mark | Step]] = OrderedDict()  # for incidents not (yet) here
        self.last_op_id: str | None = None
        self.not_counted = 0  # ops that raised an exception

    def consume(self, op: ObservedOp) -> None:
        """Count one settled op. O(its fields); an op that cannot be read is logged and counted."""
        try:
            if op.op_id is not None:
                self.last_op_id = op.op_id
            if op.source == CORRECTION:
                return
            if op.success:
                self._count_success(op)
            else:
                self._count_failure(op)
        except Exception:  # one bad op must not stop the others
            self.not_counted += 1
            log.exception("incidents.op_not_counted", failures=self.not_counted)

    def retract(self, op: ObservedOp) -> None:
        """Remove *op* from the counts: a later op amends it.

        An incident with no failures left is hidden, but keeps its diagnosis in case one returns.
        """
        try:
            if op.source == CORRECTION:
                return
            if op.success:
                self._uncount_success(op)
            else:
                self._uncount(self._fingerprint(op)[0], op, failure_line(op))
        except Exception:  # one bad op must not stop the others
            self.not_counted += 1
            log.exception("incidents.op_not_retracted", failures=self.not_counted)

    def raise_(self, op: ObservedOp, fingerprint: str, message: str, kind: IncidentKind, line: str) -> None:
        """Count *op*, described by *line*, in the incident with this *fingerprint*; creates the incident if needed."""
        row = self._incidents.touch(fingerprint)
        if row is None:
            row = incident_rows.new_row(op, fingerprint, message, kind)
            self._incidents.add(fingerprint, row)
            self._apply_waiting(fingerprint)
        row.incident.message = message  # the template may have become more general
        incident_rows.count_op(row, op, line)
        if kind != "failure" and not row.incident.diagnosed_count:
            incident_rows.apply_mark(row.incident, known_mark(row.incident))

    def __len__(self) -> int:
        return len(self.rows())

    @property
    def evicted(self) -> int:
        """The number of incidents and endpoints evicted for room."""
        return self._incidents.evicted + self._endpoints.evicted

    @property
    def templates_evicted(self) -> int:
        """Templates and tree nodes evicted for room: their messages form incidents of their own again."""
        return self._fingerprints.tree.evicted + self._fingerprints.tree.forgotten

    @property
    def by_state(self) -> Counter[IncidentState]:
        """The number of incidents in each state."""
        return Counter(row.incident.state for row in self.rows())

    def row(self, fingerprint: str) -> IncidentRow | None:
        """The row of the incident with this fingerprint, or of the incident that it was joined to."""
        return self._incidents.get(self._joined.get(fingerprint, fingerprint))

    def get(self, fingerprint: str) -> Incident | None:
        """The incident with this fingerprint, or the one that it was joined to; None if it has no failures."""
        row = self.row(fingerprint)
        return row.incident if row is not None and row.incident.count else None

    def incidents(self) -> list[Incident]:
        """All incidents, the last seen first; of those seen at the same time, the one that failed last by arrival."""
        newest = [row.incident for row in reversed(self.rows())]
        return sorted(newest, key=lambda each: time_order(each.last_seen), reverse=True)

    def rows(self) -> list[IncidentRow]:
        """All rows, the least recent first, without those whose failures were all amended away."""
        return [row for row in self._incidents.rows() if row.incident.count]

    def due(self) -> list[Incident]:
        """Incidents never diagnosed, doubled since, or regressed since; those with most new failures first."""
        due = [row.incident for row in self.rows() if _is_due(row.incident)]
        return sorted(due, key=lambda each: (each.diagnosed_count - each.count, each.fingerprint))

    def common(self, incident: Incident) -> list[Common]:
        """The values that the incident's failures have in common, unlike the successes of its endpoint."""
        row = self._incidents.get(incident.fingerprint)
        endpoint = self._endpoints.get(incident.endpoint)
        if row is None or endpoint is None:
            return []
        return common_to_failures(row.counts, endpoint.successes)

    def last_success(self, endpoint: str) -> str | None:
        """The time of *endpoint*'s last success."""
        row = self._endpoints.get(endpoint)
        return row.last_seen if row is not None else None

    def mark(self, fingerprint: str, mark: Mark) -> None:
        """Record a diagnosis. If the incident is not here, the mark waits for it."""
        self._apply(fingerprint, mark)

    def decide(self, fingerprint: str, step: Step) -> None:
        """Apply a decision on the incident's state. If the incident is not here, the decision waits for it."""
        self._apply(fingerprint, step)

    def holds(self, fingerprint: str, step: Step) -> bool:
        """Whether the decision *step* took effect, or waits for an incident that is not here."""
        row = self.row(fingerprint)
        return row is None or step in row.history

    def load(self, rows: Mapping[str, bytes]) -> None:
        """Restore the rows that `take_dirty` returned, in any order."""
        for key in self._incidents.load(rows):
            row = self._incidents.get(key)
            if row is not None:
                self._joined.update(dict.fromkeys(row.incident.aliases, key))
            self._apply_waiting(key)
        self._endpoints.load(rows)
        self._fingerprints.tree.load(rows)

    def _count_success(self, op: ObservedOp) -> None:
        key = clean_text(op.endpoint[:MAX_ENDPOINT])
        row = self._endpoints.touch(key)
        if row is None:
            row = EndpointRow(happened_at(op), FieldCounts(), Latency())
            self._endpoints.add(key, row)
        else:
            row.last_seen = later_of(row.last_seen, op)
        row.successes.add(op)
        if row.latency.is_slow(op.duration_ms):
            self.raise_(op, kind_fingerprint(op.endpoint, "slow"), SLOW_MESSAGE, "slow", slow_line(op, row.latency))

    def _uncount_success(self, op: ObservedOp) -> None:
        key = clean_text(op.endpoint[:MAX_ENDPOINT])
        row = self._endpoints.get(key)
        if row is None or not row.successes.seen:  # the row that counted *op* was evicted
            return
        row.successes.remove(op)
        row.latency.take_back(op.duration_ms)
        self._endpoints.changed(key)
        slow, line = self.get(fingerprint := kind_fingerprint(op.endpoint, "slow")), slow_line(op, row.latency)
        if slow is not None and line in slow.samples:  # else it was not counted as slow, or long ago
            self._uncount(fingerprint, op, line)

    def _uncount(self, fingerprint: str, op: ObservedOp, line: str) -> None:
        row = self._incidents.get(fingerprint)
        if row is not None and row.incident.count:  # otherwise the row that counted *op* was evicted
            incident_rows.uncount_op(row, op, line)
            self._incidents.changed(fingerprint)

    def _count_failure(self, op: ObservedOp) -> None:
        fingerprint, message = self._fingerprint(op)
        self.raise_(op, fingerprint, message, "failure", failure_line(op))

    def _fingerprint(self, op: ObservedOp) -> tuple[str, str]:
        """(id, template) of the failure *op*; incidents that a new template covers are joined."""
        found = self._fingerprints.find(op)
        if self._fingerprints.tree.version != self._version:
            self._version = self._fingerprints.tree.version
            for old, new in self._fingerprints.tree.take_renamed().items():
                self._join(old, new)
        return found

    def _join(self, old: str, new: str) -> None:
        """Move everything of *old* (counts, evidence, history, waiting decisions) to *new*."""
        other, row = self._incidents.remove(old), self._incidents.get(new)
        waiting = self._waiting.pop(old, [])
        aliases = [old, *(other.incident.aliases if other is not None else ())]
        if other is not None and row is None:
            other.incident.fingerprint, other.incident.aliases = new, []
            row = other
            self._incidents.add(new, row)
        elif other is not None and row is not None:
            incident_rows.absorb(row, other)
            self._incidents.changed(new)
        if row is not None:
            row.incident.aliases = list(dict.fromkeys([*row.incident.aliases, *aliases]))[-incident_rows.MAX_ALIASES :]
        self._joined.update(dict.fromkeys(aliases, new))
        if len(self._joined) > _MAX_JOINED:
            self._joined = {each: to for each, to in self._joined.items() if self._incidents.get(to) is not None}
        for each in waiting:
            self._apply(new, each)

    def _apply(self, fingerprint: str, what: Mark | Step) -> None:
        key = self._joined.get(fingerprint, fingerprint)
        row = self._incidents.get(key)
        if row is not None:
            _apply_to_row(row, what)
            self._incidents.changed(key)
            return
        self._waiting[key] = [*self._waiting.get(key, ()), what][-incident_rows.MAX_HISTORY :]
        self._waiting.move_to_end(key)
        if len(self._waiting) > MAX_INCIDENTS:
            self._waiting.popitem(last=False)

    def _apply_waiting(self, key: str) -> None:
        for what in self._waiting.pop(key, ()):
            self._apply(key, what)


def _apply_to_row(row: IncidentRow, what: Mark | Step) -> None:
    if isinstance(what, Mark):
        incident_rows.apply_mark(row.incident, what)
    else:
        incident_rows.decide(row, what)


def is_explained(incident: Incident) -> bool:
    """Whether the incident gets diagnoses: only failures that are neither resolved nor ignored do."""
    return incident.state not in _SILENT and incident.kind == "failure"


def _is_due(incident: Incident) -> bool:
    if not is_explained(incident):
        return False
    if not incident.diagnosed_count or incident.count >= 2 * incident.diagnosed_count:
        return True
    decided_at, diagnosed_at = incident.decided_at or "", incident.diagnosed_at or ""
    return incident.state == "regressed" and is_earlier(diagnosed_at, decided_at)
