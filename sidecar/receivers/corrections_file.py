"""One file of overseer corrections, read forward from a saved position, with detection of replaced files.

A file is identified by a fingerprint of its first bytes, its inode, and the last row read from it. Source: the file
tails of the Collector, Vector and Fluent Bit, which do not rely on the inode alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import msgspec

HEAD_BYTES = 1024
MAX_LINE_BYTES = 1 << 20
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO in its place must not block the open


class Position(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a file has been read, and how to recognise the file.

    *offset* is in bytes. *head* is the digest of the first *head_bytes* bytes, *row* that of the last row, which is
    *row_bytes* long (0 = unknown). Rows that end at or before *reread_until* may have been read before the file was
    rewritten. *skipping*: the offset is inside a line that is too long. *inode* 0 = unknown.
    """

    offset: int = 0
    inode: int = 0
    head: str = ""
    head_bytes: int = 0
    row: str = ""
    row_bytes: int = 0
    reread_until: int = 0
    skipping: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One line. *after* is the position behind it; *moves*: the read position advances there once it is settled.

    *data* is None for a line over `MAX_LINE_BYTES`. *reread*: skip the line if its digest was seen before.
    """

    data: bytes | None
    digest: str
    after: Position
    reread: bool = False
    moves: bool = True

    @property
    def event_id(self) -> str:
        """An id that is the same whenever this row of this file is read."""
        return f"correction:{self.after.head}:{self.after.offset}:{self.digest}"


@dataclass(slots=True)
class Budget:
    """What one read may still use."""

    data_bytes: int
    lines: int


def digest_of(data: bytes) -> str:
    """64 bits of BLAKE2b in hex, of the row without surrounding white space."""
    return blake2b(data.strip(), digest_size=8).hexdigest()


class CorrectionsFile:
    """An open file and the position in it. All methods do disk I/O: call them from a worker thread."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises OSError, also if it is not a regular file."""
        self._fd = os.open(path, _OPEN)
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        self.position = Position(inode=status.st_ino)
        self.drained = False  # the last read left nothing but an unfinished line

    @property
    def inode(self) -> int:
        """The file's inode number."""
        return self.position.inode

    def size(self) -> int:
        """The current size in bytes."""
        return os.fstat(self._fd).st_size

    def named(self) -> bool:
        """Whether the file has a name: a rotated file does, a deleted or replaced one does not."""
        return os.fstat(self._fd).st_nlink > 0

    def matches(self, position: Position) -> bool:
        """Whether what was read up to *position* is still here unchanged, as far as the fingerprints tell."""
        if self.size() < position.offset or self._head(position.head_bytes) != position.head:
            return False
        if not position.row_bytes:
            return True
        return digest_of(os.pread(self._fd, position.row_bytes, position.offset - position.row_bytes)) == position.row

    def resume(self, position: Position) -> None:
        """Continue after *position*, which must match."""
        self.position = msgspec.structs.replace(position, inode=self.inode)

    def restart(self, reread_until: int) -> None:
        """Begin again at the first byte."""
        self.position = Position(inode=self.inode, reread_until=reread_until)

    def lines(self, budget: Budget) -> list[Line]:
        """The complete lines after the position, within *budget*; blank ones are skipped."""
        asked = budget.data_bytes
        data = os.pread(self._fd, asked, self.position.offset)
        head = os.pread(self._fd, HEAD_BYTES, 0)
        lines: list[Line] = []
        start = 0
        while budget.lines > 0 and (end := data.find(b"\n", start) + 1):
            self._take(data[start:end], head, lines)
            budget.lines -= 1
            start = end
        rest = data[start:]
        unfinished = b"\n" not in rest
        if unfinished and len(rest) > MAX_LINE_BYTES:
            self._skip(rest, head, lines)
            start = len(data)
        self.drained = unfinished and len(data) < asked
        budget.data_bytes -= start
        return lines

    def last_fragment(self) -> list[Line]:
        """The unfinished last line of a rotated file, taken as a row: nobody will finish it."""
        data = os.pread(self._fd, MAX_LINE_BYTES + 1, self.position.offset)
        lines: list[Line] = []
        if data.strip() and b"\n" not in data:
            self._take(data, os.pread(self._fd, HEAD_BYTES, 0), lines)
        return lines

    def close(self) -> None:
        """Close the descriptor; file system errors are ignored."""
        with contextlib.suppress(OSError):
            os.close(self._fd)

    def _take(self, raw: bytes, head: bytes, lines: list[Line]) -> None:
        skipped, too_long = self.position.skipping, len(raw) > MAX_LINE_BYTES + 1
        digest = digest_of(raw)
        self._move(raw, head, row=digest, row_bytes=0 if skipped or too_long else len(raw))
        if skipped or not raw.strip():
            return
        reread = self.position.offset <= self.position.reread_until
        lines.append(Line(None if too_long else raw.strip(), digest, self.position, reread))

    def _skip(self, raw: bytes, head: bytes, lines: list[Line]) -> None:
        """Skip the available part of a line that is already too long; the line is reported once."""
        told = self.position.skipping
        self._move(raw, head, row="", row_bytes=0, skipping=True)
        if not told:
            lines.append(Line(None, digest_of(raw), self.position))

    def _move(self, raw: bytes, head: bytes, *, row: str, row_bytes: int, skipping: bool = False) -> None:
        offset = self.position.offset + len(raw)
        head_bytes = min(HEAD_BYTES, offset)
        known = self.position.head_bytes == HEAD_BYTES
        self.position = Position(
            offset=offset,
            inode=self.inode,
            head=self.position.head if known else _head_digest(head[:head_bytes]),
            head_bytes=head_bytes,
            row=row,
            row_bytes=row_bytes,
            reread_until=self.position.reread_until,
            skipping=skipping,
        )

    def _head(self, length: int) -> str:
        return _head_digest(os.pread(self._fd, length, 0)) if length else ""


def _head_digest(data: bytes) -> str:
    return blake2b(data, digest_size=8).hexdigest()
