"""The files of a spool, written one after the other, each named by the logical offset at which it begins.

Offsets are never reused. A new run never appends to the previous run's last segment; it starts a new one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from sidecar.export.frames import Frame, frames, whole_until
from sidecar.open_place import OpenPlace

log = structlog.get_logger(__name__)

_SUFFIX: Final = ".spool"


@dataclass(slots=True)
class Segment:
    """One file that holds the offsets *start* to *end*; *newest_ns* is the time of its last append.

    *lost*: somebody removed the file, and what waited in it was counted.
    """

    path: Path
    start: int
    size: int
    newest_ns: int
    lost: bool = False

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.start + self.size


class SegmentWriter:
    """Appends to one new segment, each write all or nothing. All methods raise OSError."""

    def __init__(self, folder: Path, start: int, now_ns: int) -> None:
        path = folder / f"{start:020d}{_SUFFIX}"
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._clean = True
        self._place = OpenPlace(path, self._fd)
        self.segment = Segment(path, start, 0, now_ns)
        self.opened_ns = now_ns

    def write(self, data: bytes) -> None:
        """Append *data*. The caller updates the segment's size. FileGoneError if the segment is not at its path."""
        self._place.look()
        if not self._clean:
            os.ftruncate(self._fd, self.segment.size)
        self._clean = False
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            with contextlib.suppress(OSError):  # if it fails, the next write tries again
                os.ftruncate(self._fd, self.segment.size)
                self._clean = True
            raise
        self._clean = True

    def spans(self, start: int, until: int) -> int:
        """The spans between two logical offsets, also if the file was removed."""
        return sum(frame.spans for frame in frames(self._fd, start - self.segment.start, until - self.segment.start))

    def sync(self) -> None:
        """Force the data to the device."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Truncate what a failed write left, then close."""
        try:
            if not self._clean:
                os.ftruncate(self._fd, self.segment.size)
        finally:
            os.close(self._fd)


def frames_of(segment: Segment, start: int, until: int) -> Iterator[Frame]:
    """Yield the frames of *segment* between the logical offsets *start* and *until*. Raises OSError."""
    fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield from frames(fd, start - segment.start, until - segment.start)
    finally:
        os.close(fd)


def segments_in(folder: Path) -> list[Segment]:
    """The segments in *folder*, oldest first; truncates an incomplete record at the end of the newest."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = []
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        if path.stem.isdecimal():
            about = path.stat()
            found.append(Segment(path, int(path.stem), about.st_size, about.st_mtime_ns))
    if found:
        _mend(found[-1])
    return found


def _mend(segment: Segment) -> None:
    fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        until = whole_until(fd, segment.size)
        if until < segment.size:
            os.ftruncate(fd, until)
            log.warning("spool.tail_mended", path=str(segment.path), torn_bytes=segment.size - until)
            segment.size = until
    finally:
        os.close(fd)
