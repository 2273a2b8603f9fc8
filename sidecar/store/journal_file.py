"""The file under a journal: appended to by one writer, repaired at start, never left with a partial line.

A record is a JSON object on one line. Its last member, `crc`, is the CRC-32 (8 hex digits) of the object's bytes
without that member, so that damage is detected. A full or old file is closed and becomes a segment
(`store.segments`); readers find both.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
import structlog

from sidecar.errors import StartError
from sidecar.open_place import OpenPlace
from sidecar.store.damaged import keep_aside
from sidecar.store.segments import active_base, closed_segments, segment_path, sync_folder

log = structlog.get_logger(__name__)

CRC_TAIL: Final = len(b',"crc":"00000000"}')
TOMBSTONE: Final = b'{"gone":"'
"""The start of a line whose record was erased on purpose; readers skip it."""
_ENVELOPE: Final = b',"span":'
SEGMENT_BYTES: Final = 64 << 20
_BLOCK = 1 << 16
_NONE = -1  # no descriptor


def sealed(record: bytes) -> bytes:
    """*record*, a non-empty JSON object, as a journal line with checksum."""
    return b'%b,"crc":"%08x"}\n' % (record[:-1], zlib.crc32(record))


def enveloped(record: bytes, envelope: bytes) -> bytes:
    """*record* with *envelope*, a JSON object, as its member `span`, which readers of the record ignore."""
    return b"%b%b%b}" % (record[:-1], _ENVELOPE, envelope)


def record_of(line: bytes) -> bytes:
    """The record from which a `sealed` *line* was made, without its envelope.

    The search is unambiguous: inside a text the quotes are escaped, and an op has no object member of that name.
    """
    end = line.find(_ENVELOPE + b"{") if line[-CRC_TAIL - 2 : -CRC_TAIL - 1] == b"}" else -1  # most end with a text
    return line[: end if end >= 0 else -CRC_TAIL - 1] + b"}"


def opened(line: bytes) -> bytes | None:
    """The JSON object of a journal *line* (without its line feed); None if its checksum does not match.

    Lines without a checksum, as in older journals, are accepted as they are.
    """
    if line[-CRC_TAIL : -CRC_TAIL + 8] != b',"crc":"':
        return line if line[:1] == b"{" and line[-1:] == b"}" else None
    record = line[:-CRC_TAIL] + b"}"
    return record if line[-10:-2] == b"%08x" % zlib.crc32(record) else None


class AppendFile:
    """All-or-nothing appends to one journal: a partial write is truncated at once, or else before the next append.

    *size* is the logical offset after the last record. The active file is closed before an append that would exceed
    *segment_bytes*, or if its first record is older than *segment_age_s* (None: no age bound). An append fails while
    another file, or none, is at *path* (`open_place`).
    """

    def __init__(
        self,
        path: Path,
        segment_bytes: int = SEGMENT_BYTES,
        segment_age_s: float | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """Open the file, creating it with mode 0600, and repair a torn last line. Raises StartError."""
        self._path = path
        self._segment_bytes = segment_bytes
        self._segment_age_s = segment_age_s
        self._now_s = now_s
        self._fd = _NONE
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._base = active_base(closed_segments(path))
            self._fd = self._open()
            self._used = _prepared(self._fd, path)
            self._place = OpenPlace(path, self._fd)
            self._begun_s = _first_s(self._fd) if self._used else None
        except OSError as exc:
            raise StartError(
                f"{path} cannot be opened for appending",
                exc.strerror or str(exc),
                "Make the folder writable, or choose another with OBSERVER_DATA_DIR",
            ) from exc
        self.size = self._base + self._used
        self._clean = True
        self._named = True  # the file's directory entry is synced

    def append(self, data: bytes) -> None:
        """Write *data* all or nothing. Raises OSError; with no data, FileGoneError as soon as there is a reason."""
        if self._fd != _NONE:
            self._place.look(now=not data)
        self._cut_off()
        self._make_room(len(data))
        self._clean = False
        view = memoryview(data)
        try:
            while view:
                view = view[self._write(view) :]
        except OSError:
            with contextlib.suppress(OSError):  # if it fails, the next append tries again
                self._cut_off()
            raise
        self._place.wrote(data.count(b"\n"))
        self._used += len(data)
        self.size += len(data)
        self._clean = True

    def sync(self) -> None:
        """Force the data to the device. Raises OSError."""
        if self._fd != _NONE:  # else it was synced when it was closed
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Truncate what a failed write left, then close."""
        fd = self._fd
        if fd == _NONE:
            return
        try:
            self._cut_off()
        finally:
            self._fd = _NONE
            os.close(fd)

    def _make_room(self, size: int) -> None:
        """Ensure an active file with room for *size* bytes. What fails is retried by the next append."""
        if self._used and (self._used + size > self._segment_bytes or self._is_old()):
            self._place.look(now=True)  # never rename another's file
            os.fdatasync(self._fd)
            self._path.rename(segment_path(self._path, self._base))
            fd, self._fd = self._fd, _NONE
            self._base, self._used = self.size, 0
            os.close(fd)
        if self._fd == _NONE:
            self._fd, self._named = self._open(), False
            self._place = OpenPlace(self._path, self._fd)
        if not self._named:
            sync_folder(self._path.parent)
            self._named = True
        if not self._used:
            self._begun_s = self._now_s()

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _is_old(self) -> bool:
        age_s, begun_s = self._segment_age_s, self._begun_s
        return age_s is not None and begun_s is not None and self._now_s() - begun_s > age_s

    def _write(self, data: memoryview) -> int:
        return os.write(self._fd, data)

    def _cut_off(self) -> None:
        if not self._clean:
            os.ftruncate(self._fd, self._used)
            self._clean = True


def _prepared(fd: int, path: Path) -> int:
    try:
        with contextlib.suppress(PermissionError):  # another user's file, but writable for us
            os.fchmod(fd, 0o600)
        return _mended(fd, path)
    except OSError:
        os.close(fd)
        raise


def _mended(fd: int, path: Path) -> int:
    """The size after cutting a last line without line feed, which was never acknowledged; it is kept aside."""
    size = os.fstat(fd).st_size
    keep = size
    while keep:
        block_start = max(0, keep - _BLOCK)
        block = os.pread(fd, keep - block_start, block_start)
        at = block.rfind(b"\n")
        if at >= 0:
            keep = block_start + at + 1
            break
        keep = block_start
    if keep < size:
        kept = keep_aside(path, os.pread(fd, size - keep, keep))
        os.ftruncate(fd, keep)
        log.warning("journal.tail_mended", path=str(path), torn_bytes=size - keep, kept_aside=kept)
    return keep


class _Stamped(msgspec.Struct):
    """The time of a record: an op's `timestamp`, or a decision's `at`."""

    timestamp: str = ""
    at: str = ""


def _first_s(fd: int) -> float:
    """When the file was begun, in seconds since the epoch: its first record's time, else its last modification."""
    try:
        first = msgspec.json.decode(os.pread(fd, _BLOCK, 0).partition(b"\n")[0], type=_Stamped)
        return datetime.fromisoformat(first.timestamp or first.at).timestamp()
    except (msgspec.MsgspecError, ValueError, OverflowError):  # also UnicodeDecodeError
        return os.fstat(fd).st_mtime
