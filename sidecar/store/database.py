"""The SQLite file of derived state: how it is opened, its tables, and its schema migrations."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sidecar.errors import StartError
from sidecar.store import outbox_rows
from sidecar.store.packed_rows import packed_rule

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
"""Tables derived from the journals. The outbox and most cursors are not."""

_KEY_COLUMNS: Final = {"cursors": "name", **dict.fromkeys(DERIVED, "key")}


def _read_again(*tables: str) -> tuple[str, ...]:
    """Statements that empty *tables* and have both journals replayed from the beginning to fill them again."""
    emptied = (f"DELETE FROM {table}" for table in tables)  # noqa: S608 - the names are constants below
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
        # Older rows do not record which op ids they count; only a full replay does.
        *_read_again("incidents", "successes"),
    ),
    (
        # Rows now keep their order, and ids the time at which their op was taken.
        *_read_again("incidents", "successes", "seen_ids"),
    ),
    (
        # Incidents now have states, timelines and templates; what is counted beside them is rebuilt too.
        *_read_again("incidents", "successes", "seen_ids"),
    ),
    ("CREATE TABLE langfuse (key TEXT PRIMARY KEY, body BLOB NOT NULL)",),
    (
        # Learning has its own table; entries were among the successes.
        "ALTER TABLE playbook RENAME TO learning",
        *_read_again("incidents", "successes", "seen_ids", "langfuse"),
    ),
    (
        # Amended ops used to be counted beside the ops that amend them.
        "CREATE TABLE latest_ops (key TEXT PRIMARY KEY, body BLOB NOT NULL)",
        *_read_again("incidents", "successes", "seen_ids", "langfuse", "learning"),
    ),
    (
        "CREATE TABLE corrections (key TEXT PRIMARY KEY, body BLOB NOT NULL)",
        # Corrections, and the ops before and after them, are in the journal.
        *_read_again("incidents", "successes", "seen_ids", "langfuse", "latest_ops", "learning"),
    ),
    ("CREATE TABLE operations (key TEXT PRIMARY KEY, body BLOB NOT NULL)",),
    (
        # Coins now belong to a trial of their entry, and tasks count once over all entries.
        *_read_again(
            "incidents", "successes", "seen_ids", "langfuse", "latest_ops", "learning", "corrections", "operations"
        ),
    ),
    (
        # Rules keep numbers and spans packed: made again, and with them whatever is read in the same order.
        *_read_again(
            "incidents", "successes", "seen_ids", "langfuse", "latest_ops", "learning", "corrections", "operations"
        ),
    ),
)
"""Step n migrates schema version n to n + 1 (`PRAGMA user_version`). Steps are only ever added."""

_OF_COPIES: Final = {11: ("UPDATE learning SET body = packed_rule(body) WHERE key LIKE 'rules/%'",)}
"""The same step where a copy takes another: it has what dropped segments held, which cannot be read again."""

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
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)  # the last one: foreign tables


class DamageError(sqlite3.DatabaseError):
    """`quick_check` found the file's pages inconsistent."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def is_damage(exc: sqlite3.DatabaseError) -> bool:
    """Whether the file's content is at fault, rather than access to it (locked, read-only, full, no permission)."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def connect(path: Path, busy_timeout_s: float, *, is_copy: bool = False) -> sqlite3.Connection:
    """Open or create the file (0600), check it, migrate it. *is_copy*: it is a checkpoint, whose rows are all there is.

    Raises sqlite3.Error, OSError, StartError.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.fchmod(fd, 0o600)  # SQLite gives the -wal and -shm files the same mode
    os.close(fd)
    connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, path, _OF_COPIES if is_copy else {})
    except BaseException:
        connection.close()
        raise
    return connection


def write(connection: sqlite3.Connection, changes: Changes) -> None:
    """Apply *changes* to the tables; the caller has begun a transaction."""
    for table, rows in changes.items():
        connection.executemany(_UPSERT[table], [(key, body) for key, body in rows.items() if body])
        connection.executemany(_DELETE[table], [(key,) for key, body in rows.items() if not body])


def _prepare(connection: sqlite3.Connection, path: Path, others: Mapping[int, tuple[str, ...]]) -> None:
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
    connection.execute("PRAGMA cache_size = -512")  # KiB; small, because rows are written whole and read only at start
    connection.create_function("packed_rule", 1, packed_rule, deterministic=True)
    for number, statements in enumerate(_MIGRATIONS[version:], version):
        connection.execute("BEGIN IMMEDIATE")
        for statement in others.get(number, statements):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number + 1}")
        connection.execute("COMMIT")
    for select in (*SELECT.values(), outbox_rows.SELECT):
        connection.execute(f"{select} LIMIT 0")
