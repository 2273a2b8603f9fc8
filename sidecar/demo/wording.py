"""Texts shared by the demo's live screen, plain lines and summary. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.demo.lessons import Lesson, Line
from sidecar.demo.observer_doors import Seen
from sidecar.model import Incident, ObservedOp
from sidecar.model_learning import PlaybookView

_RATE_OVER_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The constants of a run; lines have at most *columns*.

    *seconds* is None for one without an end; *is_limit_given*: whether the caller asked for that end.
    """

    address: str
    gateway: str
    proxy: str
    agents: int
    seed: int
    seconds: float | None
    folder: str
    columns: int = 100
    is_limit_given: bool = True


class Rate:
    """Operations per second over the last few seconds."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque([(0.0, 0)])

    def at(self, elapsed_s: float, ops: int) -> float:
        """The rate, given *ops* after *elapsed_s* seconds."""
        self._points.append((elapsed_s, ops))
        while len(self._points) > 2 and self._points[1][0] <= elapsed_s - _RATE_OVER_S:
            self._points.popleft()
        since_s, before = self._points[0]
        return (ops - before) / max(elapsed_s - since_s, 0.1)


def printable(text: str) -> str:
    """*text* on one line without control characters: senders of events must not control our terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def failed_share(seen: Seen) -> str:
    """The share of failures: `23 %`."""
    return f"{100 * seen.failures / seen.ops if seen.ops else 0:.0f} %"


def sources(seen: Seen) -> str:
    """The counts by source, the most frequent first: `mcp 45, scenario 14`."""
    return ", ".join(f"{printable(source)} {count}" for source, count in seen.by_source.most_common(6))


def incident_line(incident: Incident) -> str:
    """The incident as text: `/tools/fill_shift 403: worker <id> holds no …`."""
    code = f" {incident.error_type}" if incident.error_type not in (None, "_OTHER", incident.message) else ""
    return printable(f"{incident.endpoint}{code}: {incident.message}")


def entry_text(entry: PlaybookView) -> str:
    """The entry with its endpoint, since endpoints may have equal ones: `/tools/fill_shift: Avoid channel="sms" …`."""
    return f"{entry.endpoint}: {entry.text}"


def by_count(incidents: Sequence[Incident]) -> list[Incident]:
    """The incidents, the largest first."""
    return sorted(incidents, key=lambda incident: (-incident.count, incident.fingerprint))


def reasons(seen: Seen) -> list[tuple[str, int]]:
    """(message, this run's failures) over all endpoints, the most frequent first."""
    counts: Counter[str] = Counter()
    for incident in seen.incidents:
        if incident.kind != "failure":  # of slow successes and of repeated corrections
            continue
        counts[printable(incident.message)] += incident.count - seen.before.get(incident.fingerprint, 0)
    return [(message, count) for message, count in counts.most_common() if count > 0]


def lesson_lines(lesson: Lesson, columns: int) -> tuple[str, str]:
    """Two lines to compare, `shown     ▅▇▇▇█▇ 94 % of 81`, and the same for the withheld group."""
    return _arm_line("shown", lesson.shown, columns), _arm_line("withheld", lesson.withheld, columns)


def _arm_line(name: str, line: Line, columns: int) -> str:
    rate = "  – " if line.rate is None else f"{100 * line.rate:3.0f} %"
    return f"{name:8}  {line.drawn(columns):{columns}}  {rate} of {line.arm.tasks} tasks succeed"


def op_line(op: ObservedOp) -> str:
    """The op without time and mark: `search_workers picker ×2 in Reno, NV → 4 rows`."""
    said = op.error or op.output_summary
    return printable(f"{op.input_summary} → {said}")
