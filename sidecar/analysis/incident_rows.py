"""The stored row of one incident: counting failures, absorbing another incident, and deriving the state. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from sidecar.analysis.event_time import happened_at, is_earlier, seconds
from sidecar.analysis.evidence import span_ref
from sidecar.analysis.field_counts import FieldCounts
from sidecar.analysis.fingerprint import MAX_ENDPOINT, one_line
from sidecar.analysis.timeline import Timeline
from sidecar.ids import made_ms
from sidecar.model import Finding, Incident, IncidentChange, IncidentKind, IncidentState, ObservedOp, SpanRef
from sidecar.normalize import clean_text

MAX_EVIDENCE: Final = 10
MAX_SAMPLES: Final = 10
MAX_LINE: Final = 300  # characters of one failure's line
MAX_COUNTED: Final = 32  # values of one `by_…` count
MAX_ALIASES: Final = 128
MAX_HISTORY: Final = 20
OTHER: Final = "_OTHER"
_MAX_TEXT = 100
_COUNTED: Final = (
    ("by_source", "source"),
    ("by_role", "role"),
    ("by_city", "city"),
    ("by_staffer", "staffer_id"),
    ("by_sig_hash", "sig_hash"),
)


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One decision on an incident's state: when, what, by whom, why. *judged_from* as in `IncidentChange`."""

    at: str
    state: IncidentState
    by: str
    note: str | None = None
    judged_from: str | None = None

    def is_overtaken(self, history: Iterable[Step]) -> bool:
        """Whether, in *history*, a person decided after the decision that this was judged from, and no later than this.

        A longer history never makes it valid again, so the order in which decisions arrive does not matter.
        """
        seen = self.judged_from
        return seen is not None and any(each.judged_from is None and seen < each.at <= self.at for each in history)


class Mark(msgspec.Struct, frozen=True):
    """A diagnosis of an incident at *count* failures. Of two marks the one with the higher rank holds."""

    count: int
    version: int
    at: str
    diagnosis_id: str
    by: str
    text: str
    finding: Finding | None = None

    @property
    def rank(self) -> tuple[int, int, str, str]:
        """The order of marks: the result does not depend on the order in which they are applied."""
        return self.count, self.version, self.at, self.diagnosis_id


class IncidentRow(msgspec.Struct, omit_defaults=True):
    """An incident as stored: with its failures' field values, its timeline and its decisions.

    *taken_ms* is when the last failure arrived, ms since the Unix epoch; 0 if no op id contains a time.
    """

    incident: Incident
    counts: FieldCounts
    timeline: Timeline
    history: list[Step] = []
    taken_ms: int = 0


def new_row(op: ObservedOp, fingerprint: str, message: str, kind: IncidentKind) -> IncidentRow:
    """A row for *op*, which is not counted yet."""
    at = happened_at(op)
    incident = Incident(
        fingerprint=fingerprint,
        endpoint=clean_text(op.endpoint[:MAX_ENDPOINT]),
        message=message,
        state="new",
        kind=kind,
        count=0,
        first_seen=at,
        last_seen=at,
        error_type=clean_text(op.error_type[:_MAX_TEXT]) if op.error_type else None,
    )
    return IncidentRow(incident, FieldCounts(), Timeline())


def count_op(row: IncidentRow, op: ObservedOp, line: str) -> None:
    """Count one more *op*; *line* describes it for people. O(its fields)."""
    incident, at = row.incident, happened_at(op)
    incident.count += 1
    for counts, field in _COUNTED:
        _count(getattr(incident, counts), getattr(op, field) or ("mcp" if field == "source" else None))
    if line not in incident.samples:
        incident.samples.append(line)
        del incident.samples[:-MAX_SAMPLES]
    _add_evidence(incident, at, span_ref(op))
    row.counts.add(op)
    if (second := seconds(at)) is not None:
        row.timeline.add(int(second))
    row.taken_ms = max(row.taken_ms, made_ms(op.op_id))
    restate(row)


def uncount_op(row: IncidentRow, op: ObservedOp, line: str) -> None:
    """Subtract *op*, which was counted with *line*. First and last seen stay."""
    incident = row.incident
    incident.count -= 1
    for counts, field in _COUNTED:
        _uncount(getattr(incident, counts), getattr(op, field) or ("mcp" if field == "source" else None))
    if line in incident.samples and (len(incident.samples) > 1 or not incident.count):  # others may share it
        incident.samples.remove(line)
    ref = span_ref(op)
    if ref is not None and ref in incident.evidence:
        incident.evidence.remove(ref)
    row.counts.remove(op)
    if (second := seconds(happened_at(op))) is not None:
        row.timeline.remove(int(second))


def failure_line(op: ObservedOp) -> str:
    """`[endpoint] input_summary: error` on one line of at most `MAX_LINE` characters; each part is bounded."""
    return line_of(op, op.error or op.output_summary)


def line_of(op: ObservedOp, what: str) -> str:
    """The line of `failure_line` with *what* in place of the error."""
    line = f"[{one_line(op.endpoint, 80)}] {one_line(op.input_summary, 100)}: "
    return line + one_line(what, MAX_LINE - len(line))


