"""Failures gathered into incidents by fingerprint, with what their endpoint's successes looked like.

Fed every settled op on the event loop's thread; read by the error analyzer and the reading doors.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from sidecar.analysis.evidence import span_ref
from sidecar.analysis.field_counts import Common, FieldCounts, common_to_failures
from sidecar.analysis.fingerprint import MAX_ENDPOINT, fingerprint, one_line
from sidecar.kept_rows import KeptRows
from sidecar.model import Incident, ObservedOp, SpanRef
from sidecar.normalize import clean_text

log = structlog.get_logger(__name__)

CORRECTION: Final = "overseer_correction"
MAX_INCIDENTS: Final = 1000
MAX_ENDPOINTS: Final = 1000
MAX_EVIDENCE: Final = 10
MAX_SAMPLES: Final = 10
MAX_LINE: Final = 300  # characters of one failure's line
MAX_COUNTED: Final = 32  # values of one `by_…` count
OTHER: Final = "_OTHER"
_MAX_TEXT = 100


class IncidentRow(msgspec.Struct):
    """An incident as it is kept and saved: with the field values of its failures."""

    incident: Incident
    counts: FieldCounts


class EndpointRow(msgspec.Struct):
    """The field values of one endpoint's successes."""

    last_seen: str
    successes: FieldCounts


class IncidentBook:
    """At most 1000 incidents and 1000 endpoints; what was seen least recently goes out, counted.

    Corrections are neither success nor failure. All methods belong to the event loop's thread.
    """

    def __init__(self) -> None:
        self._incidents = KeptRows("incident/", IncidentRow, MAX_INCIDENTS)
        self._endpoints = KeptRows("endpoint/", EndpointRow, MAX_ENDPOINTS)
        self._marks: OrderedDict[str, tuple[int, str, str]] = OrderedDict()  # of incidents not (yet) here
        self.last_op_id: str | None = None
        self.not_counted = 0  # ops that could not be taken in

    def consume(self, op: ObservedOp) -> None:
        """Take one settled op in. O(its fields); an op that cannot be read is logged and counted."""
        try:
            if op.op_id is not None:
                self.last_op_id = op.op_id
            if op.source == CORRECTION:
                return
            if op.success:
                self._succeeded(op)
            else:
                self._failed(op)
        except Exception:  # a poison op costs itself
            self.not_counted += 1
            log.exception("incidents.op_not_counted", failures=self.not_counted)

    def __len__(self) -> int:
        return len(self._incidents)

    @property
    def evicted(self) -> int:
        """Incidents and endpoints that had to make room."""
        return self._incidents.evicted + self._endpoints.evicted

    @property
    def unusable(self) -> int:
        """Saved rows that could not be read, and rows that could not be saved."""
        return self._incidents.unusable + self._endpoints.unusable

    def get(self, fingerprint_id: str) -> Incident | None:
        """The incident with this fingerprint."""
        row = self._incidents.get(fingerprint_id)
        return row.incident if row is not None else None

    def incidents(self) -> list[Incident]:
        """All of them, the most recent first."""
        return [row.incident for row in reversed(self._incidents.rows())]

    def due(self) -> list[Incident]:
        """Those never diagnosed, or doubled since; those with most new failures first."""
        due = [row.incident for row in self._incidents.rows() if _is_due(row.incident)]
        return sorted(due, key=lambda each: (each.diagnosed_count - each.count, each.fingerprint))

    def common(self, incident: Incident) -> list[Common]:
        """What its failures have in common and the successes of its endpoint have not."""
        row = self._incidents.get(incident.fingerprint)
        endpoint = self._endpoints.get(incident.endpoint)
        if row is None or endpoint is None:
            return []
        return common_to_failures(row.counts, endpoint.successes)

    def mark(self, fingerprint_id: str, count: int, by: str, text: str) -> None:
        """Say that the incident was diagnosed at *count* failures. The highest count stays, whatever the order.

        The mark of an incident that is not here waits for it.
        """
        mark = (count, by, text)
        row = self._incidents.get(fingerprint_id)
        if row is not None:
            _apply(row.incident, mark)
            self._incidents.changed(fingerprint_id)
            return
        self._marks[fingerprint_id] = max(mark, self._marks.get(fingerprint_id, mark))
        self._marks.move_to_end(fingerprint_id)
        if len(self._marks) > MAX_INCIDENTS:
            self._marks.popitem(last=False)

    def load(self, rows: Mapping[str, bytes]) -> None:
        """Restore what `take_dirty` gave, in whatever order."""
        for key in self._incidents.load(rows):
            self._apply_waiting(key)
        self._endpoints.load(rows)

    def prepare(self) -> Iterator[None]:
        """Do most of `take_dirty`'s work ahead of it, a little at each step."""
        yield from self._incidents.prepare()
        yield from self._endpoints.prepare()

    def take_dirty(self) -> dict[str, bytes]:
        """Rows changed since the last call, as JSON by key; removed ones as b""."""
        return self._incidents.take_dirty() | self._endpoints.take_dirty()

    def put_back(self, keys: Iterable[str]) -> None:
        """Saving *keys* failed: `take_dirty` gives them again."""
        names = list(keys)
        self._incidents.put_back(names)
        self._endpoints.put_back(names)

    def _succeeded(self, op: ObservedOp) -> None:
        key = clean_text(op.endpoint[:MAX_ENDPOINT])
        row = self._endpoints.touch(key)
        if row is None:
            row = EndpointRow(op.timestamp, FieldCounts())
            self._endpoints.add(key, row)
        elif op.timestamp > row.last_seen:
            row.last_seen = op.timestamp
        row.successes.add(op)

    def _failed(self, op: ObservedOp) -> None:
        key, message = fingerprint(op)
        row = self._incidents.touch(key)
        if row is None:
            row = IncidentRow(_new_incident(op, key, message), FieldCounts())
            self._incidents.add(key, row)
            self._apply_waiting(key)
        _count_failure(row.incident, op)
        row.counts.add(op)

    def _apply_waiting(self, key: str) -> None:
        mark, row = self._marks.pop(key, None), self._incidents.get(key)
        if mark is not None and row is not None:
            _apply(row.incident, mark)
            self._incidents.changed(key)


