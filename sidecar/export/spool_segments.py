"""The files of a spool: appended to one after the other, named by the logical offset at which each begins.

Offsets never begin anew. The newest segment of a former run is closed for good: a new run begins a new one.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from sidecar.export.frames import whole_until

log = structlog.get_logger(__name__)

_SUFFIX: Final = ".spool"


@dataclass(slots=True)
class Segment:
    """One file; offsets from *start* to *end*; *newest_ns* is when it was last appended to."""

    path: Path
    start: int
    size: int
    newest_ns: int

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.start + self.size


class SegmentWriter:
    """Appends to one new segment: whole, or nothing of it. All methods raise OSError."""

    def __init__(self, folder: Path, start: int, now_ns: int) -> None:
        path = folder / f"{start:020d}{_SUFFIX}"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._clean = True
        self.segment = Segment(path, start, 0, now_ns)
        self.opened_ns = now_ns

    def write(self, data: bytes) -> None:
        """Append *data*; the segment's size is the caller's to move."""
        if not self._clean:
            os.ftruncate(self._fd, self.segment.size)
        self._clean = False
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            with contextlib.suppress(OSError):  # the next write tries again, and fails if it cannot
                os.ftruncate(self._fd, self.segment.size)
                self._clean = True
            raise
        self._clean = True

    def sync(self) -> None:
        """Force it to the device."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Cut off what a failed write left, and close."""
        try:
            if not self._clean:
                os.ftruncate(self._fd, self.segment.size)
        finally:
            os.close(self._fd)


def segments_in(folder: Path) -> list[Segment]:
    """The segments in *folder*, oldest first; what a crash left half written is cut off the newest."""
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
