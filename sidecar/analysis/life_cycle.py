"""The life cycle of incidents: changes of state by fixed criteria, and by people.

Each incident is checked once a cycle. A change is written to the decision journal first and takes effect once it is
there (`IncidentBook.decide`), live and in a replay, unless a person has decided since the check: a write can be slow,
and people have priority. The criteria are pure functions:

- `new` until a day old, then `ongoing`; `regressed` likewise, counted from that decision. What a person reopens is
  `ongoing` at once: it is no news.
- `escalating`: the last 5 minutes against the 55 before, or the last hours against the day before, by an exact test of
  two Poisson rates (given their sum the later count is binomial): at least 10 failures, at least twice the rate, p at
  most one in a million. A steady incident checked every 30 s is called escalating once in some 200 days at most. It
  has subsided when neither comparison gives p below 5 %.
- `resolved` when quiet for 20 times its mean gap (an hour at least, a week at most), while its endpoint went on
  succeeding; after two weeks in any case.
- `regressed` when a failure *happened* after the resolution: event times are compared, so late events change nothing.
"""

from __future__ import annotations

import asyncio
import math
from typing import Final

import msgspec
import structlog

from sidecar.analysis.event_time import is_earlier, seconds
from sidecar.analysis.incident_rows import IncidentRow, step_of
from sidecar.analysis.incidents import IncidentBook
from sidecar.analysis.timeline import HOUR, MINUTE, Buckets
from sidecar.clock import rfc3339_ms
from sidecar.errors import ObserverError
from sidecar.model import Incident, IncidentChange, IncidentChanges, IncidentState
from sidecar.protocols import Clock, DecisionLog

log = structlog.get_logger(__name__)

DECISION_KIND: Final = "incidents"
OBSERVER: Final = "observer"
YOUNG_S: Final = 86_400.0
LEAST_QUIET_S, MOST_QUIET_S, ANYWAY_S = 3600.0, 7 * 86_400.0, 14 * 86_400.0
QUIET_GAPS: Final = 20
LEAST_FAILURES, LEAST_RATIO, MOST_P, SUBSIDED_P = 10, 2.0, 1e-6, 0.05
MAX_CHANGES: Final = 100  # per cycle; the rest follow in the next
_WINDOWS: Final = ((MINUTE, 5, 60), (HOUR, 2, 24))  # bucket's width in s, recent buckets, buckets in all
_ROWS_A_TURN = 50
_TRACES = 3