def failure_line(op: ObservedOp) -> str:
    """`[endpoint] input_summary: error` on one line of at most `MAX_LINE` characters; each part is bounded."""
    line = f"[{one_line(op.endpoint, 80)}] {one_line(op.input_summary, 100)}: "
    return line + one_line(op.error or op.output_summary, MAX_LINE - len(line))


def _is_due(incident: Incident) -> bool:
    return not incident.diagnosed_count or incident.count >= 2 * incident.diagnosed_count


def _apply(incident: Incident, mark: tuple[int, str, str]) -> None:
    if mark > (incident.diagnosed_count, incident.diagnosed_by or "", incident.diagnosis or ""):
        incident.diagnosed_count, incident.diagnosed_by, incident.diagnosis = mark


def _new_incident(op: ObservedOp, key: str, message: str) -> Incident:
    return Incident(
        fingerprint=key,
        endpoint=clean_text(op.endpoint[:MAX_ENDPOINT]),
        message=message,
        count=0,
        first_seen=op.timestamp,
        last_seen=op.timestamp,
        error_type=clean_text(op.error_type[:_MAX_TEXT]) if op.error_type else None,
    )


def _count_failure(incident: Incident, op: ObservedOp) -> None:
    incident.count += 1
    _count(incident.by_source, op.source or "mcp")
    _count(incident.by_role, op.role)
    _count(incident.by_city, op.city)
    _count(incident.by_staffer, op.staffer_id)
    _count(incident.by_sig_hash, op.sig_hash)
    line = failure_line(op)
    if line not in incident.samples:
        incident.samples.append(line)
        del incident.samples[:-MAX_SAMPLES]
    _add_evidence(incident, op, span_ref(op))


def _count(counts: dict[str, int], value: str | None) -> None:
    if not value:
        return
    if value in counts:
        counts[value] += 1
        return
    value = clean_text(value[:_MAX_TEXT])
    if value not in counts and len(counts) >= MAX_COUNTED:
        value = OTHER
    counts[value] = counts.get(value, 0) + 1


def _add_evidence(incident: Incident, op: ObservedOp, ref: SpanRef | None) -> None:
    """First and last by event time; between them those that were last at 1, 2, 4, 8 … failures."""
    is_first = _earlier(op.timestamp, incident.first_seen)
    is_last = not _earlier(op.timestamp, incident.last_seen)
    if is_first:
        incident.first_seen = op.timestamp
    if is_last:
        incident.last_seen = op.timestamp
    evidence = incident.evidence
    if ref is None:
        return
    if is_first and len(evidence) > 1:
        evidence[0] = ref
    elif is_first:
        evidence.insert(0, ref)
    elif is_last and len(evidence) > 1 and (incident.count & (incident.count - 1) or len(evidence) == MAX_EVIDENCE):
        evidence[-1] = ref
    elif is_last:
        evidence.append(ref)
    elif len(evidence) < MAX_EVIDENCE:
        evidence.insert(1, ref)


def _earlier(one: str, other: str) -> bool:
    if len(one) == len(other) and one.endswith("Z") and other.endswith("Z"):
        return one < other
    try:
        return _instant(one) < _instant(other)
    except ValueError:
        return one < other


def _instant(timestamp: str) -> datetime:
    stamp = datetime.fromisoformat(timestamp)
    return stamp if stamp.tzinfo is not None else stamp.replace(tzinfo=UTC)
