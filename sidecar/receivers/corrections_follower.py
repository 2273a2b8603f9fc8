"""Follows a path through the files that stand there one after another: rotated, truncated, rewritten, re-created."""

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
    """What one read gave, in order, and where the next one begins once all of it is settled."""

    lines: list[Line]
    position: Position | None


class CorrectionsFollower:
    """Reads what is new behind a path, at most 4 MiB or 10,000 lines at a time. Used by one worker thread at a time.

    A file that was renamed is read to its end, and once more at the next read, as its writer may not have noticed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._closed = False
        self._file: CorrectionsFile | None = None
        self._retired: CorrectionsFile | None = None
        self._position: Position | None = None
        self._seeded = False

    def start_at(self, position: Position | None, *, seeded: bool) -> None:
        """Where to begin, before the first read. *seeded*: rows were seen before, whose position was lost."""
        self._position = position
        self._seeded = seeded

    def read(self) -> Chunk:
        """What has come since the last read. Raises OSError."""
        with self._lock:
            chunk = self._read()
        if self._closed:
            self.close()
        return chunk

    def close(self) -> None:
        """Give the descriptors back; a read that is under way does so at its end. Idempotent."""
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
        if self._file is None:
            self._file = self._opened(rotated=False)
        else:
            self._notice_rewrite(self._file)
        if self._file is not None:
            lines += self._file.lines(budget)
            self._position = self._file.position
            if self._file.drained:
                lines += self._next_file(self._file, budget)
        return Chunk(lines, self._position)

    def _late_lines(self, budget: Budget) -> list[Line]:
        """What was still written to the file before; then it is let go."""
        old = self._retired
        if old is None:
            return []
        lines = old.lines(budget)
        if old.drained:
            lines += old.last_fragment()
            self._retired = None
            old.close()
        return [replace(line, moves=False) for line in lines]

    def _next_file(self, file: CorrectionsFile, budget: Budget) -> list[Line]:
        """Retire *file* if another stands in its place or none ever will again; the new one's lines."""
        inode = _inode_at(self._path)
        rotated = file.named()
        if inode == file.inode or (inode is None and rotated) or self._retired is not None:
            return []
        self._retired, self._file = file, None
        log.info("corrections.file_left", path=str(self._path), offset=file.position.offset, rotated=rotated)
        self._file = self._opened(rotated=rotated)
        if self._file is None:
            return []
        lines = self._file.lines(budget)
        self._position = self._file.position
        return lines

    def _notice_rewrite(self, file: CorrectionsFile) -> None:
        if not file.matches(file.position):
            self._reread(file, file.position)

    def _opened(self, *, rotated: bool) -> CorrectionsFile | None:
        """The file that stands at the path, put where reading goes on; None if there is none."""
        try:
            file = CorrectionsFile(self._path)
        except FileNotFoundError:
            return None
        position = self._position
        if position is None:
            file.restart(file.size() if self._seeded else 0)
        elif file.matches(position) and (position.offset or position.inode in {0, file.inode}):
            file.resume(position)
        elif rotated:
            file.restart(0)
        elif file.inode != position.inode and (old := self._rotated_away(position)) is not None:
            file.close()
            file = old
        else:
            self._reread(file, position)
        log.info("corrections.file_opened", path=str(self._path), offset=file.position.offset, inode=file.inode)
        return file

    def _reread(self, file: CorrectionsFile, position: Position) -> None:
        """Rows of a rewritten file that were seen already are told from new ones by their digests."""
        log.warning("corrections.file_rewritten", path=str(self._path), offset=position.offset, size_bytes=file.size())
        file.restart(max(file.size(), position.offset, position.reread_until))

    def _rotated_away(self, position: Position) -> CorrectionsFile | None:
        """The file that was being read before a restart, found by its inode under another name in the folder."""
        if not position.inode:
            return None
        with os.scandir(self._path.parent) as entries:
            names = [entry.path for entry in entries if entry.inode() == position.inode]
        for name in names:
            try:
                file = CorrectionsFile(Path(name))
            except OSError:  # gone again, or not ours to read
                continue
            if file.inode == position.inode and file.matches(position):
                file.resume(position)
                return file
            file.close()
        return None


def _inode_at(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
