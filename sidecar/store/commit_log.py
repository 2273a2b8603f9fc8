"""Group commit: appended records gather in one batch while a writer thread writes the previous one.

Doors await the receipt of their record; callers that do not await (gateway calls) are never delayed. Settled records
go downstream in file order: those in the file, and those that could not be written and that nobody awaited.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Generic, Protocol, TypeVar

import structlog

from sidecar.open_place import WAY_BACK, FileGoneError
from sidecar.protocols import Clock, JournalFile
from sidecar.rare_lines import gets_a_line
from sidecar.store.commit_batch import Batch, CommitReceipt, release
from sidecar.store.journal_file import enveloped, sealed

log = structlog.get_logger(__name__)

R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)
_STALL_CHECK_S = 0.5
_SLICE = 50  # records handed downstream before other tasks get a turn: about two milliseconds


class Downstream(Protocol[R_contra]):
    """The consumer of settled records, on the event loop's thread."""

    def consume_all(self, ops: Sequence[R_contra], lines: Sequence[bytes]) -> None:
        """Take settled records and their lines, in file order. Exceptions are logged and counted."""
        ...


class CommitLog(Generic[R]):
    """One journal's batches, writer thread and receipts.

    *encode* turns a record into a JSON object, *seal* that object into the bytes written. *max_bytes* bounds what
    waits to be written. *sync_every_s*: 0 = at each commit, None = never. Each counter is written by one thread and
    may be read by any.
    """

    def __init__(
        self,
        name: str,
        open_file: Callable[[], JournalFile],
        encode: Callable[[R], bytes],
        downstream: Downstream[R],
        clock: Clock,
        *,
        max_bytes: int,
        sync_every_s: float | None,
        commit_timeout_s: float,
        seal: Callable[[bytes], bytes] = sealed,
    ) -> None:
        self.name = name
        self._open_file = open_file
        self._encode = encode
        self._seal = seal
        self._downstream = downstream
        self._clock = clock
        self._max_bytes = max_bytes
        self._sync_every_s = sync_every_s
        self._commit_timeout_s = commit_timeout_s
        self._lock = threading.Lock()  # the hot path takes it directly: a Condition's methods are Python
        self._wake = threading.Condition(self._lock)
        self._batch: Batch[R] = Batch(None)
        self._writing: Batch[R] | None = None
        self._stopping = False
        self._gone_times = 0
        self._look_asked = False  # the writer shall call its file even with nothing to write; see `look`
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._thread: threading.Thread | None = None
        self._watch: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._settling: deque[Batch[R]] = deque()
        self._writer_gone = False
        self.settled_offset = 0  # bytes of the file whose records have gone downstream
        self.committed = 0
        self.committed_bytes = 0
        self.commits = 0
        self.commit_seconds = 0.0
        self.write_errors = 0
        self.sync_errors = 0
        self.refused = 0  # no room, or not running
        self.unwritten = 0  # settled without being in the file; nobody awaited them
        self.gone = ""  # why nothing can be written, while the file is not at its path
        self.removed = 0  # acknowledged just before it was noticed that the file had been removed
        self.downstream_errors = 0  # slices of settled records on which the downstream failed

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Open the file (may raise StartError) and start the writer."""
        file = self._open_file()
        self.settled_offset = file.size
        self._loop = asyncio.get_running_loop()
        self._batch = Batch(self._loop)
        self._loop_thread = threading.get_ident()
        self._stopping, self._writer_gone = False, False
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._write_loop, args=(file,), name=f"{self.name}-writer", daemon=True)
        self._thread.start()
        self._watch = tasks.create_task(self._fail_stalled(), name=f"{self.name}-watch")

    async def stop(self) -> None:
        """Write, sync and settle what has gathered, then close."""
        if self._thread is None:
            return
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread = None
        try:
            await self._ended.wait()  # a stalled disk blocks the thread, not the loop; the caller has a deadline
        finally:
            if self._watch is not None:
                self._watch.cancel()
            for batch in (self._writing, self._batch):  # both empty, unless the deadline came first
                if batch is not None:
                    release(batch, TimeoutError("the observer stopped before the disk answered"))

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait to be written or are being written."""
        writing = self._writing
        return self._batch.size + (writing.size if writing is not None else 0)

    def append(self, op: R, *, awaited: bool, envelope: bytes = b"") -> CommitReceipt[R] | None:
        """Add *op* to the batch. Returns None if there is no room. Thread-safe; no I/O.

        *envelope* is a JSON object stored beside the record (`enveloped`).
        """
        record = self._encode(op)
        line = self._seal(enveloped(record, envelope) if envelope else record)
        with self._lock:
            batch, writing = self._batch, self._writing
            pending = batch.size + (writing.size if writing is not None else 0)
            if self._stopping or self._loop is None or pending + len(line) > self._max_bytes:
                self.refused += 1
                if gets_a_line(self.refused):
                    log.error("journal.record_refused", journal=self.name, waiting_bytes=self.pending_bytes)
                return None
            if not batch.lines:
                batch.opened_at = self._clock.monotonic()
                self._wake_writer()
            receipt = CommitReceipt(op, batch, awaited)
            batch.lines.append(line)
            batch.receipts.append(receipt)
            batch.size += len(line)
            return receipt

    def look(self) -> None:
        """Have the writer call its file: to close a segment that is old enough, and to see whether it is still there.

        Thread-safe.
        """
        with self._wake:
            self._look_asked = True
            self._wake.notify()

    def _wake_writer(self) -> None:
        # On the loop's thread, wake the writer only after the tasks that are ready now: what they append shares the
        # commit, and the interpreter switches threads once instead of per record.
        if self._loop is not None and threading.get_ident() == self._loop_thread:
            self._loop.call_soon(self._notify)
        else:
            self._wake.notify()

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify()

    def _write_loop(self, file: JournalFile) -> None:
        synced_at, dirty = self._clock.monotonic(), False
        while True:
            batch, looking = self._next_batch(synced_at, dirty)
            if batch.lines:
                dirty = self._write(file, batch) or dirty
            elif looking:
                self._appended(file, b"")
            elif self._stopping:
                break
            due = self._sync_due(synced_at, dirty)
            if due is not None and due <= 0:
                failure = self._sync(file)
                synced_at, dirty = self._clock.monotonic(), False
                if self._sync_every_s == 0 and batch.written:
                    batch.error = failure  # with `always`, senders must learn that the sync failed
            self._settle_soon(batch)
        if dirty:
            self._sync(file)
        try:
            file.close()
        except OSError:
            log.exception("journal.close_failed", journal=self.name)
        self._on_loop(self._end)

    def _next_batch(self, synced_at: float, dirty: bool) -> tuple[Batch[R], bool]:
        """Wait for records, a due sync, a look or the end. Returns the batch and whether a look was asked for."""
        with self._wake:
            while not self._batch.lines and not self._stopping and not self._look_asked:
                due = self._sync_due(synced_at, dirty)
                if not self._wake.wait(due) and due is not None:
                    break
            batch, self._batch = self._batch, Batch[R](self._loop)
            self._writing = batch
            looking, self._look_asked = self._look_asked, False
            return batch, looking

    def _sync_due(self, synced_at: float, dirty: bool) -> float | None:
        if not dirty or self._sync_every_s is None:
            return None
        return max(0.0, synced_at + self._sync_every_s - self._clock.monotonic())

    def _write(self, file: JournalFile, batch: Batch[R]) -> bool:
        batch.error = self._appended(file, b"".join(batch.lines))
        if batch.error is not None:
            return False
        batch.written = True
        self.committed += len(batch.lines)
        self.committed_bytes += batch.size
        self.commits += 1
        self.commit_seconds += self._clock.monotonic() - batch.opened_at
        return True

    def _appended(self, file: JournalFile, data: bytes) -> Exception | None:
        try:
            file.append(data)
            self._is_there()
            return None
        except Exception as exc:  # noqa: BLE001 - whatever the file raises costs this batch, never the thread
            self.write_errors += 1
            if isinstance(exc, FileGoneError):
                self._is_gone(exc)
            elif gets_a_line(self.write_errors):
                log.error("journal.write_failed", journal=self.name, error=str(exc), failures=self.write_errors)
            return exc

    def _is_gone(self, exc: FileGoneError) -> None:
        self.removed += exc.records
        self._gone_times = self._gone_times + 1 if self.gone else 1
        self.gone = str(exc)
        if gets_a_line(self._gone_times):
            log.error(
                "journal.file_gone", journal=self.name, error=f"{self.gone}: {WAY_BACK}", lost_records=self.removed
            )

    def _is_there(self) -> None:
        if self.gone:
            self.gone = ""
            log.warning("journal.file_back", journal=self.name)

    def _sync(self, file: JournalFile) -> Exception | None:
        try:
            file.sync()
            return None
        except Exception as exc:  # noqa: BLE001 - as above
            self.sync_errors += 1
            log.error("journal.sync_failed", journal=self.name, error=str(exc), failures=self.sync_errors)
            return exc

    def _settle_soon(self, batch: Batch[R]) -> None:
        self._writing = None
        if batch.lines:
            self._on_loop(lambda: self._settle(batch))

    def _on_loop(self, call: Callable[[], None]) -> None:
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            log.warning("journal.settled_late", journal=self.name)

    def _settle(self, batch: Batch[R]) -> None:
        """On the loop: hand settled records downstream in file order, a slice per turn; then wake the waiters."""
        batch.left = zip(batch.receipts, batch.lines, strict=True)
        batch.receipts, batch.lines = [], []  # breaks the cycle receipt → batch, which would keep the lines alive
        self._settling.append(batch)
        if len(self._settling) == 1:
            self._hand_on()

    def _hand_on(self) -> None:
        batch = self._settling[0]
        settled = list(islice(batch.left, _SLICE))
        if batch.written:
            self.settled_offset += sum([len(line) for _, line in settled])
            kept = settled
        else:  # senders who await get an error, so for them these ops do not exist
            kept = [(receipt, line) for receipt, line in settled if not receipt.awaited]
            self.unwritten += len(kept)
        try:
            self._downstream.consume_all([receipt.op for receipt, _ in kept], [line for _, line in kept])
        except Exception:  # costs these records' analysis, not their waiting senders
            self.downstream_errors += 1
            log.exception("journal.downstream_failed", journal=self.name)
        if len(settled) < _SLICE:
            batch.settled = True
            batch.left = iter(())  # the exhausted iterator still holds its last pair
            self._settling.popleft()
            release(batch)
        if self._settling and self._loop is not None:
            self._loop.call_soon(self._hand_on)
        elif self._writer_gone:
            self._ended.set()

    def _end(self) -> None:
        self._writer_gone = True
        if not self._settling:
            self._ended.set()

    async def _fail_stalled(self) -> None:
        """Fail waiters whose write hangs longer than the commit time-out: they get JournalError and may retry."""
        while True:
            await self._clock.sleep(_STALL_CHECK_S)
            for batch in (self._writing, self._batch):
                if batch is None or not batch.waiters:
                    continue
                waited = self._clock.monotonic() - batch.opened_at
                if waited > self._commit_timeout_s:
                    release(batch, TimeoutError(f"no answer from the disk for {waited:.1f} s"))
