"""`checkpoint.db`: a whole copy of the state, made before journal segments go, from which the state can be had again.

What the journals hold behind its cursors, and it, are all that was ever counted.
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
"""Those that were saved with the derived rows, and go with them."""


class Covered(NamedTuple):
    """How far into each journal, in logical bytes, saved rows go."""

    ops: int = 0
    decisions: int = 0


class Copy(NamedTuple):
    """What a copy holds: rows by table, and the saved cursors that belong to them."""

    rows: dict[str, dict[str, bytes]]
    cursors: dict[str, bytes]

    @property
    def covered(self) -> Covered:
        """How far it goes."""
        return covered(self.cursors)


def covered(cursors: Mapping[str, bytes]) -> Covered:
    """What the saved *cursors* say of the journals."""
    return Covered(_offset(cursors, "ops"), _offset(cursors, "decisions"))


def write_copy(connection: sqlite3.Connection, path: Path) -> Covered:
    """Put a copy of the whole file at *path* (0600), whole or not at all. Raises sqlite3.Error, OSError."""
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
    """What the copy at *path* holds; None if there is none, or none that can be read, which is logged."""
    if not path.exists():
        return None
    try:
        with closing(connect(path, 5.0)) as connection:
            rows = {table: dict(connection.execute(SELECT[table])) for table in DERIVED}
            cursors = dict(connection.execute(SELECT["cursors"]))
    except (sqlite3.Error, OSError, StartError) as exc:
        log.error("checkpoint.unusable", path=str(path), why=str(exc))
        return None
    return Copy(rows, {name: cursors[name] for name in CURSORS if name in cursors})


def dumped(path: Path) -> bytes:
    """The derived state in the file at *path* as canonical JSON: the same state gives the same bytes.

    Table → key → row, with how far into the journals it goes; rows that are not JSON as hex digits. Raises
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
