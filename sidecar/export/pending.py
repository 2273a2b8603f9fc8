"""Which parts of a log are still to be exported: a few offset ranges, the newest of them open-ended.

Pure bookkeeping over logical offsets; the sources (`journal_export`, `spool`) read the ranges and report outcomes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

Range = tuple[int, int]
"""Log offsets [start, end)."""

MOST_RANGES: Final = 64  # when reached, the live range just grows: nothing is lost, fresh spans only wait longer


class Saved(msgspec.Struct, frozen=True):
    """The state kept over a restart: the start of the live range, and the backlog ranges, oldest first."""

    live: int
    ranges: list[Range] = []


class Pending:
    """The ranges to export and the one batch in flight. Not thread-safe: its source locks.

    New records (the live range) take turns with the oldest backlog range.
    """

    def __init__(self, live: int, ranges: Iterable[Range] = ()) -> None:
        self._live = live
        self._ranges = _joined(ranges)
        self._floor = 0  # everything before this offset is gone
        self._in_flight: Range | None = None
        self._fresh_turn = True

    @classmethod
    def resumed(cls, saved: Saved | None, end: int) -> Pending:
        """The state after a restart: all that *saved* left, up to *end*, is backlog. Without it, only new records."""
        if saved is None:
            return cls(end)
        left = [*saved.ranges, (saved.live, end)]
        return cls(end, [(start, min(until, end)) for start, until in left])

    def saved(self) -> Saved:
        """The state to save for a restart."""
        return Saved(self._live, list(self._ranges))

    def pieces(self, end: int) -> list[Range]:
        """All unexported ranges, oldest first; *end* (the log's current end) closes the live one."""
        return [*self._ranges, *([(self._live, end)] if self._live < end else [])]

    def size(self, end: int) -> int:
        """The length of all unexported ranges, in offset units."""
        return sum(until - start for start, until in self.pieces(end))

    def lag(self, end: int) -> int:
        """The length of the live range."""
        return max(0, end - self._live)

    def next(self, end: int) -> Range | None:
        """The range to read next, live and backlog in turn; None if nothing waits."""
        fresh = (self._live, end) if self._live < end else None
        if fresh is not None and (self._fresh_turn or not self._ranges):
            self._fresh_turn = False
            return fresh
        self._fresh_turn = True
        return self._ranges[0] if self._ranges else None

    def sending(self, start: int, upto: int) -> None:
        """The batch [*start*, *upto*) is now in flight: `settled` or `given_back` reports its outcome."""
        self._in_flight = (start, upto)

    def settled(self, upto: int) -> None:
        """The batch in flight is done up to *upto* and need not be sent again."""
        if self._in_flight is None:
            return
        start, until = self._in_flight
        self._in_flight = (upto, until) if upto < until else None
        if start <= self._live < upto:
            self._live = upto
        moved = [(max(begin, upto) if start <= begin else begin, end) for begin, end in self._ranges]
        self._ranges = [piece for piece in moved if piece[0] < piece[1]]

    def given_back(self, ends: Iterable[int]) -> int:
        """The batch's records ending at *ends* were not accepted. Returns how many of them the log has lost since."""
        self._in_flight = None
        return sum(end <= self._floor for end in ends)

    def split(self, end: int) -> None:
        """Turn the live range up to *end* into backlog; only what comes after *end* is fresh."""
        if self._live < end and len(self._ranges) < MOST_RANGES:
            self._ranges.append((self._live, end))
            self._live = end

    def let_go(self, floor: int, end: int) -> list[Range]:
        """Drop everything before *floor*. Returns the dropped ranges that were neither exported nor in flight."""
        gone = self.waiting(0, floor, end)
        self._ranges = [(max(start, floor), until) for start, until in self._ranges if until > floor]
        self._live = max(self._live, floor)
        self._floor = max(self._floor, floor)
        return gone

    def waiting(self, start: int, until: int, end: int) -> list[Range]:
        """What of [*start*, *until*) is neither exported nor in flight; *end* is the log's current end."""
        inside = [(max(begin, start), min(stop, until)) for begin, stop in self.pieces(end)]
        return [left for piece in inside if piece[0] < piece[1] for left in _without(piece, self._in_flight)]

    @property
    def has_backlog(self) -> bool:
        """Whether there is a backlog."""
        return bool(self._ranges)

    @property
    def first(self) -> int:
        """The lowest offset still needed."""
        first = self._ranges[0][0] if self._ranges else self._live
        return min(first, self._in_flight[0]) if self._in_flight is not None else first


def _joined(ranges: Iterable[Range]) -> list[Range]:
    """*ranges* without empty ones, adjacent or overlapping ones merged."""
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
    before, after = (piece[0], min(piece[1], hole[0])), (max(piece[0], hole[1]), piece[1])
    return [part for part in (before, after) if part[0] < part[1]]
