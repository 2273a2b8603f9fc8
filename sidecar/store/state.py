"""Derived state and saved cursors, in one SQLite file beside the journals.

What the analysis rooms know comes in as bytes by key and goes back to them at the next start. The file is never the
truth about ops: if it is damaged it is set aside, and the journals are read from their beginning.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar

import structlog

from sidecar.errors import RetryableError, StartError
from sidecar.protocols import Clock
from sidecar.store import outbox_rows
from sidecar.store.transactions import in_transaction

log = structlog.get_logger(__name__)

Changes = Mapping[str, Mapping[str, bytes]]
"""Table → key → body; an empty body deletes the row."""

_KEY_COLUMNS: Final = {"cursors": "name", "incidents": "key", "successes": "key", "playbook": "key", "seen_ids": "key"}
_MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE cursors (name TEXT PRIMARY KEY, body BLOB NOT NULL)",
        "CREATE TABLE incidents (key TEXT PRIMARY KEY, body BLOB NOT NULL)",
        "CREATE TABLE successes (key TEXT PRIMARY KEY, body BLOB NOT NULL)",
        "CREATE TABLE playbook (key TEXT PRIMARY KEY, body BLOB NOT NULL)",
    ),
    outbox_rows.SCHEMA,
    (
        "CREATE TABLE seen_ids (key TEXT PRIMARY KEY, body BLOB NOT NULL)",
        # The ids of ops that older rows count are in the journal only: all of it is read once more.
        "DELETE FROM incidents",
        "DELETE FROM successes",
        "UPDATE cursors SET body = '0' WHERE name IN ('ops', 'decisions')",
    ),
)
"""Step n brings schema version n to n + 1 (`PRAGMA user_version`). Steps are only ever added."""

_SELECT: Final = {
    table: f"SELECT {key}, body FROM {table}"  # noqa: S608 - both names are the constants above
    for table, key in _KEY_COLUMNS.items()
}
_UPSERT: Final = {
    table: f"INSERT INTO {table} VALUES (?, ?) ON CONFLICT ({key}) DO UPDATE SET body = excluded.body"  # noqa: S608 - as above
    for table, key in _KEY_COLUMNS.items()
}
_DELETE: Final = {
    table: f"DELETE FROM {table} WHERE {key} = ?"  # noqa: S608 - as above
    for table, key in _KEY_COLUMNS.items()
}
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)  # the last: tables not ours
_JOIN_S: Final = 2.0
_MAX_QUEUED: Final = 16  # jobs behind a disk that stalls

T = TypeVar("T")


class _Job(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]
    is_save: bool


class StateStore:
    """Rows of bytes by table and key, saved in whole transactions.

    `load` and `save` block on the disk; `save_soon` does not block the event loop. Keys are text without NUL and
    lone surrogates. `rebuilt` tells that a damaged file was set aside and this one began empty.
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
        self._idle = asyncio.Event()  # no save is under way, whoever may still wait for one
        self._idle.set()
        self.rebuilt = False

    def open(self) -> None:
        """Open or create the file (0600) and bring its schema up to date. Raises StartError."""
        try:
            try:
                self._connection = self._connect()
            except sqlite3.DatabaseError as exc:
                if not _is_damage(exc):
                    raise
                self._set_aside(str(exc))
                self._connection = self._connect()
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
        """Close the file behind the save that is under way. Idempotent; a stalled disk is waited for 2 s only."""
        if self._worker is None:
            return
        worker, self._worker = self._worker, None
        self._jobs.put(None)
        worker.join(_JOIN_S)
        if worker.is_alive():
            log.warning("state.close_abandoned", path=str(self._path), waited_s=_JOIN_S)

    def load(self, table: str) -> dict[str, bytes]:
        """Every row of *table*. Raises RetryableError; KeyError for a table that does not exist."""
        with self._lock:
            try:
                return dict(self._opened().execute(_SELECT[table]))
            except sqlite3.Error as exc:
                raise self._failed("read", exc) from exc

    def save(self, changes: Changes) -> None:
        """Write *changes* in one transaction: all of them or none. Raises RetryableError; KeyError as `load`."""
        self._transact(lambda connection: _write(connection, changes))

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What *work* gives, done on the writer thread in one transaction, behind what waits there.

        Raises RetryableError; at once if the disk has not kept up with the jobs before. A caller that stops waiting
        leaves the work to be done.
        """
        if self._jobs.qsize() >= _MAX_QUEUED:
            raise self._busy()
        result: T = await self._submit(work)
        return result

    async def save_soon(self, changes: Changes) -> None:
        """`save` on the writer thread. Raises RetryableError, at once if the save before has not finished.

        A caller that stops waiting leaves the save under way; its failure is then logged.
        """
        if self._saving:
            raise self._busy()
        copied = {table: dict(rows) for table, rows in changes.items()}
        done = self._submit(lambda connection: _write(connection, copied), is_save=True)
        self._idle.clear()
        await done

    def _submit(self, work: Callable[[sqlite3.Connection], Any], *, is_save: bool = False) -> asyncio.Future[Any]:
        if self._worker is None:
            raise self._closed()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._saving |= is_save
        self._jobs.put(_Job(work, loop, done, is_save))
        return done

    async def idle(self) -> None:
        """Return when no save is under way, however it ended. The caller's deadline bounds the wait."""
        await self._idle.wait()

    def _work(self, jobs: SimpleQueue[_Job | None]) -> None:
        while (job := jobs.get()) is not None:
            result, error = None, None
            try:
                result = self._transact(job.work)
            except Exception as exc:  # noqa: BLE001 - told to whoever waits; the thread must go on
                error = exc
            if job.is_save:
                self._saving = False
            try:
                job.loop.call_soon_threadsafe(_settle, job.done, result, error)
                if job.is_save:
                    job.loop.call_soon_threadsafe(self._idle.set)
            except RuntimeError:  # the loop is closed: nobody waits any more
                log.warning("state.saved_late", error=str(error or ""))
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            connection = self._opened()
            try:
                return in_transaction(connection, work)
            except sqlite3.Error as exc:
                raise self._failed("written", exc) from exc

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(fd, 0o600)  # SQLite gives the -wal and -shm files the same mode
        os.close(fd)
        connection = sqlite3.connect(
            self._path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise _DamageError(verdict)
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        self._refuse_newer(version)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        _migrate(connection, version)
        for select in (*_SELECT.values(), outbox_rows.SELECT):
            connection.execute(f"{select} LIMIT 0")

    def _refuse_newer(self, version: int) -> None:
        if version > len(_MIGRATIONS):
            raise StartError(
                f"{self._path} was written by a newer observer",
                f"its schema version is {version}, this one knows {len(_MIGRATIONS)}",
                "Run the newer version, or move state.db away: it is built again from the journals",
            )

    def _set_aside(self, why: str) -> None:
        aside = f"{self._path}.corrupt-{self._clock.time_ns() // 1_000_000}"
        for suffix in ("-wal", "-shm", ""):  # a WAL left behind would be applied to the new file
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
            f"{self._path} is busy", "the save before has not finished", "Look at the disk of OBSERVER_DATA_DIR"
        )

    def _closed(self) -> RetryableError:
        return RetryableError(f"{self._path} is closed", "the observer is starting or stopping", "Try again later")

    def _failed(self, done: str, exc: sqlite3.Error) -> RetryableError:
        return RetryableError(f"{self._path} was not {done}", str(exc), "Look at the disk of OBSERVER_DATA_DIR")


class _DamageError(sqlite3.DatabaseError):
    """`quick_check` found the file's pages inconsistent."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def _is_damage(exc: sqlite3.DatabaseError) -> bool:
    """Whether the file's content is at fault, not the way to it (locked, read-only, full, no permission)."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    for number, statements in enumerate(_MIGRATIONS[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")


def _write(connection: sqlite3.Connection, changes: Changes) -> None:
    for table, rows in changes.items():
        connection.executemany(_UPSERT[table], [(key, body) for key, body in rows.items() if body])
        connection.executemany(_DELETE[table], [(key,) for key, body in rows.items() if not body])


def _settle(done: asyncio.Future[Any], result: object, error: Exception | None) -> None:
    if done.done():
        if error is not None:
            log.error("state.save_failed", error=str(error))
    elif error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
