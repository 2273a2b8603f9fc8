"""What a source hands to its lane: one request's worth of encoded spans, and where in the log they came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

MAX_SPANS: Final = 512
MAX_BYTES: Final = 2 * 2**20  # collectors refuse gRPC messages over 4 MiB: their default bound


@dataclass(frozen=True, slots=True)
class Batch:
    """*items* as bytes; *ends* and *spans* of each: the log's offset behind it, and how many spans it holds.

    The batch begins at offset *start* and covers the log up to *upto*. *full* says that more may wait behind it;
    *mixed* that the items are requests of several senders, of which one may be refused for itself.
    """

    start: int
    upto: int
    items: Sequence[bytes]
    ends: Sequence[int]
    spans: Sequence[int]
    wrap: Callable[[Sequence[bytes]], bytes]
    full: bool
    mixed: bool = False

    def request(self, first: int, behind: int) -> bytes:
        """The `ExportTraceServiceRequest` of the items from *first* up to, not including, *behind*."""
        return self.wrap(self.items[first:behind])

    def count(self, first: int, behind: int) -> int:
        """How many spans these items hold."""
        return sum(self.spans[first:behind])

    def upto_item(self, behind: int) -> int:
        """The offset up to which the log is settled when the items before *behind* are."""
        return self.upto if behind >= len(self.ends) else self.ends[behind - 1]


class Source(Protocol):
    """A log of spans to export, read by one lane's thread. Real ones: `journal_export`, `spool`."""

    evicted: int
    """Spans that went before they could be exported."""

    def take(self) -> Batch | None:
        """What to send next; None when nothing waits. Nothing is settled by it."""
        ...

    def settle(self, batch: Batch, behind: int) -> None:
        """Items of *batch* before *behind* need not be sent again."""
        ...

    def give_back(self, batch: Batch, first: int) -> None:
        """Items of *batch* from *first* on were not taken; they come again if they are still there."""
        ...

    def behind(self) -> bool:
        """Whether there is a backlog beside what is fresh."""
        ...

    def split(self) -> None:
        """The collector is back: what waits is backlog, and fresh spans take turns with it."""
        ...
