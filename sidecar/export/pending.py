"""What of a log is still to be exported: a few ranges of offsets, of which the newest has no end yet.

Pure bookkeeping over logical offsets; the sources (`journal_export`, `spool`) read what it names and report back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

Range = tuple[int, int]
"""Offsets: from the first up to, not including, the second."""

MOST_RANGES: Final = 64  # beyond them the newest one only grows: nothing is lost, it is only later


class Saved(msgspec.Struct, frozen=True):
    """What is kept over a restart: where the live range begins, and the ranges before it, oldest first."""

    live: int
    ranges: list[Range] = []


class Pending:
    """The ranges to export, and the one batch that is being sent. Not thread-safe: its source locks.

    Fresh records (the live range) take turns with the oldest backlog.
    """

    def __init__(self, live: int, ranges: Iterable[Range] = ()) -> None:
        self._live = live
        self._ranges = _joined(ranges)
        self._floor = 0  # what lies before it is gone
        self._flying: Range | None = None
        self._fresh_turn = True

    @classmethod
    def resumed(cls, saved: Saved | None, end: int) -> Pending:
        """What *saved* left, as backlog; without it nothing is: the log goes up to *end* now, and may be shorter."""
        if saved is None:
            return cls(end)
        left = [*saved.ranges, (saved.live, end)]
        return cls(end, [(start, min(until, end)) for start, until in left])

    def saved(self) -> Saved:
        """What a restart needs."""
        return Saved(self._live, list(self._ranges))

    def pieces(self, end: int) -> list[Range]:
        """All of them, oldest first, the live one cut at *end*: where the log ends now."""
        return [*self._ranges, *([(self._live, end)] if self._live < end else [])]

    def size(self, end: int) -> int:
        """How much of the log they cover, in its unit of offsets."""
        return sum(until - start for start, until in self.pieces(end))

    def lag(self, end: int) -> int:
        """How much of it is the live range's."""
        return max(0, end - self._live)

    def next(self, end: int) -> Range | None:
        """What to export next; None when nothing waits."""
        fresh = (self._live, end) if self._live < end else None
        if fresh is not None and (self._fresh_turn or not self._ranges):
            self._fresh_turn = False
            return fresh
        self._fresh_turn = True
        return self._ranges[0] if self._ranges else None

    def sending(self, start: int, upto: int) -> None:
        """The batch from *start* to *upto* is on its way: `settled` or `given_back` will say what became of it."""
        self._flying = (start, upto)

    def settled(self, upto: int) -> None:
        """The batch that is on its way need not be sent again up to *upto*."""
        if self._flying is None:
            return
        start, until = self._flying
        self._flying = (upto, until) if upto < until else None
        if start <= self._live < upto:
            self._live = upto
        moved = [(max(begin, upto) if start <= begin else begin, end) for begin, end in self._ranges]
        self._ranges = [piece for piece in moved if piece[0] < piece[1]]

    def given_back(self, ends: Iterable[int]) -> int:
        """The batch's records with these *ends* were not taken: how many of them are gone meanwhile."""
        self._flying = None
        return sum(end <= self._floor for end in ends)

    def split(self, end: int) -> None:
        """What waits up to *end* is backlog from now on, and what comes after is fresh."""
        if self._live < end and len(self._ranges) < MOST_RANGES:
            self._ranges.append((self._live, end))
            self._live = end

    def let_go(self, floor: int, end: int) -> list[Range]:
        """Forget what lies before *floor*; gives the pieces that were not exported and are not on their way."""
        gone = [(start, min(until, floor)) for start, until in self.pieces(end) if start < floor]
        self._ranges = [(max(start, floor), until) for start, until in self._ranges if until > floor]
        self._live = max(self._live, floor)
        self._floor = max(self._floor, floor)
        return [left for piece in gone for left in _without(piece, self._flying)]

    @property
    def behind(self) -> bool:
        """Whether there is a backlog."""
        return bool(self._ranges)

    @property
    def first(self) -> int:
        """The least offset that is still wanted."""
        first = self._ranges[0][0] if self._ranges else self._live
        return min(first, self._flying[0]) if self._flying is not None else first


def _joined(ranges: Iterable[Range]) -> list[Range]:
    """*ranges* that are not empty, those that touch in one."""
    joined: list[Range] = []
    for start, until in ranges:
        if start >= until:
            continue
        if joined and joined[-1][1] >= start:
            joined[-1] = (joined[-1][0], max(until, joined[-1][1]))
        else:
            joined.append((start, until))
    return joined


def _without(piece: Range, hole: Range | None) -> list[Range]:
    if hole is None:
        return [piece]
    before, behind = (piece[0], min(piece[1], hole[0])), (max(piece[0], hole[1]), piece[1])
    return [part for part in (before, behind) if part[0] < part[1]]
