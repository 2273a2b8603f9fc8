"""Which time is read next of a list on a Langfuse server, kept over restarts."""

from __future__ import annotations

from typing import Final

import msgspec

CATCH_UP_S: Final = 86_400
"""After a longer outage, older items are not read any more, and counted as a gap."""

_SHORT_S: Final = 120  # how far most reads go back
_NS: Final = 1_000_000_000


class Window(msgspec.Struct, omit_defaults=True):
    """The read state of one list: all before *upto_ns* is read; *since_ns* to *until_ns* is being read.

    *cursor* is the next page of that window; *deep_ns* is the end of the last read that went far back.
    """

    upto_ns: int = 0
    deep_ns: int = 0
    since_ns: int = 0
    until_ns: int = 0
    cursor: str = ""

    def open(self, now_ns: int, overlap_ns: int) -> tuple[int, int] | None:
        """Choose what to read next: what is new, and *overlap_ns* before it, though mostly less.

        Returns from when to when items will not be read, after an outage that was too long; mostly None.
        """
        oldest_ns = now_ns - CATCH_UP_S * _NS
        missed = (self.upto_ns, oldest_ns) if 0 < self.upto_ns < oldest_ns else None
        begin_ns = max(self.upto_ns, oldest_ns) if self.upto_ns else now_ns
        is_deep = now_ns - self.deep_ns >= overlap_ns // 2
        back_ns = overlap_ns if is_deep else min(overlap_ns, _SHORT_S * _NS)
        self.since_ns, self.until_ns = begin_ns - back_ns, now_ns
        if is_deep:
            self.deep_ns = now_ns
        return missed

    def close(self) -> None:
        """All of it is read, or given up."""
        self.upto_ns = self.until_ns
        self.since_ns = self.until_ns = 0
        self.cursor = ""


class PullState(msgspec.Struct):
    """The state kept over restarts."""

    observations: Window
    scores: Window
