"""Tails the overseer's corrections, a JSONL file that the gateway appends to: each row becomes one op, despite crashes.

The journal proves that a row was recorded: its op has an `event_id` derived from file, position and content. The saved
cursor only says where to begin; `restore` is called for rows whose ops the journal holds after it.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from sidecar.errors import InvalidInputError, JournalError, TooLargeError
from sidecar.model import ObservedOp, SpanRef
from sidecar.normalize import Normalizer
from sidecar.protocols import Clock, Receipt, Recorder
from sidecar.receivers.correction_op import SOURCE, CorrectionReader
from sidecar.receivers.corrections_file import HEAD_BYTES, MAX_LINE_BYTES, Line, Position
from sidecar.receivers.corrections_follower import Chunk, CorrectionsFollower
from sidecar.receivers.disk_thread import in_thread

log = structlog.get_logger(__name__)

FindFailures = Callable[[str | None, str | None], list[SpanRef]]
"""(sig_hash, task_class) → the spans of the failures that a correction was meant to repair."""

_REMEMBERED = 10_000
_DIGEST_BYTES = 8
_EVENT_ID = re.compile(r"correction:(?P<head>[0-9a-f]{16}):(?P<end>\d{1,18}):(?P<row>[0-9a-f]{16})", re.ASCII)
_MAX_LINKS = 128  # the span limit
_SLICE = 16  # rows handled before other tasks get a turn
_LOGGED_REJECTS = 10  # per read; the rest is one line with their number


@dataclass(slots=True)
class _Row:
    """A line being recorded: *op* is None if there is nothing to record; *done* once the cursor may pass it."""

    line: Line
    op: ObservedOp | None
    done: bool
    receipt: Receipt | None = None  # None: not recorded yet, or refused


class _Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """The saved cursor: position, digests of seen rows (base64), and event ids recorded ahead of the position."""

    position: Position | None = None
    seen: str = ""
    ahead: list[str] = []


class CorrectionsTailer:
    """Reads new rows of the corrections file once a cycle. Used on the event loop; a thread reads the disk.

    At start: `load` the saved cursor, then `restore` each correction op that the journal holds after it. Save
    `cursor()` together with the journal position up to which ops were consumed, after `tail` has returned.
    """

    def __init__(
        self, path: Path, recorder: Recorder, normalizer: Normalizer, clock: Clock, find_failures: FindFailures
    ) -> None:
        self._path = path
        self._recorder = recorder
        self._reader = CorrectionReader(normalizer, clock)
        self._find_failures = find_failures
        self._follower = CorrectionsFollower(path)
        self._started = False
        self._position: Position | None = None
        self._next: Position | None = None  # where the cursor goes once the window is empty
        self._window: deque[_Row] = deque()
        self._seen: dict[str, None] = {}
        self._ahead: dict[str, None] = {}
        self._reading: asyncio.Future[tuple[Chunk, list[_Row]]] | None = None
        self._last_error = ""
        self.recorded = 0
        self.rejected = 0
        self.repeated = 0  # rows skipped because they were recorded before
        self.read_errors = 0

    def load(self, cursor: dict[str, Any]) -> None:
        """Load a saved cursor; a malformed one is logged, and reading begins at the first byte."""
        try:
            saved = msgspec.convert(cursor, _Cursor)
            seen = base64.b64decode(saved.seen, validate=True)
        except (msgspec.ValidationError, ValueError) as exc:
            log.warning("corrections.cursor_unusable", path=str(self._path), error=str(exc))
            return
        self._position = saved.position
        self._seen = {seen[at : at + _DIGEST_BYTES].hex(): None for at in range(0, len(seen), _DIGEST_BYTES)}
        self._ahead = dict.fromkeys(saved.ahead)

    def cursor(self) -> dict[str, Any]:
        """The cursor for `load`: JSON types only."""
        ahead = [*self._ahead, *(row.line.event_id for row in self._window if row.done)]
        seen = base64.b64encode(bytes.fromhex("".join(self._seen))).decode()
        return dict(msgspec.to_builtins(_Cursor(position=self._position, seen=seen, ahead=ahead)))

    def consume(self, op: ObservedOp) -> None:
        """Note a settled op: a correction that settled after `tail` gave up waiting is not read again."""
        if op.source == SOURCE:
            self.restore(op)

    def restore(self, op: ObservedOp) -> None:
        """Note that *op* is in the journal, at start or when it settles; ops that are no corrections are ignored."""
        event_id = op.event_id or ""
        position = _position_behind(event_id)
        if position is None or op.source != SOURCE:
            return
        self._see(position.row)
        self._ahead[event_id] = None
        if len(self._ahead) > _REMEMBERED:
            oldest = next(iter(self._ahead))
            del self._ahead[oldest]
            if not self._started:
                self._position = _position_behind(oldest)

    async def tail(self) -> int:
        """Record new rows and wait until they are in the journal. Returns the number of rows recorded.

        A row that the journal did not accept is retried at the next call, before later rows are read. Cancellation is
        safe at any point: nothing is lost, and nothing is recorded twice.
        """
        if not self._window:
            await self._read()
        before = self.recorded
        await self._record()
        try:
            await self._settle()
        finally:
            self._pass_done()
        return self.recorded - before

    def close(self) -> None:
        """Close the file. Idempotent; never waits for the disk."""
        self._follower.close()

    async def _read(self) -> None:
        if not self._started:
            self._started = True
            self._follower.start_at(self._position, _position_behind(next(reversed(self._ahead), "")))
        if self._reading is None:
            self._reading = in_thread(self._read_rows, "corrections-reader")
        await asyncio.wait({self._reading})  # if cancelled, the next call takes the result
        reading, self._reading = self._reading, None
        try:
            chunk, rows = reading.result()
        except OSError as exc:
            self._note_read_error(exc)
            return
        self._last_error = ""
        self._next = chunk.position
        self._window.extend(rows)
        self._pass_done()

    def _read_rows(self) -> tuple[Chunk, list[_Row]]:
        """Read in a thread; rows are also converted there, as masking long texts takes time."""
        chunk = self._follower.read()
        before = self.rejected
        rows = [self._row(line, quiet=self.rejected - before >= _LOGGED_REJECTS) for line in chunk.lines]
        if self.rejected - before > _LOGGED_REJECTS:
            log.warning("corrections.rows_rejected", path=str(self._path), rows=self.rejected - before)
        return chunk, rows

    def _row(self, line: Line, *, quiet: bool) -> _Row:
        if line.event_id in self._ahead or (line.reread and line.digest in self._seen):
            self.repeated += 1
            return _Row(line, None, done=True)
        try:
            if line.data is None:
                raise TooLargeError("the row is too long", f"it is over {MAX_LINE_BYTES} bytes", "Write shorter rows")
            return _Row(line, self._reader.op(line.data, line.event_id), done=False)
        except InvalidInputError as exc:
            if not quiet:
                log.warning("corrections.row_rejected", path=str(self._path), ends_at=line.after.offset, why=str(exc))
        except Exception:  # one bad row must not end the tail
            log.exception("corrections.row_rejected", path=str(self._path), ends_at=line.after.offset)
        self.rejected += 1
        return _Row(line, None, done=True)

    async def _record(self) -> None:
        for number, row in enumerate(self._window, 1):
            if row.op is not None and not row.done and row.receipt is None:
                self._hand_over(row, row.op)
                if not row.done and row.receipt is None:
                    return  # no room: later rows wait too, to keep the order
            if number % _SLICE == 0:
                await asyncio.sleep(0)

    def _hand_over(self, row: _Row, op: ObservedOp) -> None:
        try:
            row.receipt = self._recorder.record(op, linked=self._failures(op))
        except Exception:  # a row that cannot become a span must not block the rest
            log.exception("corrections.row_rejected", path=str(self._path), ends_at=row.line.after.offset)
            self.rejected += 1
            row.done = True

    def _failures(self, op: ObservedOp) -> list[SpanRef]:
        try:
            return self._find_failures(op.sig_hash, op.task_class)[:_MAX_LINKS]
        except Exception:  # a correction without links is better than none
            log.exception("corrections.links_failed", event_id=op.event_id)
            return []

    async def _settle(self) -> None:
        for number, row in enumerate(tuple(self._window)):
            if number % _SLICE == 0:
                self._pass_done()
                await asyncio.sleep(0)
            if row.done or row.receipt is None:
                continue
            outcome = await _outcome(row.receipt)
            if outcome is None:
                return  # the disk is stalled: the outcome will be known later
            if outcome:
                row.done = True
                self.recorded += 1
            else:
                row.receipt = None

    def _pass_done(self) -> None:
        while self._window and self._window[0].done:
            line = self._window.popleft().line
            self._see(line.digest)
            self._ahead.pop(line.event_id, None)
            if line.moves:
                self._position = line.after
        if not self._window and self._next is not None:
            self._position = self._next

    def _see(self, digest: str) -> None:
        self._seen.pop(digest, None)
        self._seen[digest] = None
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def _note_read_error(self, exc: OSError) -> None:
        self.read_errors += 1
        error = exc.strerror or str(exc)
        if error != self._last_error:
            log.warning("corrections.read_failed", path=str(self._path), error=error)
        self._last_error = error


def _position_behind(event_id: str) -> Position | None:
    """The position of the row from which the op *event_id* was made; None if the id is not one of ours."""
    ours = _EVENT_ID.fullmatch(event_id)
    if ours is None:
        return None
    end = int(ours["end"])
    return Position(offset=end, head=ours["head"], head_bytes=min(HEAD_BYTES, end), row=ours["row"])


async def _outcome(receipt: Receipt) -> bool | None:
    """Whether the op is in the journal; None while its write is in progress.

    A stalled write fails its waiters, but may still succeed later. So a receipt only counts as failed if waiting a
    second time fails at once.
    """
    try:
        await receipt.wait()
    except JournalError:
        again = asyncio.ensure_future(receipt.wait())
        await asyncio.sleep(0)  # a settled receipt needs only one turn
        if not again.done():
            again.cancel()
            await asyncio.wait({again})
            return None
        return again.exception() is None
    return True