class LifeCycle:
    """Decides on incidents' states: `look` by the criteria, `by_hand` for people."""

    def __init__(self, book: IncidentBook, decisions: DecisionLog, clock: Clock) -> None:
        self._book = book
        self._decisions = decisions
        self._clock = clock
        self._last_ms = 0
        self.changes = 0
        self.overtaken = 0  # changes of ours that a person's decision voided
        self.undecided = 0  # cycles whose changes the decision journal did not accept

    async def look(self) -> None:
        """Check all incidents once. If the journal fails, the next cycle tries again."""
        now_s = self._clock.time_ns() / 1e9
        changes: list[IncidentChange] = []
        for number, row in enumerate(self._book.rows(), 1):
            if len(changes) == MAX_CHANGES:
                break
            state = next_state(row, now_s, self._book.last_success(row.incident.endpoint))
            if state is not None:
                changes.append(_change(row, state))
            if not number % _ROWS_A_TURN:
                await asyncio.sleep(0)
        if not changes:
            return
        try:
            await self._decide(changes)
        except ObserverError as exc:
            self.undecided += 1
            log.warning("incidents.not_decided", error=str(exc), changes=len(changes))

    async def by_hand(self, fingerprint: str, state: IncidentState, by: str, note: str | None) -> Incident | None:
        """Record a person's decision on *state*. Returns the changed incident, None if unknown. Raises JournalError."""
        row = self._book.row(fingerprint)
        if row is None:
            return None
        await self._decide([_change(row, state, by, note, by_hand=True)])
        return self._book.get(fingerprint)

    async def _decide(self, changes: list[IncidentChange]) -> None:
        at = self._decision_time()
        await self._decisions.decide(DECISION_KIND, IncidentChanges(at=at, changes=changes), self._book.last_op_id)
        for change in changes:
            if not self._book.holds(change.fingerprint, step_of(change, at)):
                self.overtaken += 1
                continue
            self.changes += 1
            log.info(
                "incident.changed",
                fingerprint=change.fingerprint,
                state=change.state,
                was=change.was,
                by=change.by,
                failures=change.count,
            )

    def _decision_time(self) -> str:
        """The present time, but later than that of the last decision, so that times give the order of decisions."""
        self._last_ms = max(self._clock.time_ns() // 1_000_000, self._last_ms + 1)
        return rfc3339_ms(self._last_ms * 1_000_000)


def next_state(row: IncidentRow, now_s: float, last_success: str | None) -> IncidentState | None:
    """The state to change to at *now_s* (seconds since the epoch); None if the incident stays as it is."""
    state = row.incident.state
    decided = row.history[-1].state if row.history else None
    if decided is None or decided != state:  # never decided, or regressed since it was resolved
        return state
    if state in ("ignored", "resolved"):
        return None
    if is_quiet(row, now_s, last_success):
        return "resolved"
    if state == "escalating":
        return "ongoing" if rise(row, now_s) > SUBSIDED_P else None
    if rise(row, now_s) <= MOST_P:
        return "escalating"
    since_s = seconds(row.incident.decided_at or "")
    is_old = state != "ongoing" and since_s is not None and now_s - since_s >= YOUNG_S
    return "ongoing" if is_old else None


def is_quiet(row: IncidentRow, now_s: float, last_success: str | None) -> bool:
    """Whether the silence is long for the incident's own rate, while its endpoint succeeded since; or very long."""
    incident = row.incident
    first_s, last_s = seconds(incident.first_seen), seconds(incident.last_seen)
    if first_s is None or last_s is None:
        return False
    silent_s = now_s - max(last_s, row.taken_ms / 1000)
    if silent_s >= ANYWAY_S:
        return True
    gap_s = (last_s - first_s) / (incident.count - 1) if incident.count > 1 else MOST_QUIET_S
    is_called = last_success is not None and is_earlier(incident.last_seen, last_success)
    return is_called and silent_s >= min(max(QUIET_GAPS * gap_s, LEAST_QUIET_S), MOST_QUIET_S)


def rise(row: IncidentRow, now_s: float) -> float:
    """The least p-value of the comparisons; 1 if there is too little to compare."""
    first_s = seconds(row.incident.first_seen)
    if first_s is None:
        return 1.0
    buckets = (row.timeline.minutes, row.timeline.hours)
    return min(_rise(each, window, first_s, now_s) for each, window in zip(buckets, _WINDOWS, strict=True))


def _rise(buckets: Buckets, window: tuple[int, int, int], first_s: float, now_s: float) -> float:
    width, recent, kept = window
    now = int(now_s // width)
    since = max(now - kept + 1, int(first_s // width))  # time before the first failure does not count
    split = now - recent
    late_s = now_s - (split + 1) * width
    early_s = (split + 1 - since) * float(width)
    if early_s < late_s:
        return 1.0
    late, early = buckets.between(split + 1, now), buckets.between(since, split)
    if late < LEAST_FAILURES or late * early_s < LEAST_RATIO * early * late_s:
        return 1.0
    return binomial_tail(late, late + early, late_s / (late_s + early_s))


def binomial_tail(successes: int, trials: int, chance: float) -> float:
    """P(X ≥ *successes*) for X ~ Binomial(*trials*, *chance*), where *successes* is above the mean."""
    term = math.exp(
        math.lgamma(trials + 1)
        - math.lgamma(successes + 1)
        - math.lgamma(trials - successes + 1)
        + successes * math.log(chance)
        + (trials - successes) * math.log1p(-chance)
    )
    total, odds = 0.0, chance / (1 - chance)
    for number in range(successes, trials + 1):
        total += term
        term *= odds * (trials - number) / (number + 1)
        if term < total * 1e-12:
            break
    return min(total, 1.0)


def decided(book: IncidentBook, decision_body: bytes | msgspec.Raw) -> IncidentChanges:
    """The changes in *decision_body* (JSON), after applying them to *book*. Raises msgspec.MsgspecError."""
    decision = msgspec.json.decode(decision_body, type=IncidentChanges)
    for change in decision.changes:
        book.decide(change.fingerprint, step_of(change, decision.at))
    return decision


def _change(
    row: IncidentRow, state: IncidentState, by: str = OBSERVER, note: str | None = None, *, by_hand: bool = False
) -> IncidentChange:
    incident = row.incident
    return IncidentChange(
        fingerprint=incident.fingerprint,
        state=state,
        was=incident.state,
        by=by,
        note=note,
        endpoint=incident.endpoint,
        message=incident.message,
        kind=incident.kind,
        error_type=incident.error_type,
        count=incident.count,
        first_seen=incident.first_seen,
        last_seen=incident.last_seen,
        trace_ids=_trace_ids(incident),
        judged_from=None if by_hand else row.history[-1].at if row.history else "",
    )


def _trace_ids(incident: Incident) -> list[str]:
    traces = list(dict.fromkeys(trace_id for trace_id, _ in incident.evidence))
    return [*traces[: _TRACES - 1], *traces[-1:]] if len(traces) >= _TRACES else traces
