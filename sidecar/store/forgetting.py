"""Erases a person: overwrites their journal lines, and removes what was derived from them.

Journal lines keep their length, so saved offsets stay valid. Each step is idempotent: after an interruption the run
starts again and finds finished steps done. The person's own ops are erased last, because they tell what to look for.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from sidecar.model import Decision, ObservedOp
from sidecar.store.checkpoint_copy import NAME
from sidecar.store.damaged import aside_path
from sidecar.store.database import DERIVED, SELECT, connect, is_damage
from sidecar.store.forgotten_person import MASK, Person
from sidecar.store.forgotten_rows import CleanedRows
from sidecar.store.journal_file import CRC_TAIL, TOMBSTONE, opened, sealed
from sidecar.store.journal_reader import JournalReader
from sidecar.store.latest_ops import LATEST, kept_ops
from sidecar.store.segments import closed_segments, journal_span

_OPS, _DECISIONS, _STATE = "ops.jsonl", "decisions.jsonl", "state.db"
_LEAST: Final = len(TOMBSTONE) + 2 + CRC_TAIL  # bytes of the shortest tombstone line, line feed included
_TABLES: Final = tuple(table for table in (*DERIVED, "cursors") if table != "seen_ids")  # seen_ids holds only hashes


class Forgotten(msgspec.Struct):
    """Counts of what was removed: lines overwritten whole, lines with masked parts, database rows, whole files."""

    lines: int = 0
    masked: int = 0
    rows: int = 0
    files: int = 0

    @property
    def is_nothing(self) -> bool:
        """Whether nothing about them was found. A removed damaged file counts: it may have held something."""
        return not (self.lines or self.masked or self.rows or self.files)


class Forgetting:
    """Erases the staffer *staffer_id* from the files of *data_dir*, whose lock the caller holds.

    Op lines with that `staffer_id` become tombstones. Elsewhere (other people's ops, decisions, saved rows, posts) the
    id and texts that only they used are masked, as whole words; names of JSON members are kept. What cannot be read
    row by row is removed whole. Raises OSError, sqlite3.Error.
    """

    def __init__(self, data_dir: Path, staffer_id: str) -> None:
        self._data_dir = data_dir
        self._person = Person(staffer_id)
        spans = (journal_span(data_dir / name) for name in (_OPS, _DECISIONS))
        self._rows = CleanedRows(self._person, are_gone=any(first for first, _ in spans))
        self.forgotten = Forgotten()

    def run(self) -> None:
        """Run all steps."""
        self._remove_damaged()
        self._look()
        self._journal(_DECISIONS, self._decision)
        for name in (NAME, _STATE):
            self._database(self._data_dir / name)
        for name in (_DECISIONS, _OPS):
            self._aside(aside_path(self._data_dir / name))
        self._journal(_OPS, self._op)

    # --- find what is theirs -------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Collect from ops, rows and decisions the texts that only they used."""
        self._person.is_known = self._is_named()
        for op in self._known_ops():
            if self._person.is_theirs(op):
                self._person.learn(op)
        for name in (_STATE, NAME):
            for table, key, body in self._saved(self._data_dir / name):
                self._rows.look(table, key, body)
        for decision, _ in JournalReader(self._data_dir / _DECISIONS).scan(Decision):
            if decision.kind == "langfuse_told" and self._person.needle in bytes(decision.body):
                self._rows.told(msgspec.json.decode(decision.body))
        for op in self._known_ops():
            if not self._person.is_theirs(op):
                self._person.unlearn(op)

    def _is_named(self) -> bool:
        """Whether an op is theirs, or a saved row or a decision names them."""
        return (
            any(self._person.is_theirs(op) for op in self._known_ops())
            or any(
                self._person.is_named_in(b"%b %b" % (msgspec.json.encode(key), body))
                for name in (_STATE, NAME)
                for _, key, body in self._saved(self._data_dir / name)
            )
            or any(
                self._person.is_named_in(bytes(decision.body))
                for decision, _ in JournalReader(self._data_dir / _DECISIONS).scan(Decision)
            )
        )

    def _known_ops(self) -> Iterator[ObservedOp]:
        """Yield the ops in the journal, and the recent ops that a state file holds in full."""
        for op, _ in JournalReader(self._data_dir / _OPS).scan(ObservedOp):
            yield op
        for name in (_STATE, NAME):
            for table, _, body in self._saved(self._data_dir / name):
                if table == LATEST:
                    yield from kept_ops(body)

    def _saved(self, path: Path) -> Iterator[tuple[str, str, bytes]]:
        if path.exists():
            with closing(connect(path, 5.0, is_copy=path.name == NAME)) as connection:
                for table in _TABLES:
                    for key, body in connection.execute(SELECT[table]):
                        yield table, key, bytes(body)

    # --- clean state files ---------------------------------------------------------------------------------------

    def _remove_damaged(self) -> None:
        """Remove damaged state files: they are rebuilt from the journals, and nobody can tell what they contain."""
        found = [path for path in self._data_dir.glob(f"{_STATE}.corrupt-*") if path.is_file()]
        for name in (_STATE, NAME):
            found += [path for path in [self._data_dir / f"{name}.new"] if path.exists()]  # an unfinished copy
            try:
                for _ in self._saved(self._data_dir / name):
                    pass
            except sqlite3.DatabaseError as exc:
                if not is_damage(exc):
                    raise
                found += [path for path in self._data_dir.glob(f"{name}*") if path.is_file()]
        for path in dict.fromkeys(found):
            path.unlink(missing_ok=True)
            self.forgotten.files += 1

    def _database(self, path: Path) -> None:
        """Clean the rows of *path*, a state file or its copy; no old content stays in free pages."""
        if not path.exists():
            return
        with closing(connect(path, 5.0, is_copy=path.name == NAME)) as connection:
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("BEGIN IMMEDIATE")
            for table in _TABLES:
                self._table(connection, table)
            self._posts(connection)
            connection.execute("COMMIT")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _table(self, connection: sqlite3.Connection, table: str) -> None:
        column = "name" if table == "cursors" else "key"
        for key, body in connection.execute(SELECT[table]).fetchall():
            clean = self._rows.row(table, key, bytes(body))
            if clean == (key, bytes(body)):
                continue
            self.forgotten.rows += 1
            connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (key,))  # noqa: S608 - both names are ours
            if clean is not None:  # masking can map two forgotten people to one key
                connection.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", clean)  # noqa: S608 - as above

    def _posts(self, connection: sqlite3.Connection) -> None:
        for number, body, error in connection.execute("SELECT number, body, error FROM outbox").fetchall():
            clean, why = self._post(bytes(body)), self._person.masked(error)
            if (clean, why) != (bytes(body), error):
                connection.execute("UPDATE outbox SET body = ?, error = ? WHERE number = ?", (clean, why, number))
                self.forgotten.rows += 1

    def _post(self, body: bytes) -> bytes:
        try:
            said = msgspec.json.decode(body)
        except msgspec.DecodeError:  # empty: already delivered
            return self._person.masked_id_in(body)
        clean = self._rows.post(said)
        return body if clean == said else msgspec.json.encode(clean)

    # --- clean journals ------------------------------------------------------------------------------------------

    def _journal(self, name: str, cleaned: Callable[[bytes], bytes]) -> None:
        """Clean all segments of the journal whose active file is *name*."""
        active = self._data_dir / name
        for path in [*(segment.path for segment in closed_segments(active)), active]:
            if path.exists():
                self._lines(path, cleaned)

    def _lines(self, path: Path, cleaned: Callable[[bytes], bytes]) -> None:
        stat, at = path.stat(), 0
        with path.open("r+b", buffering=0) as out, path.open("rb") as lines:
            for line in lines:
                clean = _finished(line) if line.startswith(TOMBSTONE) else cleaned(line)
                if clean != line:
                    os.pwrite(out.fileno(), clean, at)
                at += len(line)
            os.fsync(out.fileno())
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # mtime is the age of a segment's records

    def _op(self, line: bytes) -> bytes:
        """Clean a line of `ops.jsonl`: their own op, or a damaged line with their id, is overwritten whole."""
        if self._person.needle not in line:
            return line
        record = opened(line.rstrip(b"\n"))
        op = _decoded(record)
        if (op is not None and self._person.is_theirs(op)) or (op is None and self._person.names(line)):
            self.forgotten.lines += 1
            return _overwritten(line)
        masked = self._person.masked_id_in(line)
        if masked == line:
            return line
        self.forgotten.masked += 1
        if record is None or len(record) + 1 >= len(line):  # a line without checksum
            return masked
        body = masked[: -CRC_TAIL - 1] + b"}"
        return masked[:-11] + b"%08x" % zlib.crc32(body) + b'"}\n'

    def _decision(self, line: bytes) -> bytes:
        """Clean a line of `decisions.jsonl`; a shorter result is padded with spaces."""
        record = opened(line.rstrip(b"\n"))
        try:
            decision = msgspec.json.decode(record or b"")
            clean = {**decision, "body": self._rows.decision(decision["kind"], decision["body"])}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
            return _overwritten(line) if self._person.names(line) else line
        if record is None or clean == msgspec.json.decode(record):
            return line
        self.forgotten.masked += 1
        encoded = msgspec.json.encode(clean)
        if len(encoded) > len(record):
            return _overwritten(line)
        filled = encoded[:-1] + b" " * (len(record) - len(encoded)) + b"}"
        return sealed(filled) if len(line) > len(record) + 1 else filled + line[len(record) :]

    def _aside(self, path: Path) -> None:
        """Clean the damaged pieces kept for people: drop pieces with the id, mask the person's texts in others."""
        if not path.is_file():
            return
        pieces = path.read_bytes().splitlines(keepends=True)
        kept = [self._piece(piece) for piece in pieces if not self._person.names(piece)]
        if kept != pieces:
            self.forgotten.masked += len(pieces) - len(kept)
            with path.open("r+b") as file:
                file.write(b"".join(kept))
                file.truncate()
                os.fsync(file.fileno())

    def _piece(self, piece: bytes) -> bytes:
        return self._person.masked(piece.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def tombstone(size: int) -> bytes:
    """An empty journal line of *size* bytes with a checksum, which readers skip. At least `_LEAST` bytes."""
    record = TOMBSTONE + b"-" * (size - _LEAST) + b'"}'
    return b'%b,"crc":"%08x"}\n' % (record[:-1], zlib.crc32(record))


def _overwritten(line: bytes) -> bytes:
    """A tombstone as long as *line*; asterisks if the line is too short for one, or has no line feed."""
    if line.endswith(b"\n") and len(line) >= _LEAST:
        return tombstone(len(line))
    return MASK.encode() * len(line.rstrip(b"\n")) + line[len(line.rstrip(b"\n")) :]


def _finished(line: bytes) -> bytes:
    """Complete a tombstone whose checksum is wrong, because its writing was interrupted."""
    return _overwritten(line) if opened(line.rstrip(b"\n")) is None else line


def _decoded(record: bytes | None) -> ObservedOp | None:
    try:
        return msgspec.json.decode(record or b"", type=ObservedOp)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
