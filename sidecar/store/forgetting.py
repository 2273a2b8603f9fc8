"""A person is forgotten: their lines in the journals are overwritten, their id is taken out of all else.

Journal lines keep their length, so every saved offset stays valid. Each step can be done again: whoever is
interrupted begins anew, and what is done already is found to be so.
"""

from __future__ import annotations

import os
import re
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from sidecar.store.damaged import aside_path
from sidecar.store.database import DERIVED, SELECT, connect
from sidecar.store.journal_file import CRC_TAIL, TOMBSTONE, opened
from sidecar.store.segments import closed_segments

MASK: Final = b"*"
FIELD: Final = "staffer_id"
_WORD: Final = rb"[\w-]"  # of which ids are made: `st-1` is no part of `st-12`
_COUNTS: Final = ("values", "beyond")  # members of saved rows that map values to counts
_LEAST: Final = len(TOMBSTONE) + 2 + CRC_TAIL  # bytes of the shortest tombstone line, with its line feed


class Forgotten(msgspec.Struct):
    """What was removed: lines overwritten whole, other places where the id was masked, rows of databases changed."""

    lines: int = 0
    masked: int = 0
    rows: int = 0


class Forgetting:
    """Removes the staffer *staffer_id* from files of *data_dir*, whose lock the caller holds.

    Lines whose `staffer_id` it is become tombstones. Elsewhere (other people's lines, decisions, damaged pieces,
    saved rows, posts) the id is masked; only whole words are it, and no names of
    JSON members. All methods raise OSError, databases sqlite3.Error.
    """

    def __init__(self, data_dir: Path, staffer_id: str) -> None:
        self._data_dir = data_dir
        self._id = staffer_id
        written = msgspec.json.encode(staffer_id)[1:-1]  # as JSON has it
        self._needle = written
        self._pattern = re.compile(rb'(?<!%b)%b(?!%b|":)' % (_WORD, re.escape(written), _WORD))
        self._mask = MASK * len(written)
        self._text = re.compile(rf"(?<![\w-]){re.escape(staffer_id)}(?![\w-])", re.ASCII)
        self.forgotten = Forgotten()

    def journal(self, name: str) -> None:
        """All segments of the journal whose active file is *name*, and what was kept aside of it."""
        active = self._data_dir / name
        for path in [*(segment.path for segment in closed_segments(active)), active]:
            if path.exists():
                self._lines(path)
        self.raw(aside_path(active))

    def raw(self, path: Path) -> None:
        """A file that is no journal and no sound database: the id's bytes are masked where they stand."""
        if path.is_file():
            data = path.read_bytes()
            clean, found = self._pattern.subn(self._mask, data)
            if found:
                with path.open("r+b") as file:
                    file.write(clean)
                    os.fsync(file.fileno())
                self.forgotten.masked += found

    def database(self, path: Path) -> None:
        """The rows of *path*, a state file or a copy of one; nothing of what they were stays in free pages."""
        if not path.exists():
            return
        with closing(connect(path, 5.0)) as connection:
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("BEGIN IMMEDIATE")
            for table in (*DERIVED, "cursors"):
                if table != "seen_ids":  # hashes
                    self._rows(connection, table)
            self._posts(connection)
            connection.execute("COMMIT")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _lines(self, path: Path) -> None:
        stat, at = path.stat(), 0
        with path.open("r+b", buffering=0) as out, path.open("rb") as lines:
            for line in lines:
                if self._needle in line or line.startswith(TOMBSTONE):
                    clean = self._without(line)
                    if clean != line:
                        os.pwrite(out.fileno(), clean, at)
                at += len(line)
            os.fsync(out.fileno())
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the age of a segment is that of its records

    def _without(self, line: bytes) -> bytes:
        end = b"\n" if line.endswith(b"\n") else b""
        record = opened(line[: len(line) - len(end)])
        if line.startswith(TOMBSTONE):  # one without its checksum was being written when we were interrupted
            return tombstone(len(line)) if record is None and end and len(line) >= _LEAST else line
        if record is not None and self._is_theirs(record) and len(line) >= _LEAST and end:
            self.forgotten.lines += 1
            return tombstone(len(line))
        masked, found = self._pattern.subn(self._mask, line)
        self.forgotten.masked += found
        if found and record is not None and line[-CRC_TAIL - 1 : 7 - CRC_TAIL] == b',"crc":"':
            body = masked[: -CRC_TAIL - 1] + b"}"
            return masked[:-11] + b"%08x" % zlib.crc32(body) + b'"}\n'
        return masked

    def _is_theirs(self, record: bytes) -> bool:
        """Whether the op names them as its staffer, in its field or among its features and extra fields."""
        try:
            op = msgspec.json.decode(record)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if not isinstance(op, dict):
            return False
        places = [op, op.get("features"), op.get("extra")]
        return any(isinstance(place, dict) and place.get(FIELD) == self._id for place in places)

    def _rows(self, connection: sqlite3.Connection, table: str) -> None:
        column = "name" if table == "cursors" else "key"
        for key, body in connection.execute(SELECT[table]).fetchall():
            if self._needle not in body:
                continue
            row = msgspec.json.decode(body)
            clean = self._cleaned(row)
            if clean != row:
                connection.execute(
                    f"UPDATE {table} SET body = ? WHERE {column} = ?",  # noqa: S608 - both are names of ours
                    (msgspec.json.encode(clean), key),
                )
                self.forgotten.rows += 1

    def _cleaned(self, value: Any, *, is_counts: bool = False) -> Any:
        """*value* with the id masked in texts, and without what is counted under it (there members' names are data)."""
        if isinstance(value, str):
            return self._masked(value)
        if isinstance(value, list):
            return [self._cleaned(each) for each in value]
        if isinstance(value, dict) and is_counts:
            kept = {key: each for key, each in value.items() if key != self._id}
            return {self._masked(key): self._cleaned(each, is_counts=True) for key, each in kept.items()}
        if isinstance(value, dict):
            return {
                key: self._cleaned(each, is_counts=key in _COUNTS or key.startswith("by_"))
                for key, each in value.items()
            }
        return value

    def _masked(self, text: str) -> str:
        return self._text.sub(MASK.decode() * len(self._id), text)

    def _posts(self, connection: sqlite3.Connection) -> None:
        for number, body, error in connection.execute("SELECT number, body, error FROM outbox").fetchall():
            clean, why = self._pattern.sub(self._mask, bytes(body)), self._masked(error)
            if (clean, why) != (bytes(body), error):
                connection.execute("UPDATE outbox SET body = ?, error = ? WHERE number = ?", (clean, why, number))
                self.forgotten.rows += 1


def tombstone(size: int) -> bytes:
    """A line of *size* bytes that says nothing, with a checksum; readers pass over it. At least `_LEAST` bytes."""
    record = TOMBSTONE + b"-" * (size - _LEAST) + b'"}'
    return b'%b,"crc":"%08x"}\n' % (record[:-1], zlib.crc32(record))
