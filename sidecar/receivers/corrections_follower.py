"""Follows the files that appear at one path: rotated, truncated, rewritten or re-created."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from sidecar.receivers.corrections_file import Budget, CorrectionsFile, Line, Position

log = structlog.get_logger(__name__)

READ_BYTES = 4 << 20
READ_LINES = 10_000


@dataclass(frozen=True, slots=True)
class Chunk:
    """The lines of one read, in order, and where the next read begins once all of them are settled."""

    lines: list[Line]
    position: Position | None


class CorrectionsFollower:
    """Reads new lines at a path, at most 4 MiB or 10,000 lines at a time. Used by one worker thread at a time.

    A renamed file is read to its end, and once more at the next read, because its writer may not have noticed yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._closed = False
        self._file: CorrectionsFile | None = None
        self._retired: CorrectionsFile | None = None
        self._position: Position | None = None
        self._newest: Position | None = None

    def start_at(self, position: Position | None, newest: Position | None) -> None:
        """Set where to begin, before the first read. *newest*: position of the last row known to be recorded."""
        self._position = position
        self._newest = newest

    def read(self) -> Chunk:
        """Read what was appended since the last read. Raises OSError."""
        with self._lock:
            chunk = self._read()
        if self._closed:
            self.close()
        return chunk

    def close(self) -> None:
        """Close the files, or let a read in progress do it at its end. Idempotent."""
        self._closed = True
        if not self._lock.acquire(blocking=False):
            return
        try:
            for file in (self._file, self._retired):
                if file is not None:
                    file.close()
            self._file = self._retired = None
        finally:
            self._lock.release()

    def _read(self) -> Chunk:
        budget = Budget(READ_BYTES, READ_LINES)
        lines = self._late_lines(budget)
        try:
            self._read_on(budget, lines)
        except OSError:
            self._let_go()  # a stale handle stays stale: the next read reopens the path, at the same position
            if not lines:  # else keep the lines; the error comes up again at the next read
                raise
        return Chunk(lines, self._position)

    def _late_lines(self, budget: Budget) -> list[Line]:
        """Read what was still written to the previous file, then close it."""
        old = self._retired
        if old is None:
            return []
        lines: list[Line] = []
        try:
            lines += old.lines(budget)
            done = old.drained
            lines += old.last_fragment() if done else []
        except OSError as exc:
            log.warning("corrections.rest_unreadable", path=str(self._path), error=str(exc))
            done = True
        if done:
            self._retired = None
            old.close()
        return [replace(line, moves=False) for line in lines]

    def _let_go(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _read_on(self, budget: Budget, lines: list[Line]) -> None:
        if self._file is None:
            self._file = self._opened(rotated=False)
        elif not self._file.matches(self._file.position):
            self._reread(self._file, self._file.position)
        if self._file is None:
            return
        self._extend(self._file, budget, lines)
        if self._file.drained and self._retired is None and self._left(self._file):
            self._extend(self._file, budget, lines)

    def _extend(self, file: CorrectionsFile, budget: Budget, lines: list[Line]) -> None:
        lines += file.lines(budget)
        self._position = file.position

    def _left(self, file: CorrectionsFile) -> bool:
        """Whether another file than *file* is at the path now and has been opened."""
        inode = _inode_at(self._path)
        rotated = file.named()
        if inode == file.inode or (inode is None and rotated):  # renamed, and no new file created yet
            return False
        new = self._opened(rotated=rotated)
        if new is None and rotated:
            return False
        self._retired, self._file = file, new
        log.info("corrections.file_left", path=str(self._path), offset=file.position.offset, rotated=rotated)
        return new is not None

    def _opened(self, *, rotated: bool) -> CorrectionsFile | None:
        """Open the file at the path, positioned where reading continues; None if there is none."""
        try:
            file = CorrectionsFile(self._path)
        except FileNotFoundError:
            return None
        try:
            file = self._placed(file, rotated)
        except BaseException:
            file.close()
            raise
        log.info("corrections.file_opened", path=str(self._path), offset=file.position.offset, inode=file.inode)
        return file

    def _placed(self, file: CorrectionsFile, rotated: bool) -> CorrectionsFile:
        position = self._position
        if position is None:
            other = self._newest is not None and not file.matches(self._newest)
            file.restart(file.size() if other else 0)
        elif file.matches(position) and (position.offset or position.inode in {0, file.inode}):
            file.resume(position)
        elif rotated:
            file.restart(0)
        elif file.inode != position.inode and (old := self._rotated_away(position)) is not None:
            file.close()
            return old
        else:
            self._reread(file, position)
        return file

    def _reread(self, file: CorrectionsFile, position: Position) -> None:
        """Read a rewritten file from its start; rows seen before are recognised by their digests."""
        log.warning("corrections.file_rewritten", path=str(self._path), offset=position.offset, size_bytes=file.size())
        file.restart(max(file.size(), position.offset, position.reread_until))

    def _rotated_away(self, position: Position) -> CorrectionsFile | None:
        """The file that was being read before a restart, found by inode under another name in the folder."""
        if not position.inode:
            return None
        for name in _names_of(position.inode, self._path.parent):
            try:
                file = CorrectionsFile(name)
            except OSError:  # gone again, or not readable
                continue
            if file.inode == position.inode and file.matches(position):
                file.resume(position)
                return file
            file.close()
        return None


def _names_of(inode: int, folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.inode() == inode]
    except OSError:  # a folder without read permission
        return []


def _inode_at(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
