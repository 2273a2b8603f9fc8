"""`checkpoint.db`: a full copy of the state, made before journal segments are dropped, to rebuild the state from.

The copy, plus the journals after its cursors, accounts for everything ever counted.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from sidecar.errors import StartError
from sidecar.store.database import DERIVED, SELECT, connect
from sidecar.store.segments import sync_folder

log = structlog.get_logger(__name__)

NAME: Final = "checkpoint.db"
CURSORS: Final = ("ops", "decisions", "corrections")
"""The cursors saved with the derived rows; they are restored together."""


class Covered(NamedTuple):
    """The logical byte offset in each journal up to which the saved rows count."""

    ops: int = 0
    decisions: int = 0


class Copy(NamedTuple):
    """The content of a copy: rows by table, and the cursors saved with them."""

    rows: dict[str, dict[str, bytes]]
    cursors: dict[str, bytes]

    @property
    def covered(self) -> Covered:
        """How far into the journals it goes."""
        return covered(self.cursors)


def covered(cursors: Mapping[str, bytes]) -> Covered:
    """The journal offsets in the saved *cursors*."""
    return Covered(_offset(cursors, "ops"), _offset(cursors, "decisions"))


def write_copy(connection: sqlite3.Connection, path: Path) -> Covered:
    """Write a copy of the whole database to *path* (0600), atomically. Raises sqlite3.Error, OSError."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        cursors = dict(connection.execute(SELECT["cursors"]))
        connection.execute("VACUUM INTO ?", (str(new),))
        os.fsync(fd)
    finally:
        os.close(fd)
    new.rename(path)
    sync_folder(path.parent)
    return covered(cursors)


def load_copy(path: Path) -> Copy | None:
    """The copy at *path*; None if it does not exist, or cannot be read (which is logged)."""
    if not path.exists():
        return None
    try:
        with closing(connect(path, 5.0, is_copy=True)) as connection:
            rows = {table: dict(connection.execute(SELECT[table])) for table in DERIVED}
            cursors = dict(connection.execute(SELECT["cursors"]))
    except (sqlite3.Error, OSError, StartError) as exc:
        log.error("checkpoint.unusable", path=str(path), why=str(exc))
        return None
    return Copy(rows, {name: cursors[name] for name in CURSORS if name in cursors})


def dumped(path: Path) -> bytes:
    """The derived state in the file at *path* as canonical JSON: equal states give equal bytes.

    Table → key → row, plus the journal offsets it covers; rows that are not JSON appear as hex digits. Raises
    sqlite3.Error.
    """
    with closing(sqlite3.connect(path)) as connection:
        tables: dict[str, Any] = {
            table: {key: _readable(body) for key, body in connection.execute(SELECT[table])} for table in DERIVED
        }
        tables["cursors"] = covered(dict(connection.execute(SELECT["cursors"])))._asdict()
    return msgspec.json.format(msgspec.json.encode(tables, order="sorted"), indent=1) + b"\n"


def _readable(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.hex()


def _offset(cursors: Mapping[str, bytes], name: str) -> int:
    return msgspec.json.decode(cursors[name], type=int) if name in cursors else 0
