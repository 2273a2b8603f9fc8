"""Stores derived state and saved cursors in one SQLite file beside the journals.

The analysis rooms save their rows as bytes by key and load them at the next start. The file is never the only record
of ops: if it is damaged it is set aside, and the journals are replayed from the beginning.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar

import structlog

from sidecar.errors import RetryableError, StartError
from sidecar.protocols import Clock
from sidecar.store.checkpoint_copy import Covered, write_copy
from sidecar.store.database import SELECT, Changes, connect, is_damage, write
from sidecar.store.transactions import in_transaction

log = structlog.get_logger(__name__)

_JOIN_S: Final = 2.0
_MAX_QUEUED: Final = 16  # jobs queued behind a stalled disk

T = TypeVar("T")


class _Job(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]
    is_save: bool = False
    is_alone: bool = False  # runs outside our transactions


class StateStore:
    """Rows of bytes by table and key, saved in whole transactions.

    `load` and `save` block on the disk; `save_soon` does not block the event loop. Keys are text without NUL and
    lone surrogates. `rebuilt`: a damaged file was set aside, and this one started empty.
    """

    def __init__(self, data_dir: Path, clock: Clock, *, busy_timeout_s: float = 5.0) -> None:
        self._path = data_dir / "state.db"
        self._clock = clock
        self._busy_timeout_s = busy_timeout_s
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._worker: threading.Thread | None = None
        self._saving = False
        self._idle = asyncio.Event()  # set while no save is running, even one that its caller no longer awaits
        self._idle.set()
        self.rebuilt = False

    def open(self) -> None:
        """Open or create the file (0600) and migrate its schema. Raises StartError."""
        try:
            try:
                self._connection = connect(self._path, self._busy_timeout_s)
            except sqlite3.DatabaseError as exc:
                if not is_damage(exc):
                    raise
                self._set_aside(str(exc))
                self._connection = connect(self._path, self._busy_timeout_s)
        except (sqlite3.Error, OSError) as exc:
            raise StartError(
                f"{self._path} cannot be opened",
                str(exc),
                "Make the folder writable, or choose another with OBSERVER_DATA_DIR",
            ) from exc
        self._jobs = SimpleQueue()
        self._saving = False
        self._worker = threading.Thread(target=self._work, args=(self._jobs,), name="state-writer", daemon=True)
        self._worker.start()

    def close(self) -> None:
        """Close the file after the running save. Idempotent; waits at most 2 s for a stalled disk."""
        if self._worker is None:
            return
        worker, self._worker = self._worker, None
        self._jobs.put(None)
        worker.join(_JOIN_S)
        if worker.is_alive():
            log.warning("state.close_abandoned", path=str(self._path), waited_s=_JOIN_S)

    def load(self, table: str) -> dict[str, bytes]:
        """All rows of *table*. Raises RetryableError; KeyError for an unknown table."""
        with self._lock:
            try:
                return dict(self._opened().execute(SELECT[table]))
            except sqlite3.Error as exc:
                raise self._failed("read", exc) from exc

    def save(self, changes: Changes) -> None:
        """Write *changes* in one transaction, all or none. Raises RetryableError; KeyError for an unknown table."""
        self._transact(lambda connection: write(connection, changes))

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run *work* on the writer thread in one transaction, after the queued jobs, and return its result.

        Raises RetryableError, at once if too many jobs are queued. Cancelling the caller does not cancel the work.
        """
        if self._jobs.qsize() >= _MAX_QUEUED:
            raise self._busy()
        result: T = await self._submit(work)
        return result

    async def save_soon(self, changes: Changes) -> None:
        """`save` on the writer thread. Raises RetryableError, at once if the previous save is still running.

        Cancelling the caller does not cancel the save; a failure of it is then logged.
        """
        if self._saving:
            raise self._busy()
        copied = {table: dict(rows) for table, rows in changes.items()}
        done = self._submit(lambda connection: write(connection, copied), is_save=True)
        self._idle.clear()
        await done

    async def copy_to(self, path: Path) -> Covered:
        """Write a full copy of the file to *path*. Returns the journal offsets it covers. Raises RetryableError."""
        covered: Covered = await self._submit(lambda connection: write_copy(connection, path), is_alone=True)
        return covered

    def _submit(
        self, work: Callable[[sqlite3.Connection], Any], *, is_save: bool = False, is_alone: bool = False
    ) -> asyncio.Future[Any]:
        if self._worker is None:
            raise self._closed()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._saving |= is_save
        self._jobs.put(_Job(work, loop, done, is_save, is_alone))
        return done

    async def idle(self) -> None:
        """Return when no save is running, however it ended. The caller's deadline bounds the wait."""
        await self._idle.wait()

    def _work(self, jobs: SimpleQueue[_Job | None]) -> None:
        while (job := jobs.get()) is not None:
            self._do(job)
            del job  # else megabytes of rows would be held until the next job
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _do(self, job: _Job) -> None:
        result, error = None, None
        try:
            result = self._transact(job.work, is_alone=job.is_alone)
        except Exception as exc:  # noqa: BLE001 - passed to the waiting caller; the thread must go on
            error = exc
        if job.is_save:
            self._saving = False
        try:
            job.loop.call_soon_threadsafe(_settle, job.done, result, error)
            if job.is_save:
                job.loop.call_soon_threadsafe(self._idle.set)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.warning("state.saved_late", error=str(error or ""))

    def _transact(self, work: Callable[[sqlite3.Connection], T], *, is_alone: bool = False) -> T:
        with self._lock:
            connection = self._opened()
            try:
                return work(connection) if is_alone else in_transaction(connection, work)
            except (sqlite3.Error, OSError) as exc:
                raise self._failed("written", exc) from exc

    def _set_aside(self, why: str) -> None:
        aside = f"{self._path}.corrupt-{self._clock.time_ns() // 1_000_000}"
        for suffix in ("-wal", "-shm", ""):  # a leftover WAL would be applied to the new file
            part = Path(f"{self._path}{suffix}")
            if part.exists():
                part.rename(f"{aside}{suffix}")
        self.rebuilt = True
        log.error("state.set_aside", path=str(self._path), kept_as=aside, why=why)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise self._closed()
        return self._connection

    def _busy(self) -> RetryableError:
        return RetryableError(
            f"{self._path} is busy", "the previous save has not finished", "Look at the disk of OBSERVER_DATA_DIR"
        )

    def _closed(self) -> RetryableError:
        return RetryableError(f"{self._path} is closed", "the observer is starting or stopping", "Try again later")

    def _failed(self, done: str, exc: Exception) -> RetryableError:
        return RetryableError(f"{self._path} was not {done}", str(exc), "Look at the disk of OBSERVER_DATA_DIR")


def _settle(done: asyncio.Future[Any], result: object, error: Exception | None) -> None:
    if done.done():
        if error is not None:
            log.error("state.save_failed", error=str(error))
    elif error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
