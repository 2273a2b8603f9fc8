"""Exports op spans from the journal: a `Source` that reads one batch at a time behind a saved cursor.

Reads `ops.jsonl` through the store's reader, encodes with `span_encoding`, feeds `export.lane`. While the collector is
away the backlog is the journal itself and takes no memory; what retention drops before export is counted.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol, TypeVar

import msgspec
import structlog

from sidecar.export.batch import MAX_BYTES, MAX_SPANS, Batch
from sidecar.export.cursor_file import CursorFile
from sidecar.export.pending import Pending, Range
from sidecar.spans.span_note import UNSAMPLED_MARK, JournalledOp

log = structlog.get_logger(__name__)

T = TypeVar("T")
LAG_BYTES: Final = 2**20  # bytes of journal, about three batches; a longer lag becomes backlog
_MOST_LINES: Final = 16 * MAX_SPANS  # read at most for one batch, in case many are not exported
_SPAN_WORK: Final = 12  # a decoded and encoded line costs as much as 12 skipped ones
_BREATH_WORK: Final = 96 * _SPAN_WORK  # about 1.3 ms of work; a busy event loop then holds the GIL for 5 ms
_BREATH_S: Final = 0.0001


class JournalLines(Protocol):
    """Reads a journal's records forward; see `store.journal_reader`."""

    def each(self, read: Callable[[bytes], T], offset: int = 0) -> Iterator[tuple[T, int]]:
        """Yield *read* applied to the JSON of each record from *offset* on, with the offset after that record."""
        ...


class JournalSource:
    """A `Source` over a journal, and its `JournalFollower`. Call `begin` once with the journal's end at start.

    *encode* returns a record's span as bytes, or None if it has none; *end* returns the offset up to which the journal
    is settled. `unreadable` counts records that could not be turned into a span.
    """

    def __init__(
        self,
        journal: JournalLines,
        end: Callable[[], int],
        cursor: CursorFile,
        *,
        encode: Callable[[JournalledOp], bytes | None],
        wrap: Callable[[Sequence[bytes]], bytes],
        lag_bytes: int = LAG_BYTES,
    ) -> None:
        self._journal = journal
        self._end = end
        self._cursor = cursor
        self._decode = msgspec.json.Decoder(JournalledOp).decode
        self._encode = encode
        self._wrap = wrap
        self._lag_bytes = lag_bytes
        self._lock = threading.Lock()
        self._pending: Pending | None = None
        self.evicted = 0
        self.unreadable = 0

    def begin(self, end: int) -> None:
        """Resume from the saved cursor; without one, start at the journal's current *end*."""
        pending = Pending.resumed(self._cursor.load(), end)
        with self._lock:
            self._pending = pending
            self._cursor.save(pending.saved())
        if pending.size(end):
            log.info("export.resumed", waiting_bytes=pending.size(end))

    @property
    def waiting_bytes(self) -> int:
        """Bytes of journal not exported yet."""
        pending = self._pending
        return pending.size(self._end()) if pending is not None else 0

    def take(self) -> Batch | None:
        """See `Source`. Takes up to about ten milliseconds, with pauses for the event loop."""
        with self._lock:
            pending, end = self._pending, self._end()
            piece = pending.next(end) if pending is not None else None
            if pending is None or piece is None:
                return None
            if pending.lag(end) > self._lag_bytes:
                pending.split(end)
            batch = self._read(piece)
            pending.sending(batch.start, batch.upto)
            return batch

    def settle(self, batch: Batch, stop: int) -> None:
        """See `Source`. Saves the cursor, so that these items are not sent again even after a kill."""
        with self._lock:
            if self._pending is not None:
                self._pending.settled(batch.upto_item(stop))
                self._cursor.save(self._pending.saved())

    def give_back(self, batch: Batch, first: int) -> None:
        """See `Source`. Items whose journal lines were dropped meanwhile count as evicted."""
        with self._lock:
            if self._pending is not None:
                self.evicted += self._pending.given_back(batch.ends[first:])

    def has_backlog(self) -> bool:
        """See `Source`."""
        pending = self._pending
        return pending is not None and pending.has_backlog

    def split(self) -> None:
        """See `Source`."""
        with self._lock:
            if self._pending is not None:
                self._pending.split(self._end())

    async def let_go(self, offset: int) -> None:
        """Segments before *offset* will be dropped: count their unexported spans as evicted, and go on from *offset*.

        A batch in flight is not counted here; its outcome decides (see `give_back`).
        """
        await asyncio.to_thread(self._let_go, offset)

    def _let_go(self, offset: int) -> None:
        with self._lock:
            if self._pending is None:
                return
            evicted = sum(self._count(piece) for piece in self._pending.let_go(offset, self._end()))
            self.evicted += evicted
            self._cursor.save(self._pending.saved())
        if evicted:
            log.error("export.evicted", spans=evicted)

    def _read(self, piece: Range) -> Batch:
        start, until = piece
        items: list[bytes] = []
        ends: list[int] = []
        upto, size, full, worked = start, 0, False, 0
        for lines, (item, end) in enumerate(self._journal.each(self._span, start), 1):
            if end > until:
                break
            if item:
                if items and size + len(item) > MAX_BYTES:
                    full = True
                    break
                items.append(item)
                ends.append(end)
                size += len(item)
            upto = end
            if len(items) == MAX_SPANS or lines == _MOST_LINES:
                full = upto < until
                break
            worked += _SPAN_WORK if item else 1
            if worked >= _BREATH_WORK:
                worked = 0
                time.sleep(_BREATH_S)  # yields the GIL to the event loop
        return Batch(start, upto if full else until, items, ends, [1] * len(items), self._wrap, full)

    def _span(self, line: bytes) -> bytes:
        """The encoded span of a journal *line*; b"" if there is none to send. Unsampled lines are not even decoded."""
        if UNSAMPLED_MARK in line:
            return b""
        record = self._decode(line)
        try:
            item = self._encode(record)
        except Exception:  # a record that cannot be encoded costs only its own span
            log.exception("export.span_unreadable", op_id=record.op_id)
            item = None
        self.unreadable += item is None
        return item or b""

    def _count(self, piece: Range) -> int:
        """The number of spans in *piece* that would have been exported."""
        count = 0
        for number, (is_sent, end) in enumerate(self._journal.each(_is_sampled, piece[0]), 1):
            if end > piece[1]:
                break
            count += is_sent
            if not number % _BREATH_WORK:
                time.sleep(_BREATH_S)
        return count


def _is_sampled(line: bytes) -> bool:
    return UNSAMPLED_MARK not in line
