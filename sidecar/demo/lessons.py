"""The effect of advice by entry: success rates of tasks that were shown it, and of those it was withheld from. Pure.

All data comes from `/playbooks`, polled repeatedly; the points of a line are differences between two polls.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from sidecar.measured_words import effect_words, is_known
from sidecar.model_learning import ArmResult, Measured, PlaybookView

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_STEP_S: Final = 4.0  # seconds between two points of a line
_MOST_POINTS: Final = 40


class Point(NamedTuple):
    """The counts of a group at one time."""

    tasks: int
    successes: int


class Line(NamedTuple):
    """One group: its total counts, and its success rate per interval (None: no task)."""

    arm: ArmResult
    rates: list[float | None]

    @property
    def rate(self) -> float | None:
        """The success rate over all tasks."""
        return self.arm.successes / self.arm.tasks if self.arm.tasks else None

    def drawn(self, columns: int) -> str:
        """The last *columns* intervals as a line of blocks, `▂▁▂▃▂ ▁`, low where tasks fail."""
        blocks = [" " if rate is None else _BLOCKS[round(rate * (len(_BLOCKS) - 1))] for rate in self.rates]
        return "".join(blocks[-columns:])


class Lesson(NamedTuple):
    """An entry that was shown to some tasks and withheld from others.

    *is_past*: the entry sets something else by now, and is measured anew.
    """

    entry: PlaybookView
    shown: Line
    withheld: Line
    is_past: bool = False

    @property
    def state(self) -> str:
        """The state, for people."""
        return f"version {self.entry.version}, measured anew since" if self.is_past else self.entry.state

    @property
    def effect(self) -> str:
        """`+74 points (+51 to +90), 40 shown, 38 withheld`; or a statement that it is not known yet."""
        return effect_words(self.entry.measured)


class Lessons:
    """The history of each entry's groups over the run."""

    def __init__(self) -> None:
        self._points: dict[str, list[tuple[Point, Point]]] = {}
        self._entries: dict[str, PlaybookView] = {}
        self._past: dict[str, Lesson] = {}  # by entry: what was known before it was measured anew
        self._next_s = 0.0

    def take(self, entries: Sequence[PlaybookView], elapsed_s: float) -> None:
        """Store the entries' counts after *elapsed_s* seconds; a point is added every few seconds."""
        now = {entry.playbook_id: entry for entry in entries if entry.author == "rule"}
        for key, entry in self._entries.items():
            if _begins_anew(entry.measured, now[key].measured if key in now else None):
                if entry.set and is_known(entry.measured):
                    self._past[key] = self._lesson(entry)._replace(is_past=True)
                self._points.pop(key, None)
        self._entries = now
        if elapsed_s < self._next_s:
            return
        self._next_s = elapsed_s + _STEP_S
        for key, entry in self._entries.items():
            if entry.measured is not None:
                points = self._points.setdefault(key, [(Point(0, 0), Point(0, 0))])
                points.append((_point(entry.measured.shown), _point(entry.measured.withheld)))
                del points[1:-_MOST_POINTS]

    @property
    def entries(self) -> list[PlaybookView]:
        """The entries made from rules, the most recently changed first."""
        return list(self._entries.values())

    def best(self) -> Lesson | None:
        """The entry that agents can act on with the largest product of tasks and effect; None if there is none yet.

        What is known goes before what is not, also what was known of an entry that is measured anew.
        """
        told = [self._lesson(each) for each in self._entries.values() if each.set and each.measured is not None]
        return max([*told, *self._past.values()], key=_weight, default=None)

    def _lesson(self, entry: PlaybookView) -> Lesson:
        points, measured = self._points.get(entry.playbook_id, []), entry.measured
        shown, withheld = (measured.shown, measured.withheld) if measured is not None else (ArmResult(), ArmResult())
        return Lesson(
            entry,
            Line(shown, _rates([one for one, _ in points])),
            Line(withheld, _rates([other for _, other in points])),
        )


def _weight(lesson: Lesson) -> tuple[bool, float, int]:
    measured = lesson.entry.measured
    if measured is None:
        return False, 0.0, 0
    tasks = min(measured.shown.tasks, measured.withheld.tasks)
    return is_known(measured), tasks * abs(measured.effect or 0.0), measured.shown.tasks


def _begins_anew(before: Measured | None, after: Measured | None) -> bool:
    """Whether the counts of *after* are those of another trial: within one they never shrink."""
    if before is None or after is None:
        return False
    return after.shown.assigned < before.shown.assigned or after.withheld.assigned < before.withheld.assigned


def _point(arm: ArmResult) -> Point:
    return Point(arm.tasks, arm.successes)


def _rates(points: Sequence[Point]) -> list[float | None]:
    rates: list[float | None] = []
    for before, after in pairwise(points):
        tasks = after.tasks - before.tasks
        successes = after.successes - before.successes
        rates.append(min(max(successes / tasks, 0.0), 1.0) if tasks > 0 else None)
    return rates
