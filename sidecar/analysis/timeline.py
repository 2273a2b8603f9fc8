"""Counts of an incident's failures in the last minutes, hours and days, by event time.

The counts do not depend on the order in which failures arrive: a bucket that is kept has all of its failures.
"""

from __future__ import annotations

from typing import Final

import msgspec

MINUTE, HOUR, DAY = 60, 3600, 86_400
KEPT: Final = {MINUTE: 60, HOUR: 24, DAY: 30}  # number of buckets per width


class Buckets(msgspec.Struct, omit_defaults=True):
    """Counts of consecutive periods, the latest last; *last* is the index of the latest one since the epoch."""

    last: int = 0
    counts: list[int] = []

    def add(self, number: int, most: int, count: int = 1) -> None:
        """Add *count* to bucket *number*; buckets *most* or more behind the latest are not kept."""
        counts = self.counts
        if not counts:
            self.last, self.counts = number, [count]
            return
        ahead = number - self.last
        if ahead > 0:
            counts += [0] * min(ahead, most)
            counts[-1] = count
            self.last = number
            del counts[:-most]
        elif -ahead < len(counts):
            counts[ahead - 1] += count
        elif -ahead < most:
            counts[:0] = [count] + [0] * (-ahead - len(counts))

    def remove(self, number: int) -> None:
        """Subtract one from bucket *number*, if it is kept."""
        behind = self.last - number
        if 0 <= behind < len(self.counts) and self.counts[-behind - 1] > 0:
            self.counts[-behind - 1] -= 1

    def between(self, first: int, last: int) -> int:
        """The sum of the buckets *first* to *last*."""
        start = self.last - len(self.counts) + 1
        return sum(self.counts[max(0, first - start) : max(0, last - start + 1)])


class Timeline(msgspec.Struct):
    """The buckets of each width: 60 minutes, 24 hours, 30 days, counted back from the latest failure."""

    minutes: Buckets = msgspec.field(default_factory=Buckets)
    hours: Buckets = msgspec.field(default_factory=Buckets)
    days: Buckets = msgspec.field(default_factory=Buckets)

    def levels(self) -> list[tuple[int, Buckets]]:
        """(width in seconds, its buckets), finest first."""
        return [(MINUTE, self.minutes), (HOUR, self.hours), (DAY, self.days)]

    def add(self, second: int) -> None:
        """Count one failure at *second* since the Unix epoch. O(1)."""
        self.minutes.add(second // MINUTE, KEPT[MINUTE])
        self.hours.add(second // HOUR, KEPT[HOUR])
        self.days.add(second // DAY, KEPT[DAY])

    def remove(self, second: int) -> None:
        """Subtract the failure at *second*."""
        for width, buckets in self.levels():
            buckets.remove(second // width)

    def absorb(self, other: Timeline) -> None:
        """Add all counts of *other*."""
        for (width, mine), (_, theirs) in zip(self.levels(), other.levels(), strict=True):
            start = theirs.last - len(theirs.counts) + 1
            for number, count in reversed(list(enumerate(theirs.counts, start))):
                if count:
                    mine.add(number, KEPT[width], count)
