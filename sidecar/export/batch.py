"""A batch of encoded spans for one export request, with the log offsets it came from, and the `Source` of batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

MAX_SPANS: Final = 512
MAX_BYTES: Final = 2 * 2**20  # half the 4 MiB at which collectors refuse gRPC messages by default


@dataclass(frozen=True, slots=True)
class Batch:
    """Encoded *items*; *ends* and *spans* hold, per item, the log offset just after it and its number of spans.

    The batch begins at offset *start* and covers the log up to *upto*. *full*: more may wait after it in the log.
    *mixed*: the items are requests of several senders, so the collector may refuse one and accept the others.
    """

    start: int
    upto: int
    items: Sequence[bytes]
    ends: Sequence[int]
    spans: Sequence[int]
    wrap: Callable[[Sequence[bytes]], bytes]
    full: bool
    mixed: bool = False

    def request(self, first: int, stop: int) -> bytes:
        """One `ExportTraceServiceRequest` of the items *first* to *stop*, exclusive."""
        return self.wrap(self.items[first:stop])

    def count(self, first: int, stop: int) -> int:
        """The number of spans in the items *first* to *stop*, exclusive."""
        return sum(self.spans[first:stop])

    def upto_item(self, stop: int) -> int:
        """The log offset that is settled once all items before *stop* are."""
        return self.upto if stop >= len(self.ends) else self.ends[stop - 1]


class Source(Protocol):
    """A log of spans to export, read by one lane's thread. Implementations: `journal_export`, `spool`."""

    evicted: int
    """Spans removed from the log before they could be exported."""

    def take(self) -> Batch | None:
        """The next batch to send; None if nothing waits. Taking does not settle it."""
        ...

    def settle(self, batch: Batch, stop: int) -> None:
        """Mark the items of *batch* before *stop* as done: they are not sent again."""
        ...

    def give_back(self, batch: Batch, first: int) -> None:
        """Return the items of *batch* from *first* on, not sent; they are taken again if the log still has them."""
        ...

    def has_backlog(self) -> bool:
        """Whether there is a backlog besides the live (newest) range."""
        ...

    def split(self) -> None:
        """The collector is back: turn everything that waits into backlog, so that new spans alternate with it."""
        ...