def decide(row: IncidentRow, step: Step) -> None:
    """Apply a decision: the latest one holds, and of two at the same time the one written last.

    Overtaken decisions have no effect.
    """
    if step not in row.history:
        history = sorted([*row.history, step], key=lambda each: each.at)
        row.history = [each for each in history if not each.is_overtaken(history)][-MAX_HISTORY:]
    restate(row)


def step_of(change: IncidentChange, at: str) -> Step:
    """*change*, decided *at*, as a step of its incident's history."""
    return Step(at, change.state, change.by, change.note, change.judged_from)


def restate(row: IncidentRow) -> None:
    """Derive the state from the last decision and the last failure. Event times are compared, not arrival times."""
    if not row.history:
        return
    last, incident = row.history[-1], row.incident
    incident.decided_at, incident.decided_by, incident.note = last.at, last.by, last.note
    came_back = last.state == "resolved" and is_earlier(last.at, incident.last_seen)
    incident.state = "regressed" if came_back else last.state


def apply_mark(incident: Incident, mark: Mark) -> None:
    """Record a diagnosis, unless a later one is recorded."""
    if mark.rank > mark_of(incident).rank:
        incident.diagnosed_count, incident.diagnosis_version = mark.count, mark.version
        incident.diagnosed_at, incident.diagnosis_id = mark.at, mark.diagnosis_id
        incident.diagnosed_by, incident.diagnosis, incident.finding = mark.by, mark.text, mark.finding


def mark_of(incident: Incident) -> Mark:
    """The last diagnosis as a mark; a mark at 0 failures if there is none."""
    return Mark(
        incident.diagnosed_count,
        incident.diagnosis_version,
        incident.diagnosed_at or "",
        incident.diagnosis_id or "",
        incident.diagnosed_by or "",
        incident.diagnosis or "",
        incident.finding,
    )


def absorb(row: IncidentRow, other: IncidentRow) -> None:
    """Merge *other* into *row*: counts, evidence, history, diagnosis. Its failures now belong to this incident."""
    mine, theirs = row.incident, other.incident
    mine.evidence = _joined_evidence(mine, theirs)
    mine.count += theirs.count
    mine.first_seen = min(mine.first_seen, theirs.first_seen, key=time_order)
    mine.last_seen = max(mine.last_seen, theirs.last_seen, key=time_order)
    for counts, _ in _COUNTED:
        into = getattr(mine, counts)
        for value, count in getattr(theirs, counts).items():
            _count(into, value, count)
    mine.samples = list(dict.fromkeys([*theirs.samples, *mine.samples]))[-MAX_SAMPLES:]
    row.counts.absorb(other.counts)
    row.timeline.absorb(other.timeline)
    row.taken_ms = max(row.taken_ms, other.taken_ms)
    if theirs.diagnosed_count:
        apply_mark(mine, mark_of(theirs))
    for step in other.history:
        decide(row, step)
    restate(row)


def _joined_evidence(mine: Incident, theirs: Incident) -> list[SpanRef]:
    if not mine.evidence or not theirs.evidence:
        return mine.evidence or theirs.evidence
    first, last = mine.evidence[0], mine.evidence[-1]
    if is_earlier(theirs.first_seen, mine.first_seen):
        first = theirs.evidence[0]
    if is_earlier(mine.last_seen, theirs.last_seen):
        last = theirs.evidence[-1]
    pairs = zip(mine.evidence, theirs.evidence, strict=False)
    between = [ref for pair in pairs for ref in pair] + mine.evidence[len(theirs.evidence) :]
    between += theirs.evidence[len(mine.evidence) :]
    some = [ref for ref in dict.fromkeys(between) if ref not in (first, last)]
    return list(dict.fromkeys([first, *some[: MAX_EVIDENCE - 2], last]))


def time_order(timestamp: str) -> tuple[float, str]:
    """The sort key of a time; texts that are not times come first."""
    return seconds(timestamp) or 0.0, timestamp


def _count(counts: dict[str, int], value: str | None, count: int = 1) -> None:
    if not value:
        return
    if value in counts:
        counts[value] += count
        return
    value = clean_text(value[:_MAX_TEXT])
    if value not in counts and len(counts) >= MAX_COUNTED:
        value = OTHER
    counts[value] = counts.get(value, 0) + count


def _uncount(counts: dict[str, int], value: str | None) -> None:
    if not value:
        return
    value = clean_text(value[:_MAX_TEXT])
    value = value if value in counts else OTHER
    if counts.get(value, 0) > 1:
        counts[value] -= 1
    else:
        counts.pop(value, None)


def _add_evidence(incident: Incident, at: str, ref: SpanRef | None) -> None:
    """Add *ref*: keeps the first and last span by event time, and those that were last at 1, 2, 4, 8 … failures."""
    is_first = is_earlier(at, incident.first_seen)
    is_last = not is_earlier(at, incident.last_seen)
    if is_first:
        incident.first_seen = at
    if is_last:
        incident.last_seen = at
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
