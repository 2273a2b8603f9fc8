"""Op spans out of the journal: read behind a saved cursor, a batch at a time, as the lane asks for them.

From `ops.jsonl` (over the store's reader), encoded by `span_encoding`, to `export.lane`. However long the collector is
away, what waits is in the journal and takes no memory; what retention drops before it was exported is counted.
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
from sidecar.spans.op_span import UNSAMPLED_MARK, JournalledOp

log = structlog.get_logger(__name__)

T = TypeVar("T")
LAG_BYTES: Final = 2**20  # of journal: some three batches; what lags further is backlog, and fresh spans pass it
_MOST_LINES: Final = 16 * MAX_SPANS  # read for one batch, where many are not to be exported
_SPAN_WORK: Final = 12  # lines passed over take as long as one that is decoded and encoded
_BREATH_WORK: Final = 96 * _SPAN_WORK  # some 1.3 ms of either; a busy event loop takes 5 ms for each breath
_BREATH_S: Final = 0.0001


class JournalLines(Protocol):
    """Reads a journal's records forward; see `store.journal_reader`."""

    def each(self, read: Callable[[bytes], T], offset: int = 0) -> Iterator[tuple[T, int]]:
        """What *read* makes of the JSON of each record from *offset* on, with the offset behind it."""
        ...


class JournalSource:
    """A `Source` over a journal, and a `JournalFollower` of it. `begin` says where the journal ends at the start.

    *encode* gives a record's span, None if there is nothing to send; *end* the offset up to which the journal is
    settled. `unreadable` counts records that no span could be made of.
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
        """Go on from the saved cursor, or, the first time, from where the journal ends now: at *end*."""
        pending = Pending.resumed(self._cursor.load(), end)
        with self._lock:
            self._pending = pending
            self._cursor.save(pending.saved())
        if pending.size(end):
            log.info("export.resumed", waiting_bytes=pending.size(end))

    @property
    def waiting_bytes(self) -> int:
        """Bytes of journal that have not been exported."""
        pending = self._pending
        return pending.size(self._end()) if pending is not None else 0

    def take(self) -> Batch | None:
        """See `Source`. Takes up to some ten milliseconds, in small steps."""
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

    def settle(self, batch: Batch, behind: int) -> None:
        """See `Source`: the cursor is saved, so that not even a kill brings these again."""
        with self._lock:
            if self._pending is not None:
                self._pending.settled(batch.upto_item(behind))
                self._cursor.save(self._pending.saved())

    def give_back(self, batch: Batch, first: int) -> None:
        """See `Source`. Those whose lines went meanwhile are evicted now."""
        with self._lock:
            if self._pending is not None:
                self.evicted += self._pending.given_back(batch.ends[first:])

    def behind(self) -> bool:
        """See `Source`."""
        pending = self._pending
        return pending is not None and pending.behind

    def split(self) -> None:
        """See `Source`."""
        with self._lock:
            if self._pending is not None:
                self._pending.split(self._end())

    async def let_go(self, offset: int) -> None:
        """Segments before *offset* are about to go: count what was not exported of them as evicted, go on from there.

        What is being sent at this moment is counted by its outcome.
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
        for lines, (item, behind) in enumerate(self._journal.each(self._span, start), 1):
            if behind > until:
                break
            if item:
                if items and size + len(item) > MAX_BYTES:
                    full = True
                    break
                items.append(item)
                ends.append(behind)
                size += len(item)
            upto = behind
            if len(items) == MAX_SPANS or lines == _MOST_LINES:
                full = upto < until
                break
            worked += _SPAN_WORK if item else 1
            if worked >= _BREATH_WORK:
                worked = 0
                time.sleep(_BREATH_S)  # the event loop gets the interpreter
        return Batch(start, upto if full else until, items, ends, [1] * len(items), self._wrap, full)

    def _span(self, line: bytes) -> bytes:
        """The span of a journal *line*, b"" if there is none to send: lines of others are not even decoded."""
        if UNSAMPLED_MARK in line:
            return b""
        record = self._decode(line)
        try:
            item = self._encode(record)
        except Exception:  # a record that cannot be a span costs that span
            log.exception("export.span_unreadable", op_id=record.op_id)
            item = None
        self.unreadable += item is None
        return item or b""

    def _count(self, piece: Range) -> int:
        """How many spans of *piece* would have been exported."""
        count = 0
        for number, (is_sent, behind) in enumerate(self._journal.each(_is_sampled, piece[0]), 1):
            if behind > piece[1]:
                break
            count += is_sent
            if not number % _BREATH_WORK:
                time.sleep(_BREATH_S)
        return count


def _is_sampled(line: bytes) -> bool:
    return UNSAMPLED_MARK not in line
