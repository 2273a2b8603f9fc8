"""The spool: OTLP requests on disk that wait for the collector, bounded in bytes and age; the oldest are evicted first.

A commit log of the store (`pipeline.export` joins them) writes requests in groups and gives receipts; to it the spool
is the file it appends to. To the export lane the spool is a `Source` of batches.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import structlog

from sidecar.errors import StartError
from sidecar.export.batch import MAX_BYTES, MAX_SPANS, Batch
from sidecar.export.cursor_file import CursorFile
from sidecar.export.frames import Frame
from sidecar.export.pending import Pending, Range
from sidecar.export.spool_segments import Segment, SegmentWriter, frames_of, segments_in
from sidecar.open_place import FileGoneError, OpenFolder
from sidecar.protocols import Clock

log = structlog.get_logger(__name__)

_PARTS: Final = 16  # segments in a full spool, and per maximum age
_MOST_SEGMENT: Final = 16 * 2**20
_MOST_RECORDS: Final = 512


class Spool:
    """A `JournalFile` for the commit log's thread and a `Source` for the lane's thread.

    *size* is the logical end offset. Counters since start: `evicted` spans and `evicted_bytes` (removed before export
    by a bound, or by somebody who removed the file), `damaged` records that could not be read back.
    """

    def __init__(
        self, folder: Path, clock: Clock, *, max_bytes: int, max_age_s: float, most_records: int = _MOST_RECORDS
    ) -> None:
        self._folder = folder
        self._open_folder: OpenFolder | None = None
        self._clock = clock
        self._max_bytes = max_bytes
        self._max_age_ns = round(max_age_s * 1e9)
        self._most_records = most_records  # per batch
        self._segment_bytes = min(_MOST_SEGMENT, max_bytes // _PARTS)
        self._cursor = CursorFile(folder / "cursor.json")
        self._lock = threading.Lock()
        self._pending: Pending | None = None
        self._segments: list[Segment] = []  # the writer's segment is the last
        self._writer: SegmentWriter | None = None
        self._writing = False
        self.size = 0
        self.evicted = 0
        self.evicted_bytes = 0
        self.damaged = 0

    def open(self) -> Self:
        """Load what the previous run left, and continue after it. Raises StartError."""
        try:
            segments = segments_in(self._folder)
            self._open_folder = OpenFolder(self._folder)
        except OSError as exc:
            raise StartError(
                f"{self._folder} cannot be opened",
                exc.strerror or str(exc),
                "Make the folder writable, or choose another with OBSERVER_DATA_DIR",
            ) from exc
        saved = self._cursor.load()
        end = max([0, *(segment.end for segment in segments), *([saved.live] if saved is not None else [])])
        begin = segments[0].start if segments else end
        with self._lock:
            self._segments, self.size = segments, end
            self._pending = Pending.resumed(saved, end) if saved is not None else Pending(end, [(begin, end)])
            self._pending.let_go(begin, end)
            self._drop_exported()
            self._cursor.save(self._pending.saved())
        return self

    @property
    def held_bytes(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for segment in list(self._segments) if not segment.lost)

    @property
    def waiting_bytes(self) -> int:
        """Bytes not exported yet."""
        pending = self._pending
        return pending.size(self.size) if pending is not None else 0

    # --- the commit log's side -----------------------------------------------------------------------------------

    def append(self, data: bytes) -> None:
        """Write *data* (whole frames) all or nothing; evict the oldest segments to make room. Raises OSError."""
        if len(data) > self._max_bytes:
            raise OSError(errno.EFBIG, "more at once than the whole spool may hold")
        while not self._wrote(data):
            pass  # somebody removed the segment: a new one takes it

    def _wrote(self, data: bytes) -> bool:
        now_ns = self._clock.time_ns()
        with self._lock:
            self._make_room(len(data), now_ns)
            writer = self._writer_for(len(data), now_ns)
            self._writing = True
        try:
            writer.write(data)  # outside the lock: a slow disk must not delay readers
        except FileGoneError:
            with self._lock:
                if self._is_lost(writer.segment):
                    return False
            raise
        finally:
            self._writing = False
        with self._lock:
            if writer.segment.lost:  # the lane noticed it meanwhile
                return False
            writer.segment.size += len(data)
            writer.segment.newest_ns = now_ns
            self.size += len(data)
        return True

    def sync(self) -> None:
        """Force what was appended to the device. Raises OSError."""
        if self._writer is not None:
            self._writer.sync()

    def close(self) -> None:
        """Stop appending; waiting requests can still be taken."""
        with self._lock:
            self._seal()
            if self._open_folder is not None:
                self._open_folder.close()
                self._open_folder = None

    # --- the lane's side -----------------------------------------------------------------------------------------

    def take(self) -> Batch | None:
        """See `Source`."""
        with self._lock:
            pending = self._pending
            if pending is None:
                return None
            self._expire(self._clock.time_ns())
            piece = pending.next(self.size)
            if piece is None:
                return None
            batch = self._read(piece)
            pending.sending(batch.start, batch.upto)
            return batch

    def settle(self, batch: Batch, stop: int) -> None:
        """See `Source`. Removes segments that are settled entirely."""
        with self._lock:
            if self._pending is not None:
                self._pending.settled(batch.upto_item(stop))
                self._drop_exported()
                self._cursor.save(self._pending.saved())

    def give_back(self, batch: Batch, first: int) -> None:
        """See `Source`. Items whose segment was evicted or lost meanwhile count as evicted now."""
        with self._lock:
            if self._pending is not None:
                gone = self._pending.given_back(batch.ends[first:])
                if any(each.lost and each.start < batch.ends[-1] <= each.end for each in self._segments):
                    gone = len(batch.ends) - first  # a batch is from one segment
                self.evicted += batch.count(first, first + gone)
                self.evicted_bytes += sum(map(len, batch.items[first : first + gone]))

    def has_backlog(self) -> bool:
        """See `Source`."""
        return self._pending is not None and self._pending.has_backlog

    def split(self) -> None:
        """See `Source`."""
        with self._lock:
            if self._pending is not None:
                self._pending.split(self.size)

    # --- under the lock ------------------------------------------------------------------------------------------

    def _writer_for(self, more: int, now_ns: int) -> SegmentWriter:
        writer = self._writer
        if writer is not None and (
            writer.segment.lost
            or (writer.segment.size and writer.segment.size + more > self._segment_bytes)
            or now_ns - writer.opened_ns > self._max_age_ns // _PARTS
        ):
            self._seal()
        if self._writer is None:
            self._writer = SegmentWriter(self._folder, self.size, now_ns)
            self._segments.append(self._writer.segment)
        return self._writer

    def _seal(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _make_room(self, more: int, now_ns: int) -> None:
        self._expire(now_ns)
        while self._segments and self.held_bytes + more > self._max_bytes:
            self._evict()

    def _expire(self, now_ns: int) -> None:
        while self._segments and now_ns - self._segments[0].newest_ns > self._max_age_ns:
            if self._writing and len(self._segments) == 1:
                return  # a write is in progress: it will make the segment newer
            self._evict()

    def _evict(self) -> None:
        """Remove the oldest segment; count what was not exported of it."""
        oldest = self._segments[0]
        if not self._is_lost(oldest):
            self._count_waiting(oldest)
        if len(self._segments) == 1:
            self._seal()
        if self._pending is not None:
            self._pending.let_go(oldest.end, self.size)
        self._remove_oldest()

    def _is_lost(self, segment: Segment) -> bool:
        """Whether somebody removed the file of *segment* from the folder; the first time, count what waited in it."""
        if not segment.lost and self._open_folder is not None and self._open_folder.lacks(segment.path.name):
            segment.lost = True
            self._count_waiting(segment)
        return segment.lost

    def _count_waiting(self, segment: Segment) -> None:
        """Count what waits in *segment* as evicted. Raises OSError."""
        waiting = self._pending.waiting(segment.start, segment.end, self.size) if self._pending is not None else []
        size = sum(until - start for start, until in waiting)
        if size:
            spans = sum(self._spans(segment, start, until) for start, until in waiting)
            self.evicted += spans
            self.evicted_bytes += size
            cause = "file_removed" if segment.lost else "bound"
            log.error("spool.evicted", cause=cause, spans=spans, evicted_bytes=size, bound_bytes=self._max_bytes)

    def _spans(self, segment: Segment, start: int, until: int) -> int:
        if not segment.lost:
            return sum(frame.spans for frame in frames_of(segment, start, until))
        writer = self._writer  # of removed files only the open one can still be read
        return writer.spans(start, until) if writer is not None and writer.segment is segment else 0

    def _drop_exported(self) -> None:
        """Remove segments that are fully exported, except the one being written."""
        first = self._pending.first if self._pending is not None else 0
        while len(self._segments) > (self._writer is not None) and self._segments[0].end <= first:
            self._remove_oldest()

    def _remove_oldest(self) -> None:
        oldest = self._segments.pop(0)
        if oldest.lost:
            return  # another file may have its name now
        try:
            oldest.path.unlink(missing_ok=True)
        except OSError as exc:
            log.warning("spool.segment_left", path=str(oldest.path), error=str(exc))

    def _read(self, piece: Range) -> Batch:
        """Read the first records of *piece*, all from one segment."""
        start, until = piece
        segment = next((one for one in self._segments if one.end > start), None)
        if segment is None or segment.start >= until:
            return _batch(start, until, [], full=True)
        until_here = min(until, segment.end)
        if self._is_lost(segment):
            return _batch(start, until_here, [], full=True)
        taken: list[Frame] = []
        upto, size, spans = max(start, segment.start), 0, 0
        for frame in frames_of(segment, upto, until_here):
            if taken and (size + (frame.end - frame.start) > MAX_BYTES or spans + frame.spans > MAX_SPANS):
                return _batch(start, upto, taken, full=True)
            upto = segment.start + frame.end
            if frame.request is None:
                self._damaged(segment, frame)
                continue
            taken.append(frame._replace(end=upto))
            size += frame.end - frame.start
            spans += frame.spans
            if len(taken) == self._most_records:
                return _batch(start, upto, taken, full=upto < until)
        return _batch(start, until_here, taken, full=until_here < until)

    def _damaged(self, segment: Segment, frame: Frame) -> None:
        self.damaged += 1
        log.error("spool.record_damaged", path=str(segment.path), at=frame.start, spans=frame.spans)


def _batch(start: int, upto: int, taken: Sequence[Frame], *, full: bool) -> Batch:
    return Batch(
        start,
        upto,
        [frame.request or b"" for frame in taken],
        [frame.end for frame in taken],
        [frame.spans for frame in taken],
        b"".join,  # concatenated requests are one request: the only field is repeated
        full,
        mixed=True,
    )
