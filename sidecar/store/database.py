"""The SQLite file of derived state: how it is opened, what is in it, and how its schema moves on."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sidecar.errors import StartError
from sidecar.store import outbox_rows

Changes = Mapping[str, Mapping[str, bytes]]
"""Table → key → body; an empty body deletes the row."""

DERIVED: Final = (
    "incidents",
    "successes",
    "learning",
    "seen_ids",
    "langfuse",
    "latest_ops",
    "corrections",
    "operations",
)
"""What follows from the journals. The outbox and most cursors do not."""

_KEY_COLUMNS: Final = {"cursors": "name", **dict.fromkeys(DERIVED, "key")}


def _read_again(*tables: str) -> tuple[str, ...]:
    """What is in *tables* goes, and is made again: both journals are read from their beginning."""
    emptied = (f"DELETE FROM {table}" for table in tables)  # noqa: S608 - the names are the constants below
    return *emptied, "UPDATE cursors SET body = '0' WHERE name IN ('ops', 'decisions')"


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
        *_read_again("incidents", "successes"),
    ),
    (
        # Rows are saved with their order, ids with the time at which their op was taken: again all is read once more.
        *_read_again("incidents", "successes", "seen_ids"),
    ),
    (
        # Incidents have states, timelines and templates: they are made again, and so is what is counted beside them.
        *_read_again("incidents", "successes", "seen_ids"),
    ),
    ("CREATE TABLE langfuse (key TEXT PRIMARY KEY, body BLOB NOT NULL)",),
    (
        # What learns has a table of its own; entries were among the successes. Once more all is read again.
        "ALTER TABLE playbook RENAME TO learning",
        *_read_again("incidents", "successes", "seen_ids", "langfuse"),
    ),
    (
        # Ops that others amend were counted beside them: again.
        "CREATE TABLE latest_ops (key TEXT PRIMARY KEY, body BLOB NOT NULL)",
        *_read_again("incidents", "successes", "seen_ids", "langfuse", "learning"),
    ),
    (
        "CREATE TABLE corrections (key TEXT PRIMARY KEY, body BLOB NOT NULL)",
        # What was corrected is in the journal, and so is what preceded and followed: all of it is read once more.
        *_read_again("incidents", "successes", "seen_ids", "langfuse", "latest_ops", "learning"),
    ),
    ("CREATE TABLE operations (key TEXT PRIMARY KEY, body BLOB NOT NULL)",),
    (
        # Coins belong to a trial of their entry, and tasks count once over all entries: made again, all of it.
        *_read_again(
            "incidents", "successes", "seen_ids", "langfuse", "latest_ops", "learning", "corrections", "operations"
        ),
    ),
)
"""Step n brings schema version n to n + 1 (`PRAGMA user_version`). Steps are only ever added."""

SELECT: Final = {
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


class DamageError(sqlite3.DatabaseError):
    """`quick_check` found the file's pages inconsistent."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def is_damage(exc: sqlite3.DatabaseError) -> bool:
    """Whether the file's content is at fault, not the way to it (locked, read-only, full, no permission)."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """Open or create the file (0600), check it, migrate it. Raises sqlite3.Error, OSError, StartError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.fchmod(fd, 0o600)  # SQLite gives the -wal and -shm files the same mode
    os.close(fd)
    connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def write(connection: sqlite3.Connection, changes: Changes) -> None:
    """Put *changes* into the tables; the caller has begun a transaction."""
    for table, rows in changes.items():
        connection.executemany(_UPSERT[table], [(key, body) for key, body in rows.items() if body])
        connection.executemany(_DELETE[table], [(key,) for key, body in rows.items() if not body])


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise DamageError(verdict)
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(_MIGRATIONS):
        raise StartError(
            f"{path} was written by a newer observer",
            f"its schema version is {version}, this one knows {len(_MIGRATIONS)}",
            "Run the newer version, or move state.db away: it is built again from the journals",
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA cache_size = -512")  # KiB: rows are written whole and read at start, once
    for number, statements in enumerate(_MIGRATIONS[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    for select in (*SELECT.values(), outbox_rows.SELECT):
        connection.execute(f"{select} LIMIT 0")
